//! What goes wrong, and when.

use morph_spec::Rng;

/// Something that goes wrong; times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the coordinator; it is back after this time.
    CoordinatorDies { away: u64 },
    /// kill -9 of a node's agent, and its ranks with it; it is back after this time.
    AgentDies { node: usize, away: u64 },
    /// The agent is asked to end (SIGTERM), and started again after this time.
    AgentLeaves { node: usize, away: u64 },
    /// kill -9 of a rank, whichever the number hits.
    RankDies { which: u64 },
    /// A rank does nothing any more.
    RankHangs { which: u64 },
    /// SIGSTOP of an agent.
    AgentStops { node: usize, length: u64 },
    /// The link is down; `ways`: up, down.
    LinkDown { node: usize, ways: [bool; 2], length: u64 },
    /// The connection breaks, and nothing else.
    Break { node: usize },
    /// The object store fails.
    StoreDown { length: u64 },
    /// The coordinator's clock is set forward.
    ClockJumps { by: u64 },
    /// A node's agent is started a second time, elsewhere and from a copy of its home; or, when that was so already and one
    /// of the two was turned away, that one is started again. `journal`: when next there is something in its home that the
    /// coordinator has yet to hear.
    Twin { node: usize, journal: bool },
}

/// A second.
pub const SECOND: u64 = 1_000_000;

/// The next fault, and when it comes after the one before.
pub fn next(rng: &mut Rng, nodes: usize, pace: u64) -> (u64, Fault) {
    let node = rng.below(nodes as u64) as usize;
    let length = || [SECOND / 10, SECOND, 8 * SECOND, 40 * SECOND];
    let long = length()[rng.below(4) as usize];
    let length = 1 + rng.below(2 * long);
    let which = rng.next_u64();
    let fault = match rng.below(22) {
        0..=2 => Fault::CoordinatorDies { away: length },
        3..=5 => Fault::AgentDies { node, away: length },
        6 => Fault::AgentLeaves { node, away: length },
        7..=9 => Fault::RankDies { which },
        10 => Fault::RankHangs { which },
        11 | 12 => Fault::AgentStops { node, length },
        13 | 14 => Fault::LinkDown { node, ways: [true, true], length },
        15 => Fault::LinkDown { node, ways: [which & 1 == 0, which & 1 == 1], length },
        16 | 17 => Fault::Break { node },
        18 => Fault::StoreDown { length },
        19 => Fault::ClockJumps { by: length },
        _ => Fault::Twin { node, journal: which & 1 == 0 },
    };
    (1 + rng.below(2 * pace), fault)
}

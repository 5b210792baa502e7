//! What goes wrong, and when.

use morph_spec::Rng;

/// Something that goes wrong; times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the coordinator; it is back after this time.
    CoordinatorDies { away: u64 },
    /// The coordinator is stopped in order, as `--local` does: attempts stop with a checkpoint, agents leave; it is back
    /// after this time.
    CoordinatorDrains { away: u64 },
    /// kill -9 of a node's agent, and its ranks with it; it is back after this time.
    AgentDies { node: usize, away: u64 },
    /// The agent is asked to end (SIGTERM), and started again after this time.
    AgentLeaves { node: usize, away: u64 },
    /// kill -9 of a rank, whichever the number hits.
    RankDies { which: u64 },
    /// kill -9 of all ranks everywhere at once.
    AllRanksDie,
    /// A rank does nothing any more.
    RankHangs { which: u64 },
    /// SIGSTOP of an agent.
    AgentStops { node: usize, length: u64 },
    /// The link is down; `ways`: up, down.
    LinkDown { node: usize, ways: [bool; 2], length: u64 },
    /// The links of the nodes whose bits are set go down one by one, and heal in another order; all of it takes `length`.
    Swizzle { which: u64, length: u64 },
    /// The connection breaks, and nothing else.
    Break { node: usize },
    /// The object store fails.
    StoreDown { length: u64 },
    /// The clock of the coordinator's machine is set, forward or back.
    ClockJumps { by: i64 },
    /// A node's agent is started a second time, elsewhere and from a copy of its home; or, when that was so already and one
    /// of the two was turned away, that one is started again. `journal`: when next there is something in its home that the
    /// coordinator has yet to hear.
    Twin { node: usize, journal: bool },
    /// The database is backed up.
    BackedUp,
    /// The coordinator dies and its disk is lost; the last backup is restored, and it is back after this time. Agents and ranks
    /// know nothing of it.
    Restored { away: u64 },
    /// A rank's machine dies, and with it what its run has saved last and the disks had not: older checkpoints are left.
    CheckpointLost { which: u64 },
    /// Somebody's wish comes in the worst moment: the next one of its kind.
    Ambush(Ambush),
}

/// A wish that waits for its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambush {
    /// The run is cancelled while its gang writes a checkpoint.
    CancelSaving,
    /// It is paused then.
    PauseSaving,
    /// It is cancelled while its ranks start.
    CancelStarting,
    /// A run of higher priority comes while its ranks start.
    PreemptStarting,
}

/// A second.
pub const SECOND: u64 = 1_000_000;

impl Fault {
    /// Its name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::CoordinatorDies { .. } => "coordinator dies",
            Self::CoordinatorDrains { .. } => "coordinator drains",
            Self::AgentDies { .. } => "agent dies",
            Self::AgentLeaves { .. } => "agent leaves",
            Self::RankDies { .. } => "rank dies",
            Self::AllRanksDie => "all ranks die",
            Self::RankHangs { .. } => "rank hangs",
            Self::AgentStops { .. } => "agent stops",
            Self::LinkDown { ways: [true, true], .. } => "link down",
            Self::LinkDown { .. } => "link down one way",
            Self::Swizzle { .. } => "swizzle",
            Self::Break { .. } => "connection breaks",
            Self::StoreDown { .. } => "store down",
            Self::ClockJumps { .. } => "clock jumps",
            Self::Twin { .. } => "twin",
            Self::BackedUp => "backed up",
            Self::Restored { .. } => "restored",
            Self::CheckpointLost { .. } => "checkpoint lost",
            Self::Ambush(_) => "ambush",
        }
    }
}

/// What may go wrong in some lives only, so that the others go as they did before there was that, and what their seeds have shown can be
/// seen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dangers {
    /// The database may be lost and restored.
    backups: bool,
    /// Checkpoints may be lost.
    checkpoints: bool,
}

impl Dangers {
    /// Those of the life that follows from `seed`.
    pub fn of(seed: u64) -> Self {
        Self { backups: seed % 2 == 1, checkpoints: seed % 4 == 3 }
    }
}

/// The next fault, and when it comes after the one before.
pub fn next(rng: &mut Rng, nodes: usize, pace: u64, dangers: Dangers) -> (u64, Fault) {
    let Dangers { backups, checkpoints } = dangers;
    let node = rng.below(nodes as u64) as usize;
    let length = || [SECOND / 10, SECOND, 8 * SECOND, 40 * SECOND];
    let long = length()[rng.below(4) as usize];
    let length = 1 + rng.below(2 * long);
    let which = rng.next_u64();
    let ambushes = [Ambush::CancelSaving, Ambush::PauseSaving, Ambush::CancelStarting, Ambush::PreemptStarting];
    let fault = match rng.below(27 + u64::from(backups) + u64::from(checkpoints)) {
        0..=2 => Fault::CoordinatorDies { away: length },
        3 => Fault::CoordinatorDrains { away: length },
        4..=6 => Fault::AgentDies { node, away: length },
        7 => Fault::AgentLeaves { node, away: length },
        8..=10 => Fault::RankDies { which },
        11 => Fault::AllRanksDie,
        12 => Fault::RankHangs { which },
        13 | 14 => Fault::AgentStops { node, length },
        15 | 16 => Fault::LinkDown { node, ways: [true, true], length },
        17 => Fault::LinkDown { node, ways: [which & 1 == 0, which & 1 == 1], length },
        18 => Fault::Swizzle { which, length },
        19 | 20 => Fault::Break { node },
        21 => Fault::StoreDown { length },
        22 => {
            let by = (length * if which & 2 == 0 { 1 } else { 100 }) as i64;
            Fault::ClockJumps { by: if which & 1 == 0 { by } else { -by } }
        }
        23 | 24 => Fault::Twin { node, journal: which & 1 == 0 },
        25 if backups && which & 1 == 0 => Fault::BackedUp,
        25 if backups => Fault::Restored { away: length },
        28 => Fault::CheckpointLost { which },
        _ => Fault::Ambush(ambushes[(which % 4) as usize]),
    };
    (1 + rng.below(2 * pace), fault)
}

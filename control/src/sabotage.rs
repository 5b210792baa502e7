//! Mechanisms that can be broken on purpose, one at a time and in one thread, to show that the simulator notices. Without the
//! feature `sabotage`, which no program enables, nothing of this is in the code.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// What is said under an old attempt changes nothing.
    Fence,
    /// A gang is placed whole or not at all.
    WholeGangs,
    /// A slot that is taken is not free.
    SlotCounts,
    /// Ranks that do not stop in time are killed.
    StopEscalation,
    /// A run goes on from its newest checkpoint.
    NewestCheckpoint,
    /// A checkpoint that is gone is struck, and the run goes on from the one before.
    LostCheckpoints,
    /// What was not acknowledged is sent again.
    Resend,
    /// What was sent under a number never changes.
    SealedReports,
    /// An agent's disk knows what its coordinator has not heard.
    Journal,
    /// A rank that has ended is not started again.
    EndedRanks,
    /// A rank that hangs is killed.
    Watchdog,
    /// Nobody hears of what is not durable.
    DurableFirst,
    /// An agent that was replaced by another with its id does not join again.
    ReplacedAgents,
    /// Of two processes that speak as one incarnation, started from copies of one home, only the newer is heard.
    OneProcess,
    /// Numbers under which a copy of an agent spoke are not taken for those of the agent itself.
    Lineage,
    /// A snapshot gives the state that its events give.
    Snapshot,
}

#[cfg(feature = "sabotage")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mechanism>> = const { std::cell::Cell::new(None) };
}

/// Breaks `mechanism`, and mends whatever was broken before; in this thread.
#[cfg(feature = "sabotage")]
pub fn break_only(mechanism: Option<Mechanism>) {
    BROKEN.set(mechanism);
}

/// Whether `mechanism` is broken.
#[cfg(feature = "sabotage")]
pub fn is_broken(mechanism: Mechanism) -> bool {
    BROKEN.get() == Some(mechanism)
}

/// Never.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is_broken(_: Mechanism) -> bool {
    false
}

//! The core: what datasets, runs, sweeps, attempts and workers are, and what happens to them. No clock, no I/O, no
//! randomness but what is passed in, so that a simulation can repeat every step of it.
//!
//! Three functions are everything: [`decide`] says what a [`Command`] makes happen, [`evolve`] makes it so, [`react`] says
//! what to do about it. [`apply`] joins the first two and settles what follows from them.
//!
//! Contract (each a predicate in [`invariants`]):
//! 1. A slot belongs to at most one attempt, and a gang is placed whole or not at all.
//! 2. History only grows: checkpoints are added, attempts are counted up, an ended run stays ended.
//! 3. What is said under any attempt but the newest changes nothing.
//! 4. Folding the events of [`apply`] gives the state that it left.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
mod clock;
mod command;
mod decide;
mod effect;
mod event;
mod evolve;
mod find;
mod fit;
pub mod goodput;
mod index;
pub mod invariants;
pub mod leases;
pub mod placement;
mod policy;
mod run;
pub mod sabotage;
pub mod schedule;
pub mod search;
pub mod snapshot;
mod state;
pub mod test_use;
#[cfg(test)]
mod tests;

pub use clock::{Clock, WasSet};
pub use command::{Command, Hello, Refusal, Report, Target};
pub use decide::{apply, decide, next_deadline};
pub use effect::{Effect, orders, react};
pub use event::{Event, Next, What};
pub use evolve::evolve;
pub use find::{find, find_run, find_sweep, find_worker, quoted};
pub use fit::fits;
pub use policy::{Policy, Project};
pub use run::{Attempt, Cause, Checkpoint, Crash, Exit, Outcome, Past, Rank, RankState, Run, RunState, Stop, WHOLE};
pub use state::{Cluster, Cordon, Dataset, Submission, Sweep, SweepEnd, Worker, WorkerState};

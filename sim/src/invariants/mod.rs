//! What must hold whatever fails; one file each. What the core promises of its own state
//! ([`morph_control::invariants`]) is asked after every single command besides.

pub mod away;
pub mod durable;
pub mod fence;
pub mod history;
pub mod journal;
pub mod progress;
pub mod slots;
pub mod twins;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use morph_control::{Cluster, Command, Event, Refusal, What, agent::Key};
use morph_spec::Fence;

use crate::{coordinator::Disk, mail::Mail};

/// What really happened, seen from outside.
#[derive(Debug, Default)]
pub struct Truth {
    /// Keys of submissions that were accepted, and the client knows.
    submitted: BTreeSet<String>,
    /// What each life of each node's agent has sent, by number, until it was acknowledged.
    sent: BTreeMap<(usize, u64), BTreeMap<u64, Mail>>,
    /// Ranks whose processes were ever started.
    started: BTreeSet<Key>,
    /// Attempts that a fault has struck.
    disturbed: BTreeSet<Fence>,
    /// Since when the coordinator is away, and the gangs that trained then.
    away: Option<(u64, Vec<Fence>)>,
    /// A checkpoint that was to be resumed from and was not there, though nobody may have removed it.
    missing: Option<String>,
    /// Checkpoints that a fault took, or a rank of a history that is lost, and their steps.
    taken: BTreeMap<String, u64>,
    /// Checkpoints that ranks removed, as retention lets them, since newer ones were recorded; and their steps.
    expired: BTreeMap<String, u64>,
    /// What an agent said or kept and should not have.
    unlike: Option<String>,
    /// Attempts of a history that is lost: the database was restored from a backup of before them.
    lost: BTreeSet<Fence>,
    /// Those, and the ones that were there at the backup already: their ranks go by what the lost history told them.
    outlived: BTreeSet<Fence>,
    log: Log,
}

/// What the durable events say, read as they come.
#[derive(Debug, Default)]
struct Log {
    read: usize,
    checkpoints: BTreeSet<String>,
    ended: BTreeSet<Fence>,
}

impl Log {
    fn catch_up(&mut self, events: &[Event]) {
        for event in &events[self.read..] {
            match &event.what {
                What::CheckpointCommitted { checkpoint, .. } => {
                    self.checkpoints.insert(checkpoint.url.clone());
                }
                // What a rank that counts as lost still says is void.
                What::AttemptEnded { fence, .. } | What::RankExited { fence, rank: 0, .. } => {
                    self.ended.insert(*fence);
                }
                _ => {}
            }
        }
        self.read = events.len();
    }
}

impl Truth {
    /// The client has an answer.
    pub fn answered(&mut self, command: &Command, answer: &Result<(), Refusal>) {
        if let (Command::SubmitRun { key, .. } | Command::SubmitSweep { key, .. }, Ok(())) = (command, answer) {
            self.submitted.insert(key.clone());
        }
    }

    /// A disk with the events `lost` was replaced by a backup with the events `kept`: what was acknowledged since counts no more.
    pub fn restored(&mut self, lost: &[Event], kept: &[Event]) {
        let key = |event: &Event| match &event.what {
            What::RunSubmitted { key, .. } => key.clone(),
            What::SweepSubmitted { key, .. } => Some(key.clone()),
            _ => None,
        };
        let known: BTreeSet<String> = kept.iter().filter_map(key).collect();
        self.submitted.retain(|key| known.contains(key));
        let placed = |events: &[Event]| -> Vec<Fence> {
            let fence = |event: &Event| match &event.what {
                What::RunPlaced { fence, .. } => Some(*fence),
                _ => None,
            };
            events.iter().filter_map(fence).collect()
        };
        self.lost.extend(placed(&lost[kept.len().min(lost.len())..]));
        self.outlived.extend(placed(lost));
        self.log = Log::default();
    }

    /// A fault has struck an attempt.
    pub fn disturbed(&mut self, fence: Fence) {
        self.disturbed.insert(fence);
    }

    /// A fault has taken a checkpoint.
    pub fn taken(&mut self, url: String, step: u64) {
        self.taken.insert(url, step);
    }

    /// A rank of `fence` removes a checkpoint as retention lets it, going by what a coordinator has said.
    pub fn removed(&mut self, fence: Fence, url: String, step: u64) {
        let removed = if self.outlived.contains(&fence) { &mut self.taken } else { &mut self.expired };
        removed.insert(url, step);
    }

    /// A rank did not find the checkpoint that it was told to go on from.
    pub fn missing(&mut self, url: &str) {
        // Where a newer one was taken, the run comes back to what had expired by that one.
        let run = &url[..=url.rfind('/').unwrap_or(0)];
        let of_run = self.taken.range(run.to_owned()..).take_while(|(taken, _)| taken.starts_with(run));
        let newest_taken = of_run.map(|(_, step)| *step).max();
        let excused =
            self.taken.contains_key(url) || self.expired.get(url).is_some_and(|step| newest_taken > Some(*step));
        if !excused {
            self.missing.get_or_insert_with(|| url.to_owned());
        }
    }
}

/// What the log says, at any time.
///
/// # Errors
/// The invariant that is broken, and how.
pub fn of_log(disk: &Disk) -> Result<(), String> {
    fence::log(&disk.events)?;
    twins::log(&disk.events)
}

/// When everything is over.
///
/// # Errors
/// The invariant that is broken, and how.
pub fn at_the_end(cluster: Option<&Cluster>, disk: &Disk, truth: &Truth) -> Result<(), String> {
    let cluster = cluster.ok_or("progress: there is no coordinator")?;
    durable::restarted(cluster, truth)?;
    journal::kept(truth)?;
    of_log(disk)?;
    progress::ended(cluster)?;
    slots::released(cluster)?;
    weights::right(cluster, truth)?;
    history::whole(cluster, disk)
}

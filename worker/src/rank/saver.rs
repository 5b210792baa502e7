//! Checkpoints are written in the background, one at a time, and old ones removed when newer ones are on record.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use morph_checkpoint::{
    Snapshot,
    retention::{self, Kept},
};
use morph_objects::Objects;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    rank::{events::Events, failure::Failure},
    wire::{Committed, Event},
};

/// One checkpoint that this run has, as this rank knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    kept: Kept,
    /// The coordinator has it on record.
    recorded: bool,
}

/// What a checkpoint is saved for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Occasion {
    /// Validation score of the epoch that just ended.
    pub score: Option<f64>,
    /// Whether it is the best so far.
    pub best: bool,
}

/// Writes checkpoints of one attempt. Only rank 0 has one.
#[derive(Debug)]
pub struct Saver {
    runtime: Handle,
    folder: Objects,
    attempt: u32,
    keep_last: u32,
    known: Arc<Mutex<Vec<Known>>>,
    events: Arc<Events>,
    running: Option<JoinHandle<Result<(), Failure>>>,
}

impl Saver {
    /// Saves into `folder`. `older` are recorded checkpoints of earlier attempts, which retention may remove.
    pub fn new(
        runtime: Handle,
        folder: Objects,
        attempt: u32,
        keep_last: u32,
        older: Vec<Kept>,
        events: Arc<Events>,
    ) -> Self {
        let known = older.into_iter().map(|kept| Known { kept, recorded: true }).collect();
        Self { runtime, folder, attempt, keep_last, known: Arc::new(Mutex::new(known)), events, running: None }
    }

    /// The name of the checkpoint of `step`: unique over attempts, and in order.
    pub fn name(&self, step: u64) -> String {
        format!("step-{step:08}-a{}", self.attempt)
    }

    /// The URL that the manifest of `step`'s checkpoint will have.
    pub fn url(&self, step: u64) -> String {
        self.folder.at(&self.name(step)).url_of(morph_checkpoint::MANIFEST)
    }

    /// Begins to write `snapshot`, after the one before is complete.
    ///
    /// # Errors
    /// When writing the one before failed.
    pub fn save(&mut self, snapshot: Snapshot, occasion: Occasion) -> Result<(), Failure> {
        while !self.finished(Duration::from_secs(1))? {}
        let (folder, name, keep_last) = (self.folder.clone(), self.name(snapshot.state.step), self.keep_last);
        let (known, events) = (Arc::clone(&self.known), Arc::clone(&self.events));
        self.running = Some(self.runtime.spawn(async move {
            let saved = morph_checkpoint::save(&folder, &name, &snapshot).await?;
            let state = &snapshot.state;
            tracing::info!(step = state.step, epoch = state.epoch, bytes = saved.bytes, "saved {}", saved.url);
            let kept = Kept { url: saved.url.clone(), step: state.step, best: occasion.best };
            known.lock().unwrap_or_else(PoisonError::into_inner).push(Known { kept, recorded: false });
            events.say(&Event::Checkpoint(Committed {
                url: saved.url,
                digest: saved.digest.to_string(),
                step: state.step,
                epoch: state.epoch,
                bytes: saved.bytes,
                score: occasion.score,
                best: occasion.best,
                at: crate::now().0,
            }));
            prune(&known, keep_last).await;
            Ok(())
        }));
        Ok(())
    }

    /// Whether nothing is being written any more; waits at most `wait`.
    ///
    /// # Errors
    /// When writing failed.
    pub fn finished(&mut self, wait: Duration) -> Result<bool, Failure> {
        let Some(running) = &mut self.running else { return Ok(true) };
        let done = self.runtime.block_on(async { tokio::time::timeout(wait, running).await });
        match done {
            Err(_) => Ok(false),
            Ok(result) => {
                self.running = None;
                result.map_err(|e| Failure::Infra(format!("write a checkpoint: {e}")))?.map(|()| true)
            }
        }
    }

    /// Removes what newer records made superfluous, at the end.
    pub fn tidy(&self) {
        self.runtime.block_on(prune(&self.known, self.keep_last));
    }

    /// The coordinator has recorded the checkpoint of `step`.
    pub fn recorded(&self, step: u64) {
        for known in
            self.known.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().filter(|k| k.kept.step == step)
        {
            known.recorded = true;
        }
    }
}

/// Removes checkpoints that are no longer needed. What stays behind costs space, not correctness.
async fn prune(known: &Mutex<Vec<Known>>, keep_last: u32) {
    let gone = expire(&mut known.lock().unwrap_or_else(PoisonError::into_inner), keep_last);
    for url in gone {
        match morph_checkpoint::remove(&url).await {
            Ok(()) => tracing::debug!("removed {url}"),
            Err(e) => tracing::warn!("an old checkpoint could not be removed: {e}"),
        }
    }
}

/// Takes out of `known` what may be removed: among the recorded ones, all but the newest `keep_last` and the newest best.
fn expire(known: &mut Vec<Known>, keep_last: u32) -> Vec<String> {
    let best = known.iter().filter(|k| k.recorded && k.kept.best).map(|k| k.kept.step).max();
    let recorded: Vec<Kept> = known
        .iter()
        .filter(|k| k.recorded)
        .map(|k| Kept { best: k.kept.best && Some(k.kept.step) == best, ..k.kept.clone() })
        .collect();
    let gone = retention::expired(&recorded, keep_last);
    known.retain(|k| !gone.contains(&k.kept.url));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(step: u64, best: bool, recorded: bool) -> Known {
        Known { kept: Kept { url: step.to_string(), step, best }, recorded }
    }

    #[test]
    fn nothing_goes_before_something_newer_is_on_record() {
        let mut all = vec![known(1, false, true), known(2, false, false), known(3, false, false)];
        assert!(expire(&mut all, 1).is_empty());
        all[2].recorded = true;
        assert_eq!(expire(&mut all, 1), ["1"]);
        assert_eq!(all.len(), 2, "what is not on record stays, and is not asked about again: {all:?}");
    }

    #[test]
    fn the_best_stays_until_a_better_one_is_on_record() {
        let mut all = vec![known(1, true, true), known(2, false, true), known(3, true, false), known(4, false, true)];
        assert_eq!(expire(&mut all, 1), ["2"]);
        all[1].recorded = true;
        assert_eq!(expire(&mut all, 1), ["1"]);
    }
}

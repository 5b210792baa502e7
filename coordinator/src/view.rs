//! The core's state in the words of the wire.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use morph_control::{
    Attempt, Cause, Checkpoint, Cluster, Cordon, Dataset, Past, Run, RunState, Sweep, SweepEnd, Worker, WorkerState,
    goodput::{Goodput, Ledger, Reported},
    leases::Leases,
    schedule::Reasons,
    test_use::{Choice, Place, TestUse},
};
use morph_proto::v1;
use morph_spec::{RunId, Timestamp, sweep::Goal};

use crate::{auth::Principal, core::preparing::What, store::Point};

/// What is known of a run that is not history: gone with the process, and no harm done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Live {
    /// Last step reported.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u32,
    /// Over all ranks.
    pub images_per_second: f64,
    /// Newest value of each metric and its step.
    pub latest: BTreeMap<String, (u64, f64)>,
    /// Where its time went, as its events tell.
    pub ledger: Ledger,
    /// Seconds that its rank 0 reported.
    pub reported: Reported,
}

impl Live {
    /// Takes a point of a metric in. A step that is done again reports again: the first time counts, as in the database.
    pub fn point(&mut self, p: &Point) {
        let newest = self.latest.get(&p.name).map(|(step, _)| *step);
        if newest.is_none_or(|step| p.step > step) {
            self.seconds(&p.name, p.value);
        }
        if newest.is_none_or(|step| p.step >= step) {
            self.latest.insert(p.name.clone(), (p.step, p.value));
        }
        self.step = self.step.max(p.step);
    }

    /// Adds seconds that rank 0 reported under the name of a metric.
    pub fn seconds(&mut self, name: &str, seconds: f64) {
        match name {
            "perf/data_seconds" => self.reported.data += seconds,
            "perf/checkpoint_seconds" => self.reported.checkpointing += seconds,
            "perf/validation_seconds" | "perf/scoring_seconds" => self.reported.evaluating += seconds,
            _ => {}
        }
    }

    /// Where its time went up to `now`.
    pub fn goodput(&self, now: Timestamp) -> Goodput {
        self.ledger.at(now, self.reported)
    }
}

/// Seconds by class.
fn time(goodput: &Goodput) -> HashMap<String, f64> {
    let some = goodput.classes().into_iter().filter(|(_, d)| !d.is_zero());
    some.map(|(class, d)| (class.to_owned(), d.as_secs_f64())).collect()
}

/// Everything that a message may need.
#[derive(Debug)]
pub struct View<'a> {
    /// The state.
    pub cluster: &'a Cluster,
    /// By run.
    pub live: &'a BTreeMap<RunId, Live>,
    /// Datasets that are being prepared.
    pub leases: &'a Leases<What>,
    /// What time it is.
    pub now: Timestamp,
    /// Why queued runs wait; found out when somebody asks.
    pub reasons: RefCell<Option<Reasons<'a>>>,
    /// When each worker was heard last.
    pub last_seen: &'a BTreeMap<morph_spec::WorkerId, Timestamp>,
    /// Agents with an open session.
    pub connected: usize,
    /// Nobody serves: runs that are not over stand still.
    pub read_only: bool,
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("invariant: documents are JSON")
}

impl<'a> View<'a> {
    /// A run; `whole`: with what lists leave out.
    pub fn run(&self, run: &'a Run, whole: bool) -> v1::Run {
        let live = self.live.get(&run.id).cloned().unwrap_or_default();
        let time = if whole { time(&live.goodput(self.now)) } else { HashMap::new() };
        let newest = run.newest_checkpoint();
        let mut attempts = Vec::new();
        let mut checkpoints = Vec::new();
        if whole {
            attempts.extend(run.past.iter().map(past));
            attempts.extend(run.attempt().map(attempt));
            checkpoints.extend(run.checkpoints.iter().map(checkpoint));
        }
        v1::Run {
            id: run.id.to_string(),
            name: run.name.clone(),
            sweep: run.sweep.map(|s| s.to_string()).unwrap_or_default(),
            state: state(run).into(),
            reason: self.reason(run),
            experiment_json: if whole { json(&*run.experiment) } else { String::new() },
            params_json: json(&run.params),
            attempt: run.attempts,
            step: live.step.max(newest.map_or(0, |c| c.step)),
            total_steps: run.total_steps,
            epoch: live.epoch.max(newest.map_or(0, |c| c.epoch)),
            images_per_second: if matches!(run.state, RunState::Running { .. }) { live.images_per_second } else { 0.0 },
            created_at: run.created_at.0,
            started_at: run.started_at.map_or(0, |t| t.0),
            ended_at: run.ended_at().map_or(0, |t| t.0),
            error: match &run.state {
                RunState::Failed { error, .. } => error.clone(),
                // What an earlier attempt died of stands with the attempts.
                RunState::Succeeded { .. } | RunState::Cancelled { .. } => String::new(),
                _ => run.last_error.clone().unwrap_or_default(),
            },
            summary: run.summary.clone().into_iter().collect(),
            latest: live.latest.into_iter().map(|(name, (_, value))| (name, value)).collect(),
            summary_json: if whole { run.summary_json.clone() } else { String::new() },
            attempts,
            checkpoints,
            artifacts: run.artifacts.clone(),
            time,
            world_size: run.attempt().map_or(run.width(), |a| a.ranks.len() as u32),
            project: run.experiment.scheduling.project.clone(),
            priority: self.cluster.priority(run),
            dataset: run.dataset.to_string(),
        }
    }

    fn reason(&self, run: &'a Run) -> String {
        if self.read_only && !run.is_over() {
            return "nobody serves this home: it goes on with the same command, or when a coordinator starts".into();
        }
        match &run.state {
            RunState::Queued { .. } => {
                let mut reasons = self.reasons.borrow_mut();
                reasons.get_or_insert_with(|| Reasons::new(self.cluster, self.now)).of(run)
            }
            RunState::Starting { attempt } => {
                let ready = attempt.ranks.iter().filter(|r| matches!(r.state, morph_control::RankState::Ready)).count();
                format!("{ready} of {} ranks are ready", attempt.ranks.len())
            }
            RunState::Running { .. } | RunState::Succeeded { .. } => String::new(),
            RunState::Stopping { stop, .. } => match stop.cause {
                Cause::Failure => format!("stopping its other ranks: {}", stop.reason),
                Cause::Cancel | Cause::Drain | Cause::Pause | Cause::Preempt | Cause::TimeLimit => stop.reason.clone(),
            },
            RunState::Paused { .. } => format!("paused: morphctl resume {}", run.name),
            RunState::Failed { error, .. } => error.clone(),
            RunState::Cancelled { .. } => "cancelled".into(),
        }
    }

    /// A sweep; `whole`: with its document, which lists and watches leave out.
    pub fn sweep(&self, sweep: &Sweep, whole: bool) -> v1::Sweep {
        let runs = sweep.runs.iter().filter_map(|id| self.cluster.runs.get(id));
        let count = |which: fn(&RunState) -> bool| runs.clone().filter(|r| which(&r.state)).count() as u32;
        let best = sweep.best(self.cluster);
        let mut goodput = Goodput::default();
        sweep.runs.iter().filter_map(|id| self.live.get(id)).for_each(|l| goodput.add(&l.goodput(self.now)));
        let failed = count(|s| matches!(s, RunState::Failed { .. }));
        v1::Sweep {
            id: sweep.id.to_string(),
            name: sweep.name.clone(),
            state: match sweep.end {
                None if sweep.paused => v1::SweepState::Paused,
                None => v1::SweepState::Running,
                Some(SweepEnd::Succeeded) => v1::SweepState::Succeeded,
                Some(SweepEnd::Failed) => v1::SweepState::Failed,
                Some(SweepEnd::Cancelled) => v1::SweepState::Cancelled,
            }
            .into(),
            sweep_json: if whole { json(&*sweep.spec) } else { String::new() },
            metric: sweep.spec.metric.name.clone(),
            time: time(&goodput),
            goal: match sweep.spec.metric.goal {
                Goal::Maximize => "maximize".into(),
                Goal::Minimize => "minimize".into(),
            },
            total: sweep.runs.len() as u32,
            queued: count(|s| matches!(s, RunState::Queued { .. })),
            running: count(|s| {
                matches!(s, RunState::Starting { .. } | RunState::Running { .. } | RunState::Stopping { .. })
            }),
            succeeded: count(|s| matches!(s, RunState::Succeeded { .. })),
            failed,
            cancelled: count(|s| matches!(s, RunState::Cancelled { .. })),
            best_run: best.map(|(run, _)| run.to_string()).unwrap_or_default(),
            best_value: best.map(|(_, value)| value),
            created_at: sweep.created_at.0,
            ended_at: sweep.ended_at.map_or(0, |t| t.0),
            paused: count(|s| matches!(s, RunState::Paused { .. })),
            reason: match (sweep.end, &sweep.halted) {
                (_, Some(why)) => format!("stopped: {why}"),
                (Some(SweepEnd::Failed), _) => format!("{failed} of {} runs failed", sweep.runs.len()),
                (Some(SweepEnd::Cancelled), _) => "cancelled".into(),
                (None, _) if sweep.paused => format!("paused: morphctl resume {}", sweep.name),
                _ => String::new(),
            },
        }
    }

    /// A worker; `who` is told nothing of runs of other projects.
    pub fn worker(&self, worker: &Worker, who: &Principal) -> v1::Worker {
        let seen = |run: &&Run| who.may_touch(&run.experiment.scheduling.project);
        let cordoned = |cordon: &Cordon| match cordon {
            // The circuit breaker names runs of whatever project, and what they died of.
            Cordon { automatic: true, .. } if who.project.is_some() => "runs failed here".to_owned(),
            Cordon { reason, .. } => reason.clone(),
        };
        v1::Worker {
            id: worker.id.to_string(),
            host: worker.host.clone(),
            slots: worker.slots,
            used: self.cluster.used(worker.id),
            state: match worker.state {
                WorkerState::Ready if worker.leaving => "leaving",
                WorkerState::Ready => "ready",
                WorkerState::Away { .. } => "away",
                WorkerState::Lost => "lost",
                WorkerState::Left => "left",
            }
            .into(),
            last_seen: self.last_seen.get(&worker.id).map_or(0, |t| t.0),
            version: worker.version.clone(),
            runs: self.cluster.runs_on(worker.id).filter(seen).map(|r| r.id.to_string()).collect(),
            joined_at: worker.joined_at.0,
            cordoned: worker.cordoned.as_ref().map(cordoned).unwrap_or_default(),
            labels: worker.labels.clone().into_iter().collect(),
            memory: worker.memory,
            cached: worker.cached.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The state of a run.
fn state(run: &Run) -> v1::RunState {
    match run.state {
        RunState::Queued { .. } => v1::RunState::Queued,
        RunState::Paused { .. } => v1::RunState::Paused,
        RunState::Starting { .. } => v1::RunState::Starting,
        RunState::Running { .. } => v1::RunState::Running,
        RunState::Stopping { .. } => v1::RunState::Stopping,
        RunState::Succeeded { .. } => v1::RunState::Succeeded,
        RunState::Failed { .. } => v1::RunState::Failed,
        RunState::Cancelled { .. } => v1::RunState::Cancelled,
    }
}

/// A dataset; `whole`: with its manifest.
pub fn dataset(dataset: &Dataset, whole: bool) -> v1::Dataset {
    v1::Dataset {
        name: dataset.name.clone(),
        url: dataset.url.clone(),
        digest: dataset.digest.to_string(),
        manifest_json: if whole { json(&dataset.manifest) } else { String::new() },
        samples: dataset.manifest.samples(),
        bytes: dataset.manifest.bytes(),
        registered_at: dataset.at.0,
    }
}

/// How a test set was used; sweeps of projects that `may` not be seen are counted and not named.
pub fn test_set(cluster: &Cluster, test: &TestUse, may: impl Fn(&str) -> bool) -> v1::TestSet {
    let choice = |c: &Choice| {
        let sweep = cluster.sweeps.get(&c.sweep);
        let seen = sweep.filter(|s| s.spec.experiment.iter().all(|e| may(&e.scheduling.project)));
        v1::Choice {
            sweep: seen.map(|s| s.id.to_string()).unwrap_or_default(),
            name: seen.map(|s| s.name.clone()).unwrap_or_default(),
            metric: seen.map(|s| s.spec.metric.name.clone()).unwrap_or_default(),
            runs: c.runs,
        }
    };
    let (dataset, name, url) = match &test.place {
        Place::Elsewhere(url) => (String::new(), String::new(), url.clone()),
        Place::Known(digest) => {
            let known = cluster.datasets.get(digest);
            let (name, url) = known.map(|d| (d.name.clone(), d.url.clone())).unwrap_or_default();
            (digest.to_string(), name, url)
        }
    };
    v1::TestSet {
        dataset,
        name,
        url,
        split: test.split.clone(),
        scored: test.scored,
        rescored: test.rescored,
        choices: test.choices.iter().map(choice).collect(),
    }
}

/// A checkpoint.
pub fn checkpoint(c: &Checkpoint) -> v1::Checkpoint {
    v1::Checkpoint {
        url: c.url.clone(),
        digest: c.digest.to_string(),
        step: c.step,
        epoch: c.epoch,
        attempt: c.attempt,
        bytes: c.bytes,
        score: c.score,
        best: c.best,
        at: c.at.0,
    }
}

fn placement(workers: impl Iterator<Item = morph_spec::WorkerId>) -> Vec<v1::Placement> {
    workers.enumerate().map(|(rank, worker)| v1::Placement { rank: rank as u32, worker: worker.to_string() }).collect()
}

fn past(past: &Past) -> v1::Attempt {
    v1::Attempt {
        attempt: past.number,
        ranks: placement(past.ranks.iter().copied()),
        placed_at: past.placed_at.0,
        ended_at: past.ended_at.0,
        outcome: past.outcome.word().into(),
        error: past.error.clone(),
        version: past.version.clone(),
    }
}

fn attempt(attempt: &Attempt) -> v1::Attempt {
    v1::Attempt {
        attempt: attempt.number,
        ranks: placement(attempt.ranks.iter().map(|r| r.worker)),
        placed_at: attempt.placed_at.0,
        ended_at: 0,
        outcome: String::new(),
        error: String::new(),
        version: attempt.version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use morph_control::{Event, Policy, evolve};

    use super::*;
    use crate::auth::Scope;

    #[test]
    fn a_worker_tells_nothing_of_runs_that_may_not_be_seen() {
        let mut cluster = Cluster::new(Policy::default());
        for line in include_str!("../../control/tests/golden/events.jsonl").lines() {
            let event = Event::from_json(line).unwrap();
            if event.kind() != "worker_forgotten" {
                evolve(&mut cluster, &event);
            }
        }
        let mut worker = cluster.workers.values().next().unwrap().clone();
        let told = |worker: &Worker, project: Option<&str>| {
            let view = View {
                cluster: &cluster,
                live: &BTreeMap::new(),
                leases: &Leases::new(Timestamp(0)),
                now: Timestamp(0),
                reasons: RefCell::new(None),
                last_seen: &BTreeMap::new(),
                connected: 0,
                read_only: false,
            };
            let who = Principal { name: "who".into(), scope: Scope::Read, project: project.map(str::to_owned) };
            view.worker(worker, &who).cordoned
        };
        let by = |reason: &str, automatic| Cordon { reason: reason.into(), automatic, at: Timestamp(0) };
        worker.cordoned = Some(by("3 runs failed here in a row (secret, …)", true));
        // Runs that have got further there since, and are held against it no more, are still named.
        worker.strikes.clear();
        assert!(told(&worker, None).contains("secret"));
        assert_eq!(told(&worker, Some("another")), "runs failed here");
        worker.cordoned = Some(by("new fans", false));
        assert_eq!(told(&worker, Some("another")), "new fans");
    }
}

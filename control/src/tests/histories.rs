//! Random histories: no order of events breaks an invariant, and when faults stop every run ends.

use morph_spec::RunId;
use proptest::prelude::*;

use super::*;
use crate::{Cause, snapshot::Restore};

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Restart,
    Restore(bool),
    Hello(u64, bool),
    Away(u64, bool),
    Run(u32, u8),
    Sweep,
    Cancel(usize),
    Pause(usize),
    Resume(usize),
    Retry(usize),
    OfSweep(u8),
    Cordon(u64, bool),
    Uncordon(u64),
    Drain,
    Ready(usize, usize),
    Store(usize),
    Save(usize, u64, bool),
    Evaluated(usize),
    Exit(usize, usize, u8),
    Stale(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..40_000).prop_map(Step::Pass),
        Just(Step::Restart),
        any::<bool>().prop_map(Step::Restore),
        (1u64..4, any::<bool>()).prop_map(|(w, fresh)| Step::Hello(w, fresh)),
        (1u64..4, any::<bool>()).prop_map(|(w, clean)| Step::Away(w, clean)),
        (1u32..4, any::<u8>()).prop_map(|(width, how)| Step::Run(width, how)),
        Just(Step::Sweep),
        (0usize..6).prop_map(Step::Cancel),
        (0usize..6).prop_map(Step::Pause),
        (0usize..6).prop_map(Step::Resume),
        (0usize..6).prop_map(Step::Retry),
        (0u8..4).prop_map(Step::OfSweep),
        (1u64..4, any::<bool>()).prop_map(|(w, drain)| Step::Cordon(w, drain)),
        (1u64..4).prop_map(Step::Uncordon),
        Just(Step::Drain),
        (0usize..6, 0usize..3).prop_map(|(r, rank)| Step::Ready(r, rank)),
        (0usize..6).prop_map(Step::Store),
        (0usize..6, 1u64..50, any::<bool>()).prop_map(|(r, s, b)| Step::Save(r, s, b)),
        (0usize..6).prop_map(Step::Evaluated),
        (0usize..6, 0usize..3, 0u8..7).prop_map(|(r, rank, e)| Step::Exit(r, rank, e)),
        (0usize..6, 0u8..6).prop_map(|(r, e)| Step::Stale(r, e)),
    ];
    prop::collection::vec(step, 1..80)
}

fn exit(n: u8) -> Exit {
    use Exit::{Crashed, Infra, Lost, NoCheckpoint, PeerLost, Stopped, Succeeded, User};
    [Succeeded, Stopped, PeerLost, Lost, Infra, Crashed, NoCheckpoint, User][usize::from(n % 8)]
}

impl World {
    fn take(&mut self, step: &Step, n: usize) {
        let runs: Vec<RunId> = self.cluster.order.clone();
        let run = |i: &usize| runs.get(*i).copied();
        let report = |w: &mut Self, i: &usize, rank: usize, report: Report| {
            let Some(fence) = run(i).map(|r| w.fence(r)) else { return };
            let Some(worker) = w.cluster.attempt(fence).and_then(|a| a.ranks.get(rank)).map(|r| r.worker) else {
                return;
            };
            w.tell(Command::Report { worker, fence, report }).unwrap();
        };
        match step {
            Step::Pass(ms) => self.pass(*ms),
            Step::Restart => drop(self.tell(Command::Start).unwrap()),
            Step::Restore(lose) => {
                let open = self.cluster.runs.values().filter(|r| *lose && !r.is_done());
                let gone = open.flat_map(|r| r.checkpoints.iter().step_by(2)).map(|c| c.url.clone()).collect();
                let wall = self.now;
                drop(self.tell(Command::Restore { gone, wall }).unwrap());
            }
            Step::Hello(who, fresh) => {
                let id = worker(*who);
                let known = self.cluster.workers.get(&id).map_or_else(|| "a".to_owned(), |w| w.incarnation.clone());
                let incarnation = if *fresh { format!("{n}") } else { known };
                let here = |a: &crate::Attempt| a.ranks.iter().any(|r| r.worker == id && r.is_live());
                let live = if *fresh {
                    Vec::new()
                } else {
                    self.cluster.live().filter(|(_, a)| here(a)).map(|(f, _)| f).collect()
                };
                self.hello(*who, 2, &incarnation, live);
            }
            Step::Away(who, clean) => {
                let id = worker(*who);
                let incarnation = self.cluster.workers.get(&id).map_or_else(String::new, |w| w.incarnation.clone());
                self.tell(Command::WorkerAway { worker: id, incarnation, clean: *clean }).unwrap();
            }
            Step::Run(width, how) => {
                let after = if how & 16 == 0 { None } else { runs.last().map(|r| self.cluster.runs[r].name.clone()) };
                let mut experiment = Box::new(experiment(*width));
                experiment.scheduling = serde_json::from_value(json!({
                    "priority": how & 3, "preemptible": how & 4 == 0, "min_world_size": u32::from(how & 8 == 8),
                    "after": after.into_iter().collect::<Vec<_>>(), "slot_share": if how & 32 == 0 { 1.0 } else { 0.5 },
                    "time_limit": if how & 64 == 0 { "0s" } else { "30s" },
                }))
                .unwrap();
                let (key, dataset) = (format!("run-{n}"), dataset());
                self.tell(Command::SubmitRun { key, name: String::new(), experiment, dataset }).unwrap();
            }
            Step::Pause(i) | Step::Resume(i) | Step::Retry(i) => {
                let Some(target) = run(i).map(Target::Run) else { return };
                // Refused when there is nothing to pause, resume or retry.
                self.tell(match step {
                    Step::Pause(_) => Command::Pause(target),
                    Step::Resume(_) => Command::Resume(target),
                    _ => Command::Retry(target),
                })
                .ok();
            }
            Step::OfSweep(how) => {
                let Some(target) = self.cluster.sweeps.keys().next().map(|s| Target::Sweep(*s)) else { return };
                self.tell(match how {
                    0 => Command::Pause(target),
                    1 => Command::Resume(target),
                    2 => Command::Retry(target),
                    _ => Command::Cancel(target),
                })
                .ok();
            }
            // Refused when nobody knows the worker.
            Step::Cordon(who, drain) => {
                self.tell(Command::Cordon { worker: worker(*who), reason: "r".into(), drain: *drain }).ok();
            }
            Step::Uncordon(who) => drop(self.tell(Command::Uncordon(worker(*who))).ok()),
            Step::Sweep => drop(self.sweep()),
            Step::Cancel(i) => {
                if let Some(run) = run(i) {
                    self.tell(Command::Cancel(Target::Run(run))).unwrap();
                }
            }
            Step::Drain => drop(self.tell(Command::Drain { reason: "drain".into() }).unwrap()),
            Step::Ready(i, rank) => {
                report(
                    self,
                    i,
                    *rank,
                    Report::RankReady { rank: *rank as u32, step: 0, total_steps: 100, cached: BTreeSet::new() },
                );
            }
            Step::Store(i) => report(self, i, 0, Report::StoreReady { address: "127.0.0.1:9".into() }),
            Step::Save(i, s, best) => {
                if let Some(fence) = run(i).map(|r| self.fence(r)) {
                    report(self, i, 0, Report::Checkpoint(checkpoint(fence, *s, *best)));
                }
            }
            Step::Evaluated(i) => {
                let summary = [("opacity/auroc".to_owned(), 0.5)].into();
                report(self, i, 0, Report::Evaluated { summary, summary_json: String::new(), artifacts: Vec::new() });
            }
            Step::Exit(i, rank, how) => {
                let error = "said so".to_owned();
                report(self, i, *rank, Report::RankExited { rank: *rank as u32, exit: exit(*how), error });
            }
            Step::Stale(i, how) => {
                let Some(fence) = run(i).map(|r| self.fence(r)).filter(|f| f.attempt > 1) else { return };
                let old = Fence { attempt: fence.attempt - 1, ..fence };
                let report = Report::RankExited { rank: 0, exit: exit(*how), error: "late".into() };
                self.tell(Command::Report { worker: worker(1), fence: old, report }).unwrap();
            }
        }
    }
}

/// `cluster`, written in pieces and read again.
fn restored(cluster: &Cluster) -> Cluster {
    let mut restore = Restore::new(cluster.policy.clone());
    for piece in cluster.pieces() {
        restore.put(serde_json::from_str(&serde_json::to_string(&piece).unwrap()).unwrap());
    }
    restore.done()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 2000 }))]

    /// Whatever happens in whatever order, the invariants hold (asked by `World::tell`), the events' JSON folds to the same
    /// state, and when the faults stop every run ends and no slot leaks.
    #[test]
    fn no_history_breaks_an_invariant_and_every_run_ends(steps in steps()) {
        let mut w = World::new();
        for (n, step) in steps.iter().enumerate() {
            w.take(step, n);
        }
        let mut folded = Cluster::new(Policy::default());
        for event in &w.log {
            let json = serde_json::to_string(event).unwrap();
            crate::evolve(&mut folded, &serde_json::from_str(&json).unwrap());
        }
        prop_assert_eq!(&folded, &w.cluster);
        prop_assert_eq!(&restored(&w.cluster), &w.cluster);

        w.tell(Command::Start).unwrap();
        for who in 1..4 {
            w.tell(Command::Uncordon(worker(who))).ok();
        }
        let paused = |r: &&crate::Run| matches!(r.state, RunState::Paused { .. }) || w.stop_of(r.id) == Some(Cause::Pause);
        let paused: Vec<RunId> = w.cluster.runs.values().filter(paused).map(|r| r.id).collect();
        for run in paused {
            w.tell(Command::Resume(Target::Run(run))).unwrap();
        }
        for round in 0..400 {
            if w.cluster.runs.values().all(crate::Run::is_over) {
                break;
            }
            for who in 1..4 {
                let id = worker(who);
                let here = |a: &crate::Attempt| a.ranks.iter().any(|r| r.worker == id && r.is_live());
                let live = w.cluster.live().filter(|(_, a)| here(a)).map(|(f, _)| f).collect();
                w.hello(who, 2, "last", live);
            }
            let live: Vec<(Fence, bool, usize)> = w
                .cluster
                .live()
                .map(|(f, a)| (f, matches!(w.cluster.runs[&f.run].state, RunState::Stopping { .. }), a.ranks.len()))
                .collect();
            for (fence, stopping, ranks) in live {
                let summary = [("opacity/auroc".to_owned(), 0.5)].into();
                w.say(fence, 0, Report::Evaluated { summary, summary_json: String::new(), artifacts: Vec::new() });
                for rank in 0..ranks {
                    w.exit(fence, rank as u32, if stopping { Exit::Stopped } else { Exit::Succeeded }, "");
                }
            }
            w.pass(61_000);
            prop_assert!(round < 399, "a run never ends: {:#?}", w.cluster.runs.values().find(|r| !r.is_over()));
        }
        for worker in w.cluster.workers.keys() {
            prop_assert_eq!(w.cluster.used(*worker), 0);
        }
        prop_assert!(w.cluster.sweeps.values().all(|s| s.end.is_some()));
    }

    /// Whatever happens, the classes of a run's time sum to the time in which it was there and not over.
    #[test]
    fn time_is_accounted_for_to_the_microsecond(steps in steps(), reported in (0.0..1e3, 0.0..1e3, 0.0..1e3)) {
        use std::{collections::BTreeMap, time::Duration};
        let mut w = World::new();
        for (n, step) in steps.iter().enumerate() {
            w.take(step, n);
        }
        let mut folded = Cluster::new(Policy::default());
        let mut ledgers: BTreeMap<RunId, crate::goodput::Ledger> = BTreeMap::new();
        let mut open: BTreeMap<RunId, Duration> = BTreeMap::new();
        let mut last = Timestamp(0);
        for event in &w.log {
            for run in folded.runs.values().filter(|r| !r.is_over()) {
                *open.entry(run.id).or_default() += event.at.since(last);
            }
            last = event.at;
            crate::evolve(&mut folded, event);
            if let Some(run) = event.run() {
                ledgers.entry(run).or_default().take(event);
            }
        }
        let (data, checkpointing, evaluating) = reported;
        for run in folded.runs.keys() {
            let goodput = ledgers[run].at(last, crate::goodput::Reported { data, checkpointing, evaluating });
            prop_assert_eq!(goodput.total(), open.get(run).copied().unwrap_or_default(), "{:?}", goodput);
        }
    }
}

//! Priorities, gaps, projects, pauses, retries, limits and circuit breakers.

use std::time::Duration;

use super::*;
use crate::{Cause, Project};

impl World {
    /// A run of `world_size` ranks with the given `scheduling:`.
    #[allow(clippy::needless_pass_by_value, reason = "json!(…) reads best in place")]
    pub(super) fn scheduled(&mut self, name: &str, world_size: u32, scheduling: Value) -> RunId {
        self.try_scheduled(name, world_size, scheduling).unwrap()
    }

    #[allow(clippy::needless_pass_by_value, reason = "json!(…) reads best in place")]
    fn try_scheduled(&mut self, name: &str, world_size: u32, scheduling: Value) -> Result<RunId, Refusal> {
        let mut experiment = Box::new(experiment(world_size));
        experiment.scheduling = serde_json::from_value(scheduling).unwrap();
        self.tell(Command::SubmitRun { key: name.into(), name: name.into(), experiment, dataset: dataset() })?;
        Ok(self.cluster.index.run_names[name])
    }

    pub(super) fn reason(&self, run: RunId) -> String {
        schedule::reasons(&self.cluster, self.now).remove(&run).unwrap_or_default()
    }

    pub(super) fn is_live(&self, run: RunId) -> bool {
        self.cluster.runs[&run].attempt().is_some()
    }

    /// All ranks of a stopping run stop.
    fn stopped(&mut self, run: RunId) {
        let fence = self.fence(run);
        for rank in 0..self.cluster.attempt(fence).unwrap().ranks.len() as u32 {
            self.exit(fence, rank, Exit::Stopped, "");
        }
    }

    pub(super) fn stop_of(&self, run: RunId) -> Option<Cause> {
        match self.state(run) {
            RunState::Stopping { stop, .. } => Some(stop.cause),
            _ => None,
        }
    }
}

#[test]
fn a_higher_priority_takes_the_slots_of_the_fewest_and_youngest_and_no_work_is_lost() {
    let mut w = World::new();
    w.worker(1, 4);
    let old = w.scheduled("old", 2, json!({}));
    w.pass(1000);
    let young = w.scheduled("young", 2, json!({}));
    w.train(old);
    w.train(young);
    let urgent = w.scheduled("urgent", 1, json!({"priority": 10}));
    assert_eq!((w.stop_of(old), w.stop_of(young)), (None, Some(Cause::Preempt)));
    assert!(w.reason(urgent).contains("young will leave"), "{}", w.reason(urgent));
    let other = w.scheduled("other", 2, json!({}));
    let fence = w.fence(young);
    w.save(fence, 30, false);
    w.stopped(young);
    assert!(w.is_live(urgent) && !w.is_live(other));
    let RunState::Queued { .. } = w.state(young) else { panic!("{:?}", w.state(young)) };
    assert_eq!(w.cluster.runs[&young].failures, 0, "being preempted is no failure");
    w.train(urgent);
    w.finish(urgent, 0.5);
    assert!(w.is_live(young), "the older of two that wait goes first: {}", w.reason(young));
    assert_eq!(
        w.log.iter().rev().find_map(|e| match &e.what {
            What::RunPlaced { resume, .. } => Some(*resume),
            _ => None,
        }),
        Some(Some(30))
    );
}

#[test]
fn who_is_not_preemptible_or_not_lower_is_left_alone() {
    let mut w = World::new();
    w.worker(1, 2);
    let mut first = w.scheduled("rock", 2, json!({"preemptible": false}));
    let urgent = w.scheduled("urgent", 1, json!({"priority": 10}));
    assert!(w.is_live(first) && w.stop_of(first).is_none() && w.reason(urgent).contains("waits for 1 slot"));
    w.train(first);
    w.finish(first, 0.5);
    assert!(w.is_live(urgent));
    first = w.scheduled("equal", 2, json!({"priority": 10}));
    assert_eq!((w.stop_of(urgent), w.is_live(first)), (None, false));
    w.cluster.policy.preemption = false;
    w.scheduled("higher", 2, json!({"priority": 20}));
    assert_eq!(w.stop_of(urgent), None, "the policy forbids it");
}

#[test]
fn a_gap_in_front_of_a_wide_run_is_filled_and_given_back() {
    let mut w = World::new();
    w.worker(1, 4);
    let running = w.scheduled("running", 3, json!({}));
    w.train(running);
    let wide = w.scheduled("wide", 4, json!({}));
    assert!(w.reason(wide).contains("1 of 4 free"), "{}", w.reason(wide));
    let narrow = w.scheduled("narrow", 1, json!({}));
    let rock = w.scheduled("rock", 1, json!({"preemptible": false}));
    assert!(w.is_live(narrow), "it fills the gap");
    assert!(w.reason(rock).contains("waits behind wide"), "{}", w.reason(rock));
    w.train(narrow);
    assert_eq!(w.stop_of(narrow), None);
    w.finish(running, 0.5);
    assert_eq!(w.stop_of(narrow), Some(Cause::Preempt), "now the wide one fits if the gap is given back");
    w.stopped(narrow);
    assert!(w.is_live(wide) && !w.is_live(narrow));
    w.train(wide);
    w.finish(wide, 0.5);
    assert!(w.is_live(narrow) && w.is_live(rock));
}

#[test]
fn waiting_raises_a_run_until_it_is_first() {
    let mut w = World::new();
    w.worker(1, 1);
    let mut running = w.scheduled("0", 1, json!({"priority": 2}));
    let low = w.scheduled("low", 1, json!({}));
    for n in 1..20 {
        let next = w.scheduled(&n.to_string(), 1, json!({"priority": 2}));
        w.train(running);
        w.pass(400_000);
        w.finish(running, 0.5);
        if w.is_live(low) {
            assert!(n > 2, "not before it has waited for it: {n}");
            return;
        }
        running = next;
    }
    panic!("a stream of runs of higher priority starves a low one");
}

#[test]
fn projects_share_by_weight_and_keep_to_their_quotas() {
    let mut w = World::new();
    let project = |weight, slots, runs, max_priority| Project { weight, slots, runs, max_priority };
    w.cluster.policy.projects = [
        ("a".to_owned(), project(3, None, None, 0)),
        ("b".to_owned(), project(1, None, None, 0)),
        ("tiny".to_owned(), project(9, Some(1000), None, 0)),
        ("one".to_owned(), project(9, None, Some(1), 0)),
    ]
    .into();
    for n in 0..8 {
        for project in ["a", "b", "tiny", "one"] {
            // A priority above what the project may have does not count.
            w.scheduled(&format!("{project}{n}"), 1, json!({"project": project, "priority": 100}));
        }
    }
    w.worker(1, 10);
    let has = |project: &str| w.cluster.live_runs().filter(|r| r.experiment.scheduling.project == project).count();
    assert_eq!((has("a"), has("b"), has("tiny"), has("one")), (6, 2, 1, 1));
    assert!(w.reason(w.cluster.index.run_names["tiny3"]).contains("has 1 of its 1 slots"));
    assert!(w.reason(w.cluster.index.run_names["one3"]).contains("has its 1 runs already"));
    let lowest = json!({"priority": i32::MIN});
    let Err(Refusal::Invalid(why)) = w.try_scheduled("x", 1, lowest) else { panic!("accepted") };
    assert!(why.contains("scheduling.priority"), "{why}");
    let Err(Refusal::Invalid(why)) = w.try_scheduled("x", 1, json!({"project": "c"})) else { panic!("accepted") };
    assert!(why.contains("no project \"c\"") && why.contains("a, b, one, tiny"), "{why}");
}

#[test]
fn labels_memory_and_parts_of_slots_are_kept_to() {
    let mut w = World::new();
    let gpu = w.scheduled("gpu", 2, json!({"nodes": {"device": "cuda"}, "slot_share": 0.5, "memory": "6GiB"}));
    w.worker(1, 8);
    assert!(w.reason(gpu).contains("no worker has device=cuda"), "{}", w.reason(gpu));
    let labels = [("device".to_owned(), "cuda".to_owned())].into();
    let hello = Hello { labels, memory: 16 << 30, ..introduction(2, 2, "a") };
    w.tell(Command::Hello(Box::new(hello))).unwrap();
    let placed = |w: &World, run| {
        let ranks = &w.cluster.runs[&run].attempt().unwrap().ranks;
        ranks.iter().map(|r| (r.worker, r.device)).collect::<Vec<_>>()
    };
    assert_eq!(placed(&w, gpu), [(worker(2), 0), (worker(2), 1)], "ranks of a gang never share a slot");
    let half = w.scheduled("half", 1, json!({"nodes": {"device": "cuda"}, "slot_share": 0.5, "memory": "4GiB"}));
    assert_eq!(placed(&w, half), [(worker(2), 0)], "two runs may");
    let more = w.scheduled("more", 1, json!({"nodes": {"device": "cuda"}, "slot_share": 0.5, "memory": "1GiB"}));
    assert!(!w.is_live(more) && w.reason(more).contains("waits for"), "the memory is used up: {}", w.reason(more));
    let never = w.scheduled("never", 1, json!({"nodes": {"device": "cuda"}, "memory": "64GiB"}));
    let wanted = "start larger workers or lower scheduling.memory";
    assert!(w.reason(never).contains("with 64GiB each") && w.reason(never).ends_with(wanted), "{}", w.reason(never));
}

#[test]
fn the_next_attempt_is_not_where_the_last_one_failed() {
    let mut w = World::new();
    let workers = [w.worker(1, 1).0, w.worker(2, 1).0];
    let run = w.scheduled("r", 1, json!({}));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let fence = w.fence(run);
        seen.push(w.cluster.runs[&run].attempt().unwrap().ranks[0].worker);
        w.exit(fence, 0, Exit::Crashed, "Xid 79: the GPU has fallen off the bus");
        w.pass(60_000);
    }
    assert_eq!(seen, [workers[0], workers[1], workers[0]]);
}

#[test]
fn who_can_go_elsewhere_only_does_not_stand_behind() {
    let mut w = World::new();
    for (n, card) in [(1, "a100"), (2, "v100")] {
        let labels = [("card".to_owned(), card.to_owned())].into();
        let hello = Hello { labels, ..introduction(n, 2, "a") };
        w.tell(Command::Hello(Box::new(hello))).unwrap();
    }
    let on = |card: &str, priority: i32, preemptible: bool| json!({"nodes": {"card": card}, "priority": priority, "preemptible": preemptible});
    let busy = w.scheduled("busy", 2, on("a100", 0, false));
    let waits = w.scheduled("waits", 2, on("a100", 5, true));
    assert!(w.is_live(busy) && w.reason(waits).contains("waits for 2 slots"), "{}", w.reason(waits));
    let rock = w.scheduled("rock", 1, on("v100", 0, false));
    assert!(w.is_live(rock), "{}", w.reason(rock));
    let anywhere = w.scheduled("anywhere", 1, json!({"preemptible": false}));
    assert!(
        w.reason(anywhere).contains("waits behind waits"),
        "it might take the other's place: {}",
        w.reason(anywhere)
    );
    // In a line of its own, and the first there.
    let soft = w.scheduled("soft", 1, on("v100", 0, true));
    let second = w.scheduled("second", 1, on("v100", 3, true));
    assert_eq!(w.stop_of(soft), Some(Cause::Preempt), "{}", w.reason(second));
    w.stopped(soft);
    assert!(w.is_live(second) && !w.is_live(soft) && !w.is_live(waits));
}

#[test]
fn a_gang_may_start_narrower_when_it_says_so() {
    let mut w = World::new();
    w.worker(1, 3);
    let run = w.scheduled("elastic", 8, json!({"min_world_size": 2}));
    assert_eq!(w.cluster.runs[&run].attempt().unwrap().ranks.len(), 3);
    let rigid = w.scheduled("rigid", 8, json!({}));
    assert!(w.reason(rigid).ends_with("start more workers or lower trainer.world_size"), "{}", w.reason(rigid));
}

#[test]
fn pause_keeps_what_was_trained_and_resume_goes_on() {
    let mut w = World::new();
    w.worker(1, 4);
    let sweep = w.sweep();
    let runs = w.cluster.sweeps[&sweep].runs.clone();
    w.train(runs[0]);
    w.tell(Command::Pause(Target::Sweep(sweep))).unwrap();
    assert!(w.tell(Command::Pause(Target::Sweep(sweep))).unwrap().is_empty(), "once is enough");
    w.stopped(runs[0]);
    w.stopped(runs[1]);
    w.pass(3_600_000);
    for run in &runs {
        assert!(matches!(w.state(*run), RunState::Paused { .. }), "{:?}", w.state(*run));
    }
    assert!(w.cluster.sweeps[&sweep].paused && w.cluster.sweeps[&sweep].end.is_none());
    w.tell(Command::Resume(Target::Run(runs[1]))).unwrap();
    assert!(w.is_live(runs[1]) && !w.is_live(runs[0]));
    w.tell(Command::Resume(Target::Sweep(sweep))).unwrap();
    assert!(w.is_live(runs[0]));
    assert!(matches!(w.tell(Command::Resume(Target::Sweep(sweep))), Err(Refusal::Precondition(_))));
    w.tell(Command::Pause(Target::Run(runs[0]))).unwrap();
    w.tell(Command::Resume(Target::Run(runs[0]))).unwrap();
    w.stopped(runs[0]);
    w.pass(1000);
    assert!(w.is_live(runs[0]), "resumed before it had stopped: it goes on");
    for run in runs {
        w.train(run);
        w.finish(run, 0.5);
    }
    assert!(matches!(w.tell(Command::Pause(Target::Sweep(sweep))), Err(Refusal::Precondition(_))));
}

#[test]
fn a_paused_run_can_be_cancelled() {
    let mut w = World::new();
    let run = w.scheduled("x", 1, json!({}));
    w.tell(Command::Pause(Target::Run(run))).unwrap();
    w.tell(Command::Cancel(Target::Run(run))).unwrap();
    assert!(matches!(w.state(run), RunState::Cancelled { .. }));
}

#[test]
fn retry_tries_only_what_did_not_succeed() {
    let mut w = World::new();
    w.worker(1, 4);
    let sweep = w.sweep();
    let runs = w.cluster.sweeps[&sweep].runs.clone();
    w.train(runs[0]);
    w.finish(runs[0], 0.7);
    w.train(runs[1]);
    let fence = w.fence(runs[1]);
    w.save(fence, 40, true);
    w.exit(fence, 0, Exit::User, "no VGG weights");
    w.exit(fence, 1, Exit::PeerLost, "");
    assert_eq!(w.cluster.sweeps[&sweep].end, Some(SweepEnd::Failed));
    w.tell(Command::Retry(Target::Sweep(sweep))).unwrap();
    assert_eq!(w.cluster.sweeps[&sweep].end, None);
    assert_eq!((w.fence(runs[0]).attempt, w.fence(runs[1]).attempt), (1, 2));
    w.train(runs[1]);
    w.finish(runs[1], 0.9);
    assert_eq!(w.cluster.sweeps[&sweep].end, Some(SweepEnd::Succeeded));
    let Err(Refusal::Precondition(why)) = w.tell(Command::Retry(Target::Sweep(sweep))) else { panic!("accepted") };
    assert!(why.contains("nothing to retry"), "{why}");
    let run = w.scheduled("x", 1, json!({}));
    w.tell(Command::Cancel(Target::Run(run))).unwrap();
    w.stopped(run);
    w.tell(Command::Retry(Target::Run(run))).unwrap();
    assert!(w.is_live(run));
}

#[test]
fn a_time_limit_counts_all_attempts_and_ends_with_a_checkpoint() {
    let mut w = World::new();
    w.worker(1, 1);
    let run = w.scheduled("x", 1, json!({"time_limit": "100s"}));
    w.train(run);
    w.pass(60_000);
    let fence = w.fence(run);
    w.exit(fence, 0, Exit::Infra, "once");
    w.pass(3000);
    assert!(w.is_live(run));
    w.train(run);
    assert_eq!(next_deadline(&w.cluster, w.now).map(|at| at.since(w.now)), Some(Duration::from_secs(40)));
    w.pass(40_001);
    assert_eq!(w.stop_of(run), Some(Cause::TimeLimit));
    let fence = w.fence(run);
    w.save(fence, 77, false);
    w.stopped(run);
    let RunState::Failed { error, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(error.contains("1m40s") && error.contains("step 77"), "{error}");
}

#[test]
fn runs_wait_for_those_they_come_after() {
    let mut w = World::new();
    w.worker(1, 4);
    let first = w.scheduled("first", 1, json!({}));
    let second = w.scheduled("second", 1, json!({"after": ["first"]}));
    let third = w.scheduled("third", 1, json!({"after": ["second"]}));
    assert_eq!(w.reason(second), "runs after first, which is not done");
    assert_eq!(w.reason(third), "runs after second, which waits itself");
    w.train(first);
    w.finish(first, 0.5);
    assert!(w.is_live(second) && !w.is_live(third));
    let fence = w.fence(second);
    w.exit(fence, 0, Exit::User, "bad");
    let RunState::Failed { error, .. } = w.state(third) else { panic!("{:?}", w.state(third)) };
    assert!(error.contains("after second, which did not succeed"), "{error}");
    let Err(Refusal::Invalid(why)) = w.try_scheduled("x", 1, json!({"after": ["nobody"]})) else { panic!("accepted") };
    assert!(why.contains("scheduling.after") && why.contains("nobody"), "{why}");
}

#[test]
fn a_cordoned_worker_gets_no_new_work_and_a_drained_one_gives_its_work_away() {
    let mut w = World::new();
    let (first, _) = w.worker(1, 1);
    let run = w.scheduled("x", 1, json!({}));
    w.train(run);
    let cordon = |drain| Command::Cordon { worker: first, reason: "new fans".into(), drain };
    w.tell(cordon(false)).unwrap();
    assert!(w.is_live(run) && w.stop_of(run).is_none());
    let other = w.scheduled("y", 1, json!({}));
    assert!(w.reason(other).contains("cordoned"), "{}", w.reason(other));
    w.worker(2, 2);
    assert!(w.is_live(other));
    w.tell(cordon(true)).unwrap();
    assert_eq!(w.stop_of(run), Some(Cause::Drain));
    w.stopped(run);
    w.pass(1000);
    let fence = w.fence(run);
    assert_eq!(w.cluster.attempt(fence).unwrap().ranks[0].worker, worker(2));
    w.hello(1, 1, "b", Vec::new());
    assert!(w.cluster.workers[&first].cordoned.is_some(), "a restart does not lift it");
    w.tell(Command::Uncordon(first)).unwrap();
    let third = w.scheduled("z", 1, json!({}));
    assert_eq!(w.cluster.runs[&third].attempt().unwrap().ranks[0].worker, first);
}

#[test]
fn of_other_projects_a_run_is_told_no_names() {
    let mut w = World::new();
    w.worker(1, 1);
    let secret = w.scheduled("secret", 1, json!({"project": "brain"}));
    w.train(secret);
    let urgent = w.scheduled("urgent", 1, json!({"project": "thorax", "priority": 10}));
    let own = w.scheduled("own", 1, json!({"project": "thorax", "preemptible": false}));
    let other = w.scheduled("other", 1, json!({"project": "brain", "preemptible": false}));
    let RunState::Stopping { stop, .. } = w.state(secret) else { panic!("{:?}", w.state(secret)) };
    assert_eq!(stop.reason, "makes room for a run of project thorax, which goes first");
    assert_eq!(w.reason(urgent), "waits for 1 slot, which a run of project brain will leave");
    assert_eq!(w.reason(own), "waits behind urgent for 1 slot");
    assert_eq!(w.reason(other), "waits behind a run of project thorax for 1 slot");
}

#[test]
fn a_bad_worker_is_cordoned_unless_it_is_the_only_one() {
    for others in [0, 1] {
        let mut w = World::new();
        let (bad, _) = w.worker(1, 1);
        for n in 0..4 {
            // The good one is always busy.
            let run = w.scheduled(&format!("r{n}"), 1, json!({}));
            if n == 0 && others == 1 {
                w.worker(2, 1);
                let busy = w.scheduled("busy", 1, json!({}));
                w.train(busy);
            }
            if w.cluster.workers[&bad].cordoned.is_some() {
                assert_eq!((n, others), (3, 1));
                assert!(!w.is_live(run));
                break;
            }
            let fence = w.fence(run);
            w.exit(fence, 0, Exit::Crashed, "Xid 79: the GPU has fallen off the bus");
            w.tell(Command::Cancel(Target::Run(run))).unwrap();
        }
        let cordon = &w.cluster.workers[&bad].cordoned;
        assert_eq!(cordon.is_some(), others == 1);
        if let Some(cordon) = cordon {
            assert!(cordon.automatic && cordon.reason.contains("r0, r1, r2") && cordon.reason.contains("Xid 79"));
        }
    }
}

#[test]
fn no_worker_is_bad_when_storage_fails_everywhere() {
    let mut w = World::new();
    let workers = [w.worker(1, 1).0, w.worker(2, 1).0];
    for n in 0..5 {
        let runs = ["a", "b"].map(|name| w.scheduled(&format!("{name}{n}"), 1, json!({})));
        let fences = runs.map(|run| w.fence(run));
        fences.into_iter().for_each(|fence| drop(w.exit(fence, 0, Exit::Infra, "the store does not answer")));
        runs.into_iter().for_each(|run| w.tell(Command::Cancel(Target::Run(run))).map(drop).unwrap());
    }
    let of = |id| &w.cluster.workers[id];
    assert!(workers.iter().all(|id| of(id).strikes.len() >= 3 && of(id).cordoned.is_none()));
}

#[test]
fn a_worker_on_which_runs_get_further_is_not_bad() {
    let mut w = World::new();
    let (id, _) = w.worker(1, 1);
    w.worker(2, 1);
    for n in 0..6 {
        let run = w.scheduled(&n.to_string(), 1, json!({}));
        let fence = w.fence(run);
        w.save(fence, 1, false);
        w.exit(fence, 0, Exit::Infra, "x");
        w.tell(Command::Cancel(Target::Run(run))).unwrap();
    }
    assert!(w.cluster.workers[&id].cordoned.is_none());
}

#[test]
fn workers_that_left_long_ago_are_forgotten() {
    let mut w = World::new();
    w.cluster.policy.left = 2;
    let leave = |w: &mut World, n: u64| {
        let incarnation = w.cluster.workers[&worker(n)].incarnation.clone();
        w.tell(Command::WorkerAway { worker: worker(n), incarnation, clean: true }).unwrap();
    };
    for n in 1..=6 {
        w.worker(n, 1);
    }
    w.tell(Command::Cordon { worker: worker(1), reason: "burnt out".into(), drain: false }).unwrap();
    (1..=5).for_each(|n| leave(&mut w, n));
    let newest = (2..=5).map(worker).max().unwrap();
    let kept = BTreeSet::from([worker(1), newest, worker(6)]);
    assert!(w.cluster.workers.keys().eq(&kept), "what somebody said of one is kept, and who is here");
    // Back again it is new, and what it was acknowledged before does not count.
    let forgotten = (2..=5).find(|n| worker(*n) != newest).unwrap();
    assert!(!w.cluster.acknowledges(&introduction(forgotten, 1, "a")));
    w.worker(forgotten, 1);
    let incarnation = w.cluster.workers[&worker(forgotten)].incarnation.clone();
    assert!(w.cluster.acknowledges(&introduction(forgotten, 1, &incarnation)));
    let run = w.run("r", 1);
    assert!(w.is_live(run));
}

#[test]
fn a_sweep_whose_runs_all_fail_alike_is_stopped() {
    let mut w = World::new();
    w.worker(1, 2);
    let spec = Box::new(sweep(json!({"trainer.seed": {"values": [1, 2, 3, 4, 5, 6]}})));
    let datasets = [(URL.to_owned(), dataset())].into();
    w.tell(Command::SubmitSweep { key: "s".into(), sweep: spec, datasets }).unwrap();
    let id = *w.cluster.sweeps.keys().next().unwrap();
    let runs = w.cluster.sweeps[&id].runs.clone();
    for (n, run) in runs.iter().take(3).enumerate() {
        let fence = w.fence(*run);
        w.exit(fence, 0, Exit::User, &format!("image {n} has no header"));
        w.exit(fence, 1, Exit::PeerLost, "");
    }
    let sweep = &w.cluster.sweeps[&id];
    assert!(sweep.halted.as_ref().unwrap().contains("image 2 has no header"), "{:?}", sweep.halted);
    assert!(runs[4..].iter().all(|r| matches!(w.state(*r), RunState::Cancelled { .. })));
    // The fourth had been placed already when the third failed, or was about to be.
    if w.is_live(runs[3]) {
        w.stopped(runs[3]);
    }
    assert_eq!(w.cluster.sweeps[&id].end, Some(SweepEnd::Failed));
    w.tell(Command::Retry(Target::Sweep(id))).unwrap();
    assert!(w.cluster.sweeps[&id].halted.is_none() && w.is_live(runs[0]));
}

#[test]
fn one_success_keeps_a_sweep_going() {
    let mut w = World::new();
    w.worker(1, 2);
    let spec = Box::new(sweep(json!({"trainer.seed": {"values": [1, 2, 3, 4, 5, 6]}})));
    let datasets = [(URL.to_owned(), dataset())].into();
    w.tell(Command::SubmitSweep { key: "s".into(), sweep: spec, datasets }).unwrap();
    let id = *w.cluster.sweeps.keys().next().unwrap();
    for (n, run) in w.cluster.sweeps[&id].runs.clone().into_iter().enumerate() {
        if n == 0 {
            w.train(run);
            w.finish(run, 0.5);
            continue;
        }
        let fence = w.fence(run);
        w.exit(fence, 0, Exit::User, "the loss is not a number");
        w.exit(fence, 1, Exit::PeerLost, "");
    }
    assert!(w.cluster.sweeps[&id].halted.is_none());
    assert_eq!(w.cluster.sweeps[&id].end, Some(SweepEnd::Failed));
}

#[test]
fn lost_workers_are_not_the_runs_fault() {
    let mut w = World::new();
    let run = w.scheduled("x", 1, json!({}));
    for n in 0..10 {
        w.hello(1, 1, &n.to_string(), Vec::new());
        w.pass(80_000);
        assert!(w.is_live(run), "after {n} losses: {:?}", w.state(run));
    }
    assert_eq!(w.cluster.runs[&run].failures, 0);
    for n in 10..30 {
        w.hello(1, 1, &n.to_string(), Vec::new());
        w.pass(80_000);
    }
    let RunState::Failed { error, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(error.contains("gave up: worker"), "{error}");
}

#[test]
fn who_has_waited_keeps_what_it_got() {
    let mut w = World::new();
    w.worker(1, 1);
    let first = w.scheduled("first", 1, json!({"preemptible": false}));
    let low = w.scheduled("low", 1, json!({}));
    w.train(first);
    w.pass(3_600_000);
    let high = w.scheduled("high", 1, json!({"priority": 2}));
    w.finish(first, 0.5);
    assert!(w.is_live(low) && w.stop_of(low).is_none(), "an hour of waiting is worth more than two: {}", w.reason(low));
    let urgent = w.scheduled("urgent", 1, json!({"priority": 100}));
    assert_eq!(w.stop_of(low), Some(Cause::Preempt), "but not more than a hundred");
    w.stopped(low);
    assert!(w.is_live(urgent) && !w.is_live(high));
}

#[test]
fn a_leaving_agent_gets_no_new_work() {
    let mut w = World::new();
    let (id, _) = w.worker(1, 1);
    w.tell(Command::WorkerLeaving { worker: id, incarnation: "a".into() }).unwrap();
    let run = w.scheduled("x", 1, json!({}));
    assert!(!w.is_live(run) && w.reason(run).contains("leaving"), "{}", w.reason(run));
    w.hello(1, 1, "a", Vec::new());
    assert!(!w.is_live(run), "its connection broke, and it still leaves");
    w.hello(1, 1, "b", Vec::new());
    assert!(w.is_live(run), "it was started again");
    // One that had been ordered before it was known.
    let fence = w.fence(run);
    w.exit(fence, 0, Exit::Stopped, "the agent is leaving and starts nothing");
    assert_eq!(w.cluster.runs[&run].failures, 0);
    w.tell(Command::WorkerLeaving { worker: id, incarnation: "b".into() }).unwrap();
    w.tell(Command::WorkerAway { worker: id, incarnation: "b".into(), clean: false }).unwrap();
    assert_eq!(w.cluster.workers[&id].state, WorkerState::Left, "it had said so, however the line was cut");
}

#[test]
fn a_stop_of_what_never_began_ends_the_attempt() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.scheduled("x", 2, json!({}));
    let fence = w.fence(run);
    w.tell(Command::Cancel(Target::Run(run))).unwrap();
    w.say(fence, 0, Report::NotHere);
    assert!(matches!(w.state(run), RunState::Cancelled { .. }), "{:?}", w.state(run));
}

//! A small cluster under test: every command goes through [`invariants::check`], and after each the state is folded again
//! from the JSON of its events.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::{
    Digest, Experiment, Fence, Manifest, Rng, RunId, SweepId, Timestamp, WorkerId,
    dataset::Preprocess,
    manifest::{self, PatientIds},
};
use serde_json::{Value, json};

use crate::{
    Checkpoint, Cluster, Command, Effect, Event, Exit, Hello, Outcome, Policy, Refusal, Report, RunState, SweepEnd,
    Target, What, WorkerState, apply, invariants, next_deadline, orders, react, schedule, test_use,
};

mod failures;
mod gaps;
mod histories;
mod locality;
mod lost_checkpoints;
mod scheduling;
mod twins;

const URL: &str = "file:///data/tiny";

pub(crate) fn experiment(world_size: u32) -> Experiment {
    serde_json::from_value(json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": URL},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": world_size, "batch_size": 8},
    }))
    .unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "json!(…) reads best in place")]
pub(crate) fn sweep(parameters: Value) -> morph_spec::Sweep {
    serde_json::from_value(json!({
        "kind": "sweep", "name": "grid", "experiment": experiment(2), "method": "grid",
        "metric": {"name": "opacity/auroc", "goal": "maximize"}, "parameters": parameters,
    }))
    .unwrap()
}

fn manifest() -> Manifest {
    let labels = |healthy: u64, sick: u64| {
        [("Normal", healthy), ("Lung Opacity", sick)]
            .into_iter()
            .map(|(l, n)| (l.to_owned(), n))
            .collect::<BTreeMap<_, _>>()
    };
    Manifest {
        version: manifest::VERSION,
        name: "tiny".into(),
        preprocess: Preprocess { size: 32, ..Preprocess::default() },
        fingerprint: Digest::of(b"tiny"),
        image_size: [32, 32],
        shards: Vec::new(),
        counts: [("train", labels(80, 0)), ("val", labels(10, 0)), ("test", labels(10, 20))]
            .into_iter()
            .map(|(s, c)| (s.to_owned(), c))
            .collect(),
        patient_ids: PatientIds::Image,
        synthetic: true,
        skipped: BTreeMap::new(),
    }
}

/// A cluster and its clock.
#[derive(Debug, Clone)]
struct World {
    cluster: Cluster,
    now: Timestamp,
    rng: Rng,
    log: Vec<Event>,
}

/// How worker `n` introduces itself: with no labels, and nothing that it runs or keeps.
fn introduction(n: u64, slots: u32, incarnation: &str) -> Hello {
    Hello {
        worker: worker(n),
        incarnation: incarnation.into(),
        process: incarnation.into(),
        before: Vec::new(),
        host: "127.0.0.1".into(),
        slots,
        version: "0.1.0".into(),
        live: Vec::new(),
        cached: BTreeSet::new(),
        labels: BTreeMap::new(),
        memory: 0,
        certificate: String::new(),
    }
}

impl World {
    /// With a registered dataset.
    fn new() -> Self {
        let mut world = Self {
            cluster: Cluster::new(Policy::default()),
            now: Timestamp(1_000_000),
            rng: Rng::keyed(1, "test", 0),
            log: Vec::new(),
        };
        world.tell(Command::Start).unwrap();
        let manifest = Box::new(manifest());
        world.tell(Command::RegisterDataset { url: URL.into(), digest: dataset(), manifest }).unwrap();
        world
    }

    #[allow(clippy::needless_pass_by_value, reason = "commands are made in place")]
    /// Has `command` decided; what there is to do about it.
    fn tell(&mut self, command: Command) -> Result<Vec<Effect>, Refusal> {
        let before = self.cluster.clone();
        let events = apply(&mut self.cluster, self.now, &mut self.rng, command.clone());
        let events = match events {
            Ok(events) => events,
            Err(refusal) => {
                assert_eq!(before, self.cluster, "a refused command changes nothing");
                return Err(refusal);
            }
        };
        invariants::check(&before, &command, &events, &self.cluster)
            .unwrap_or_else(|e| panic!("{e}\nafter {command:?}"));
        let mut effects = Vec::new();
        events.iter().for_each(|e| react(&self.cluster, e, &mut effects));
        self.log.extend(events);
        Ok(effects)
    }

    fn pass(&mut self, millis: u64) {
        self.now = Timestamp(self.now.0 + millis * 1000);
        self.tell(Command::Tick).unwrap();
    }

    fn worker(&mut self, n: u64, slots: u32) -> (WorkerId, Vec<Effect>) {
        self.hello(n, slots, "a", Vec::new())
    }

    fn hello(&mut self, n: u64, slots: u32, incarnation: &str, live: Vec<Fence>) -> (WorkerId, Vec<Effect>) {
        let hello = Hello { live, ..introduction(n, slots, incarnation) };
        (worker(n), self.tell(Command::Hello(Box::new(hello))).unwrap())
    }

    fn run(&mut self, key: &str, world_size: u32) -> RunId {
        let experiment = Box::new(experiment(world_size));
        self.tell(Command::SubmitRun { key: key.into(), name: String::new(), experiment, dataset: dataset() }).unwrap();
        match self.cluster.keys[key] {
            crate::Submission::Run(id) => id,
            _ => panic!("a run was submitted"),
        }
    }

    fn sweep(&mut self) -> SweepId {
        let sweep = Box::new(sweep(json!({"trainer.seed": {"values": [1, 2]}})));
        let datasets = [(URL.to_owned(), dataset())].into();
        self.tell(Command::SubmitSweep { key: "s".into(), sweep, datasets }).unwrap();
        *self.cluster.sweeps.keys().next().unwrap()
    }

    fn fence(&self, run: RunId) -> Fence {
        self.cluster.runs[&run].fence()
    }

    fn state(&self, run: RunId) -> &RunState {
        &self.cluster.runs[&run].state
    }

    fn say(&mut self, fence: Fence, rank: usize, report: Report) -> Vec<Effect> {
        let worker = self.cluster.attempt(fence).map_or(worker(1), |a| a.ranks[rank].worker);
        self.tell(Command::Report { worker, fence, report }).unwrap()
    }

    fn train(&mut self, run: RunId) {
        let fence = self.fence(run);
        self.say(fence, 0, Report::StoreReady { address: "127.0.0.1:9".into() });
        for rank in 0..self.cluster.runs[&run].width() {
            self.say(
                fence,
                rank as usize,
                Report::RankReady { rank, step: 0, total_steps: 100, cached: BTreeSet::new() },
            );
        }
        assert!(matches!(self.state(run), RunState::Running { .. }), "{:?}", self.state(run));
    }

    fn exit(&mut self, fence: Fence, rank: u32, exit: Exit, error: &str) -> Vec<Effect> {
        self.say(fence, rank as usize, Report::RankExited { rank, exit, error: error.into() })
    }

    fn save(&mut self, fence: Fence, step: u64, best: bool) -> Vec<Effect> {
        self.say(fence, 0, Report::Checkpoint(checkpoint(fence, step, best)))
    }

    fn finish(&mut self, run: RunId, auroc: f64) {
        let fence = self.fence(run);
        let summary = [("opacity/auroc".to_owned(), auroc), ("val/score".to_owned(), 1.0 - auroc)].into();
        self.say(fence, 0, Report::Evaluated { summary, summary_json: "{}".into(), artifacts: Vec::new() });
        for rank in 0..self.cluster.runs[&run].width() {
            self.exit(fence, rank, Exit::Succeeded, "");
        }
    }
}

fn dataset() -> Digest {
    Digest::of(b"manifest")
}

fn worker(n: u64) -> WorkerId {
    WorkerId::new(Timestamp(0), &mut Rng::keyed(n, "worker", 0))
}

fn checkpoint(fence: Fence, step: u64, best: bool) -> Checkpoint {
    Checkpoint {
        url: format!("file:///out/{}/step-{step}-a{}", fence.run, fence.attempt),
        digest: Digest::of(&step.to_le_bytes()),
        step,
        epoch: 1,
        attempt: fence.attempt,
        bytes: 1,
        score: Some(0.5),
        best,
        at: Timestamp(0),
    }
}

/// Ranks that are to be started; orders may be repeated.
fn starts(effects: &[Effect]) -> usize {
    let starts = effects.iter().filter(|e| matches!(e, Effect::StartRank { .. }));
    starts.collect::<BTreeSet<_>>().len()
}

#[test]
fn a_gang_is_placed_when_it_fits_and_not_before() {
    let mut w = World::new();
    let run = w.run("k", 2);
    assert!(schedule::reasons(&w.cluster, w.now)[&run].contains("no worker has joined"));
    let (_, effects) = w.worker(1, 1);
    assert_eq!(starts(&effects), 0, "one slot is not enough for two ranks");
    assert!(schedule::reasons(&w.cluster, w.now)[&run].contains("more than the whole cluster"));
    let (_, effects) = w.worker(2, 1);
    assert_eq!(starts(&effects), 2);
    w.train(run);
    w.finish(run, 0.9);
    assert!(matches!(w.state(run), RunState::Succeeded { .. }));
    assert_eq!(w.cluster.used(worker(1)) + w.cluster.used(worker(2)), 0);
}

#[test]
fn the_same_key_is_the_same_submission() {
    let mut w = World::new();
    let first = w.run("k", 2);
    assert_eq!(first, w.run("k", 2));
    assert_eq!(w.cluster.runs.len(), 1);
    assert_ne!(first, w.run("other", 2));
    let names: Vec<&str> = w.cluster.in_order().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["tiny-1", "tiny-2"]);
}

#[test]
fn what_does_not_fit_the_dataset_is_refused_at_once() {
    let mut w = World::new();
    let mut wrong = experiment(2);
    wrong.model.image_size = 64;
    wrong.dataset.train.labels = vec!["Healthy".into()];
    let submit = |e: Experiment| Command::SubmitRun {
        key: "k".into(),
        name: String::new(),
        experiment: Box::new(e),
        dataset: dataset(),
    };
    let Err(Refusal::Invalid(why)) = w.tell(submit(wrong)) else { panic!("it was accepted") };
    assert!(why.contains("image_size") && why.contains("Healthy") && why.contains("Normal (80)"), "{why}");
}

#[test]
fn an_agent_that_comes_back_in_time_keeps_its_ranks() {
    let mut w = World::new();
    let (id, _) = w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    let fence = w.fence(run);
    w.tell(Command::WorkerAway { worker: id, incarnation: "a".into(), clean: false }).unwrap();
    w.pass(10_000);
    assert!(matches!(w.state(run), RunState::Running { .. }), "training goes on while its agent is away");
    let (_, effects) = w.hello(1, 2, "a", vec![fence]);
    assert_eq!(starts(&effects), 2, "orders that hold are repeated; the agent has them already");
    w.pass(60_000);
    assert!(matches!(w.state(run), RunState::Running { .. }));
}

#[test]
fn an_agent_that_stays_away_loses_its_ranks() {
    let mut w = World::new();
    let (id, _) = w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    w.tell(Command::WorkerAway { worker: id, incarnation: "a".into(), clean: false }).unwrap();
    let due = next_deadline(&w.cluster, w.now).unwrap();
    assert_eq!(due, w.now.after(w.cluster.policy.grace));
    w.pass(15_001);
    assert!(matches!(w.state(run), RunState::Queued { .. }));
    assert_eq!(w.cluster.workers[&id].state, WorkerState::Lost);
    let old = w.fence(run);
    let (_, effects) = w.hello(1, 2, "a", vec![old]);
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Stop { fence, now: true, .. } if *fence == old)),
        "ranks of a lost attempt are killed when their agent comes back: {effects:?}"
    );
}

#[test]
fn a_restarted_agent_has_lost_what_it_does_not_know() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    let old = w.fence(run);
    w.hello(1, 2, "b", Vec::new());
    assert_eq!(w.cluster.runs[&run].past[0].outcome, Outcome::Lost);
    w.pass(2000);
    assert_eq!(w.fence(run).attempt, old.attempt + 1);
}

#[test]
fn cancel_saves_first_and_is_final() {
    let mut w = World::new();
    let waiting = w.run("waits", 2);
    w.tell(Command::Cancel(Target::Run(waiting))).unwrap();
    assert!(matches!(w.state(waiting), RunState::Cancelled { .. }));
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    let effects = w.tell(Command::Cancel(Target::Run(run))).unwrap();
    assert!(effects.iter().any(|e| matches!(e, Effect::Stop { checkpoint: true, now: false, .. })));
    assert!(w.tell(Command::Cancel(Target::Run(run))).unwrap().is_empty(), "once is enough");
    let fence = w.fence(run);
    w.exit(fence, 0, Exit::Stopped, "");
    w.exit(fence, 1, Exit::Stopped, "");
    assert!(matches!(w.state(run), RunState::Cancelled { .. }));
    let gone = RunId::new(Timestamp(9), &mut Rng::keyed(99, "x", 0));
    assert!(matches!(w.tell(Command::Cancel(Target::Run(gone))), Err(Refusal::NotFound(_))));
}

#[test]
fn ranks_that_do_not_stop_are_killed() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    w.tell(Command::Cancel(Target::Run(run))).unwrap();
    w.pass(120_001);
    let RunState::Stopping { stop, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(stop.killed);
    assert!(orders(&w.cluster, worker(1)).iter().any(|e| matches!(e, Effect::Stop { now: true, .. })));
}

#[test]
fn a_drain_queues_runs_again_and_starts_none_until_the_next_start() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    w.tell(Command::Drain { reason: "going away".into() }).unwrap();
    let fence = w.fence(run);
    w.save(fence, 7, false);
    w.exit(fence, 0, Exit::Stopped, "");
    w.exit(fence, 1, Exit::Stopped, "");
    w.pass(60_000);
    assert!(matches!(w.state(run), RunState::Queued { .. }));
    assert!(schedule::reasons(&w.cluster, w.now)[&run].contains("stopping"));
    assert_eq!(w.cluster.runs[&run].failures, 0, "a stop on purpose is no failure");
    w.tell(Command::Start).unwrap();
    w.hello(1, 2, "b", Vec::new());
    assert_eq!(w.fence(run).attempt, 2);
}

#[test]
fn a_sweep_ends_with_its_last_run_and_knows_the_best() {
    let mut w = World::new();
    w.worker(1, 4);
    let sweep = w.sweep();
    let runs = w.cluster.sweeps[&sweep].runs.clone();
    assert_eq!(runs.len(), 2);
    for (run, auroc) in runs.iter().zip([0.7, 0.9]) {
        assert_eq!(w.cluster.sweeps[&sweep].end, None);
        w.train(*run);
        w.finish(*run, auroc);
    }
    assert_eq!(w.cluster.sweeps[&sweep].end, Some(SweepEnd::Succeeded));
    assert_eq!(w.cluster.sweeps[&sweep].best(&w.cluster), Some((runs[1], 0.9)));
    assert_ne!(w.cluster.runs[&runs[0]].experiment, w.cluster.runs[&runs[1]].experiment);
}

#[test]
fn one_failed_run_fails_its_sweep_and_the_others_go_on() {
    let mut w = World::new();
    w.worker(1, 4);
    let sweep = w.sweep();
    let runs = w.cluster.sweeps[&sweep].runs.clone();
    let fence = w.fence(runs[0]);
    w.exit(fence, 0, Exit::User, "bad");
    w.exit(fence, 1, Exit::PeerLost, "");
    assert_eq!(w.cluster.sweeps[&sweep].end, None);
    w.train(runs[1]);
    w.finish(runs[1], 0.9);
    assert_eq!(w.cluster.sweeps[&sweep].end, Some(SweepEnd::Failed));
}

#[test]
fn cancelling_a_sweep_cancels_its_runs() {
    let mut w = World::new();
    let sweep = w.sweep();
    w.tell(Command::Cancel(Target::Sweep(sweep))).unwrap();
    assert_eq!(w.cluster.sweeps[&sweep].end, Some(SweepEnd::Cancelled));
}

/// All that was `recorded` is still `written`; fields may have been added since.
fn keeps(recorded: &Value, written: &Value) {
    match (recorded, written) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                keeps(value, new.get(name).unwrap_or_else(|| panic!("{name} is gone from {written}")));
            }
        }
        _ => assert_eq!(recorded, written),
    }
}

#[test]
fn every_recorded_kind_of_event_still_parses() {
    let golden = include_str!("../../tests/golden/events.jsonl");
    let mut kinds = BTreeSet::new();
    for line in golden.lines() {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(Event::from_json(line).unwrap(), event, "both ways of reading agree");
        let written = serde_json::to_value(&event).unwrap();
        keeps(&serde_json::from_str(line).unwrap(), &written);
        assert_eq!(serde_json::from_value::<Event>(written).unwrap(), event);
        assert!(!event.text().is_empty());
        kinds.insert(event.kind());
    }
    assert_eq!(kinds.len(), 36, "one of each kind: {kinds:?}");
}

#[test]
fn a_test_set_that_chose_is_known_for_it() {
    let mut w = World::new();
    w.worker(1, 4);
    let single = w.run("alone", 2);
    assert_eq!(test_use::all(&w.cluster), [], "nothing is scored yet");
    w.train(single);
    w.finish(single, 0.9);
    let tests = test_use::all(&w.cluster);
    let [only] = &tests[..] else { panic!("{tests:?}") };
    let place = test_use::Place::Known(dataset());
    assert_eq!((&only.place, only.split.as_str(), only.scored), (&place, "test", 1));
    assert_eq!(only.choices, []);

    let id = w.sweep();
    let runs = w.cluster.sweeps[&id].runs.clone();
    w.train(runs[0]);
    w.finish(runs[0], 0.8);
    assert_eq!(test_use::all(&w.cluster)[0].choices, [], "of one run nothing is chosen");
    w.train(runs[1]);
    w.finish(runs[1], 0.7);
    let only = &test_use::all(&w.cluster)[0];
    assert_eq!((only.scored, &only.choices[..]), (3, &[test_use::Choice { sweep: id, runs: 2 }][..]));

    // The same sweep by the validation loss chooses by no test image.
    let mut blind = sweep(json!({"trainer.seed": {"values": [1, 2]}}));
    blind.metric.name = "val/score".into();
    let datasets = [(URL.to_owned(), dataset())].into();
    w.tell(Command::SubmitSweep { key: "blind".into(), sweep: Box::new(blind), datasets }).unwrap();
    let crate::Submission::Sweep(blind) = w.cluster.keys["blind"] else { panic!("a sweep was submitted") };
    for run in w.cluster.sweeps[&blind].runs.clone() {
        w.train(run);
        w.finish(run, 0.5);
    }
    let only = &test_use::all(&w.cluster)[0];
    assert_eq!((only.scored, only.choices.len(), only.rescored), (5, 1, 0));
}

#[test]
fn evaluations_by_hand_are_counted() {
    let mut w = World::new();
    w.worker(1, 4);
    let run = w.run("alone", 2);
    let known = test_use::Tested { url: URL.into(), digest: Some(dataset()), split: "test".into() };
    let there = test_use::Tested { digest: None, ..known.clone() };
    let elsewhere = test_use::Tested { url: "/other".into(), digest: None, split: "val".into() };
    let rescored = |run, tests: &[&test_use::Tested]| Command::Rescored {
        key: None,
        run,
        checkpoint: "s3://runs/1/manifest.json".into(),
        tests: tests.iter().map(|t| (*t).clone()).collect(),
    };
    w.tell(rescored(Some(run), &[&known, &known])).unwrap();
    w.tell(rescored(None, &[&elsewhere, &there])).unwrap();
    let tests = test_use::all(&w.cluster);
    let seen: Vec<_> = tests.iter().map(|t| (&t.place, t.split.as_str(), t.scored, t.rescored)).collect();
    let (registered, other) = (test_use::Place::Known(dataset()), test_use::Place::Elsewhere("/other".into()));
    assert_eq!(seen, [(&registered, "test", 0, 2), (&other, "val", 0, 1)], "one a command, whatever is named twice");
    // Said again with its key it counts once, and the key is its own.
    let keyed = |key: &str| match rescored(None, &[&known]) {
        Command::Rescored { run, checkpoint, tests, .. } => {
            Command::Rescored { key: Some(key.into()), run, checkpoint, tests }
        }
        other => other,
    };
    for _ in 0..2 {
        w.tell(keyed("once")).unwrap();
    }
    assert!(matches!(w.tell(keyed("alone")), Err(Refusal::Exists(why)) if why.contains("belongs to run")));
    w.train(run);
    w.finish(run, 0.9);
    assert_eq!((test_use::all(&w.cluster)[0].scored, test_use::all(&w.cluster)[0].rescored), (1, 3));

    // The same folder with another dataset in it is not the registered one.
    let other = test_use::Tested { digest: Some(Digest::of(b"other")), ..known.clone() };
    w.tell(rescored(None, &[&other])).unwrap();
    assert_eq!(test_use::all(&w.cluster).len(), 3);
    let refused = |w: &mut World, command| w.tell(command).unwrap_err().to_string();
    assert!(refused(&mut w, rescored(None, &[])).contains("1 to 1000 splits"));
    let long = test_use::Tested { split: "x".repeat(5000), ..known.clone() };
    assert!(refused(&mut w, rescored(None, &[&long])).contains("longer than 4096"));
    let nobody = RunId::LAST;
    assert!(refused(&mut w, rescored(Some(nobody), &[&known])).contains("there is no run"));

    let mut restore = crate::snapshot::Restore::new(w.cluster.policy.clone());
    for piece in w.cluster.pieces() {
        let text = serde_json::to_string(&piece).unwrap();
        restore.put(serde_json::from_str(&text).unwrap());
    }
    assert_eq!(restore.done().rescored, w.cluster.rescored);
}

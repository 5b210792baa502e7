//! gRPC messages, and what the core makes of them.

use std::{collections::BTreeMap, path::Path, str, sync::OnceLock, time::Duration};

use morph_control::{
    Cluster, Command, Event, Policy, Submission, apply, find,
    goodput::{Ledger, Reported},
    invariants, react, schedule, search,
};
use morph_coordinator::{
    parse::{self, Said},
    store::{self, Batch, Writer},
};
use morph_proto::v1::{self, session_request::Message as Request};
use morph_spec::{
    Digest, Experiment, Manifest, Rng, RunId, Sweep, Timestamp, WorkerId,
    dataset::Preprocess,
    manifest::{self, PatientIds},
};
use prost::Message;
use serde_json::json;

/// The dataset that is registered.
pub const URL: &str = "file:///data/tiny";

/// A coordinator's core with its database.
#[derive(Clone)]
struct World {
    cluster: Cluster,
    now: Timestamp,
    rng: Rng,
    ledgers: BTreeMap<RunId, Ledger>,
    events: Vec<Event>,
}

impl World {
    /// With a dataset, and two runs of two ranks that wait.
    fn new() -> Self {
        static MADE: OnceLock<World> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            let mut world = Self {
                cluster: Cluster::new(Policy::default()),
                now: Timestamp(1_000_000),
                rng: Rng::keyed(1, "fuzz", 0),
                ledgers: BTreeMap::new(),
                events: Vec::new(),
            };
            world.tell(Command::Start);
            world.tell(Command::RegisterDataset { url: URL.into(), digest: dataset(), manifest: Box::new(manifest()) });
            for key in ["one", "two"] {
                let experiment = Box::new(experiment());
                world.tell(Command::SubmitRun { key: key.into(), name: String::new(), experiment, dataset: dataset() });
            }
            world.events.clear();
            world
        });
        made.clone()
    }

    /// As the coordinator's loop does. The core's contract holds whatever was asked for.
    #[allow(clippy::needless_pass_by_value, reason = "who commands has no more use for it")]
    fn tell(&mut self, command: Command) {
        let before = self.cluster.clone();
        let Ok(events) = apply(&mut self.cluster, self.now, &mut self.rng, command.clone()) else {
            assert_eq!(before, self.cluster, "a refused command changes nothing");
            return;
        };
        if let Err(broken) = invariants::check(&before, &command, &events, &self.cluster) {
            panic!("{broken}\nafter {command:?}");
        }
        let mut effects = Vec::new();
        for event in &events {
            react(&self.cluster, event, &mut effects);
            if let Some(run) = event.run() {
                self.ledgers.entry(run).or_default().take(event);
            }
        }
        self.events.extend(events);
    }

    /// Time passes, and somebody asks why runs wait.
    fn pass(&mut self) {
        self.now = self.now.after(Duration::from_secs(7));
        self.tell(Command::Tick);
        drop(schedule::reasons(&self.cluster, self.now));
        for ledger in self.ledgers.values() {
            let spent = ledger.at(self.now, Reported::default()).total();
            assert!(spent <= self.now.since(Timestamp(0)), "more time was spent than there was");
        }
    }
}

fn dataset() -> Digest {
    Digest::of(b"tiny")
}

fn manifest() -> Manifest {
    let labels =
        |healthy: u64, sick: u64| BTreeMap::from([("Normal".to_owned(), healthy), ("Lung Opacity".to_owned(), sick)]);
    let counts = [("train", labels(80, 0)), ("val", labels(10, 0)), ("test", labels(10, 20))];
    Manifest {
        version: manifest::VERSION,
        name: "tiny".into(),
        preprocess: Preprocess { size: 32, ..Preprocess::default() },
        fingerprint: dataset(),
        image_size: [32, 32],
        shards: Vec::new(),
        counts: counts.into_iter().map(|(split, counts)| (split.to_owned(), counts)).collect(),
        patient_ids: PatientIds::Image,
        synthetic: true,
        skipped: BTreeMap::new(),
    }
}

fn experiment() -> Experiment {
    let json = json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": URL},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": 2, "batch_size": 8},
    });
    serde_json::from_value(json).expect("it is one")
}

/// The runs that wait when a [`session`] begins.
pub fn runs() -> Vec<RunId> {
    let world = World::new();
    let of = |key: &str| match world.cluster.keys.get(key) {
        Some(Submission::Run(id)) => *id,
        other => panic!("{key}: {other:?}"),
    };
    ["one", "two"].map(of).to_vec()
}

/// All that one agent says in a session: `SessionRequest`s, each with its length in front. It goes through the border, the
/// core and into a database, as in the coordinator.
pub fn session(mut data: &[u8]) {
    let mut world = World::new();
    let mut database = store::open(Path::new(":memory:")).expect("memory takes a database");
    let mut batch = Batch::default();
    let mut agent: Option<(WorkerId, String)> = None;
    while let Ok(request) = v1::SessionRequest::decode_length_delimited(&mut data) {
        match (request.message, &agent) {
            (Some(Request::Hello(hello)), None) => {
                let Ok(hello) = parse::hello(&hello, String::new()) else { return };
                agent = Some((hello.worker, hello.incarnation.clone()));
                world.tell(Command::Hello(Box::new(hello)));
            }
            (Some(Request::Report(report)), Some((worker, incarnation))) => {
                let Ok(seq) = parse::seq(&report) else { break };
                match report.report.map(parse::report) {
                    Some(Ok(Said::Core(fence, report))) => {
                        world.tell(Command::Report { worker: *worker, fence, report });
                    }
                    Some(Ok(Said::Leaving)) => {
                        world.tell(Command::WorkerLeaving { worker: *worker, incarnation: incarnation.clone() });
                    }
                    Some(Ok(Said::Metrics(fence, points))) => {
                        batch.metrics.extend(points.into_iter().map(|p| (fence.run, p)));
                    }
                    Some(Ok(Said::Lines(lines))) => batch.lines.extend(lines),
                    Some(Ok(Said::Progress(..) | Said::Nothing) | Err(_)) | None => {}
                }
                batch.acks.push((*worker, incarnation.clone(), seq));
                batch.events.append(&mut world.events);
                // As the loop does, turn by turn.
                keep(database.as_mut(), &mut batch);
            }
            _ => {}
        }
        world.pass();
    }
    if let Some((worker, incarnation)) = agent {
        world.tell(Command::WorkerAway { worker, incarnation, clean: false });
        world.pass();
    }
    batch.events.append(&mut world.events);
    keep(database.as_mut(), &mut batch);
}

/// What the loop commits it can commit: a database that refuses stops the coordinator.
fn keep(database: &mut dyn Writer, batch: &mut Batch) {
    database.commit(&std::mem::take(batch)).expect("a database takes what the border let in");
}

/// What people submit: the first byte says what, the rest is an experiment or a sweep as JSON, or the name of something.
pub fn submit(data: &[u8]) {
    let Some((what, document)) = data.split_first() else { return };
    let Ok(text) = str::from_utf8(document) else { return };
    let mut world = World::new();
    let key = "new".to_owned();
    match what % 3 {
        0 => {
            let Ok(experiment) = serde_json::from_str::<Experiment>(text) else { return };
            let experiment = Box::new(experiment);
            world.tell(Command::SubmitRun {
                key,
                name: text.chars().take(3).collect(),
                experiment,
                dataset: dataset(),
            });
        }
        1 => {
            let Ok(sweep) = serde_json::from_str::<Sweep>(text) else { return };
            // Larger ones are as these, and take longer.
            if search::total(&sweep).is_ok_and(|runs| runs > 64) {
                return;
            }
            let Ok(points) = search::ask(&sweep, 0, u32::MAX) else { return };
            let experiments = points.iter().map(|point| search::with(&sweep, point));
            let urls = experiments.filter_map(|e| Some((e.ok()?.dataset.url, dataset())));
            let datasets = urls.collect();
            world.tell(Command::SubmitSweep { key, sweep: Box::new(sweep), datasets });
        }
        _ => {
            if let Ok(target) = find(&world.cluster, text, None) {
                world.tell(Command::Cancel(target));
            }
        }
    }
    world.pass();
    world.pass();
}

/// Every message of the services: what is read is written as what is read again.
pub fn messages(data: &[u8]) {
    macro_rules! all {
        ($($message:ident),* $(,)?) => {$(
            if let Ok(message) = v1::$message::decode(data) {
                let again = v1::$message::decode(&*message.encode_to_vec()).expect("what was written is read");
                // Not `==`: what is not a number is not itself either.
                assert_eq!(again.encoded_len(), message.encoded_len());
            }
        )*};
    }
    all!(
        SessionRequest,
        SessionResponse,
        StartRank,
        CreateTokenRequest,
        RevokeTokenRequest,
        RegisterDatasetRequest,
        SubmitRunRequest,
        SubmitSweepRequest,
        RecordEvaluationRequest,
        LogsRequest,
        MetricsRequest,
        EventsRequest,
        GetSweepResponse,
        WatchResponse,
        ListWorkersResponse,
        ListDatasetsResponse,
        LogsResponse,
        MetricsResponse,
        EventsResponse,
    );
}

//! What people and CI say.

mod events;
mod lines;
mod pages;
mod pins;
mod prepare;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use morph_control::{
    Cause, Command, Refusal, Run, RunState, Target, find, find_run, find_sweep, find_worker, quoted, search, test_use,
};
use morph_objects::Policy as UrlPolicy;
use morph_proto::v1::{self, coordinator_server};
use morph_spec::{Digest, Experiment, Manifest, RunId, Sweep, manifest};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use self::watching::Gallery;
use self::watching::{Source, snapshot};
use crate::{
    auth::Principal,
    core::{Core, status},
    store::{Database, Lines, Reader},
    view::{self, View},
};

/// Bytes of an experiment or sweep: YAML files have no more than 1 MiB.
const LARGEST_DOCUMENT: usize = 4 << 20;
/// Bytes that the experiments of all runs of a sweep may have: each is recorded with its run.
const LARGEST_SWEEP: usize = 256 << 20;
/// Shortest time between two snapshots of a watch.
const PACE: Duration = Duration::from_millis(200);

type Answer<T> = Result<Response<T>, Status>;
type Feed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// The loop.
    pub core: Core,
    /// The database, to read from.
    pub database: Database,
    /// Which locations others may name.
    pub urls: UrlPolicy,
    /// Ends all streams.
    pub stop: CancellationToken,
    /// What is watched.
    pub gallery: Arc<Gallery>,
}

impl Coordinator {
    /// Reads from the database, on a thread that may wait.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Reader) -> Result<T, crate::store::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let database = self.database.clone();
        let done = tokio::task::spawn_blocking(move || job(&mut *database.read()?)).await;
        done.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| Status::internal(e.to_string()))
    }

    /// Asks for something that may not be there.
    async fn find<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Status> {
        self.core.ask(question).await?.map_err(status)
    }

    /// Reads the manifest at `url` and has it registered.
    async fn register(&self, url: &str) -> Result<(Digest, bool), Status> {
        let (url, digest, manifest) = self.manifest(url).await?;
        let known = {
            let url = url.clone();
            self.core.ask(move |v| v.cluster.urls.get(&url) == Some(&digest)).await?
        };
        if !known {
            self.core.command(Command::RegisterDataset { url, digest, manifest: Box::new(manifest) }).await?;
        }
        Ok((digest, known))
    }

    /// The dataset at `url`: its folder as it is recorded, its digest and its manifest.
    async fn manifest(&self, url: &str) -> Result<(String, Digest, Manifest), Status> {
        let objects = self.urls.open(url).await.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let bytes = objects.get_up_to(manifest::FILE, manifest::LARGEST).await.map_err(|e| match e {
            morph_objects::Error::NotFound { .. } => Status::not_found(format!(
                "there is no dataset at {}: prepare it first, morphctl data prepare FILE",
                objects.url()
            )),
            other => Status::failed_precondition(other.to_string()),
        })?;
        let bad = |why: String| Status::invalid_argument(format!("{}: {why}", objects.url_of(manifest::FILE)));
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if manifest.version > manifest::VERSION {
            return Err(bad(format!(
                "its version is {}, this morph knows {}: use the newer morph",
                manifest.version,
                manifest::VERSION
            )));
        }
        Ok((objects.url(), Digest::of(&bytes), manifest))
    }

    /// Refuses an experiment that names places that may not be read from; `known` are those that may.
    async fn check_places(&self, experiment: &mut Experiment, known: &mut BTreeSet<String>) -> Result<(), Status> {
        for place in experiment.places() {
            if !known.contains(place.location) {
                let refused = |e| Status::invalid_argument(format!("{}: {e}", place.field));
                self.urls.check(place.location).await.map_err(refused)?;
                known.insert(place.location.clone());
            }
        }
        Ok(())
    }

    /// Refuses an experiment that is to run after what `who` may not touch: it would tell how that ends. `known` may be.
    async fn check_after(
        &self,
        who: &Principal,
        experiment: &Experiment,
        known: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        for text in &experiment.scheduling.after {
            if !known.contains(text) {
                let refused = |s: Status| Status::new(s.code(), format!("scheduling.after: {}", s.message()));
                self.theirs(who, text.clone()).await.map_err(refused)?;
                known.insert(text.clone());
            }
        }
        Ok(())
    }

    /// The run or sweep that `text` means, of those that `who` may touch.
    async fn theirs(&self, who: &Principal, text: String) -> Result<Target, Status> {
        let within = who.project.clone();
        self.find(move |v| find(v.cluster, &text, within.as_deref())).await
    }

    /// As [`Self::theirs`], of runs alone.
    async fn their_run(&self, who: &Principal, text: String) -> Result<RunId, Status> {
        let within = who.project.clone();
        self.find(move |v| find_run(v.cluster, &text, within.as_deref())).await
    }

    /// Refuses `who` sent a key with which another project submitted `id`, and does not tell what that is.
    async fn made_by(&self, who: &Principal, id: &str) -> Result<(), Status> {
        let refused = |_| Status::permission_denied("key: another project has used it; choose one that is new");
        self.theirs(who, id.to_owned()).await.map(drop).map_err(refused)
    }

    /// The run or sweep that `text` means, and those of its runs that are `wanted`.
    async fn runs(
        &self,
        who: Principal,
        text: String,
        wanted: fn(&Run) -> bool,
    ) -> Result<(Target, Vec<String>), Status> {
        self.find(move |v| {
            let target = find(v.cluster, &text, who.project.as_deref())?;
            let runs = match target {
                Target::Run(id) => vec![id],
                Target::Sweep(id) => v.cluster.sweeps.get(&id).map(|s| s.runs.clone()).unwrap_or_default(),
            };
            let found = runs.iter().filter_map(|id| v.cluster.runs.get(id)).filter(|r| wanted(r));
            Ok((target, found.map(|r| r.id.to_string()).collect()))
        })
        .await
    }

    /// What `key` has made.
    async fn existing(&self, key: &str) -> Result<bool, Status> {
        if key.is_empty() {
            return Err(Status::invalid_argument("key: missing; choose one that is new for what is new"));
        }
        let key = key.to_owned();
        self.core.ask(move |v| v.cluster.keys.contains_key(&key)).await
    }
}

fn document<T: serde::de::DeserializeOwned>(field: &str, json: &str) -> Result<T, Status> {
    if json.len() > LARGEST_DOCUMENT {
        let why = format!("{field}: {} bytes, {LARGEST_DOCUMENT} are the most", json.len());
        return Err(Status::invalid_argument(why));
    }
    serde_json::from_str(json).map_err(|e| Status::invalid_argument(format!("{field}: {e}")))
}

/// Bytes of `document`, which is recorded as JSON.
fn length(document: &impl serde::Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, document).expect("invariant: documents are JSON");
    count.0
}

fn not_found(what: &str) -> Refusal {
    Refusal::NotFound(format!("there is no such {what}"))
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for Coordinator {
    async fn register_dataset(
        &self,
        request: Request<v1::RegisterDatasetRequest>,
    ) -> Answer<v1::RegisterDatasetResponse> {
        let (digest, existed) = self.register(&request.into_inner().url).await?;
        let dataset = self.core.ask(move |v| v.cluster.datasets.get(&digest).map(|d| view::dataset(d, true))).await?;
        Ok(Response::new(v1::RegisterDatasetResponse { dataset, existed }))
    }

    async fn list_datasets(&self, _: Request<v1::ListDatasetsRequest>) -> Answer<v1::ListDatasetsResponse> {
        let newest = |v: &View<'_>| {
            // The same dataset may lie in several places.
            let found = v.cluster.urls.iter().filter_map(|(url, digest)| Some((url, v.cluster.datasets.get(digest)?)));
            found.map(|(url, d)| v1::Dataset { url: url.clone(), ..view::dataset(d, false) }).collect()
        };
        Ok(Response::new(v1::ListDatasetsResponse { datasets: self.core.ask(newest).await? }))
    }

    type PrepareStream = Feed<v1::PrepareResponse>;

    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<Self::PrepareStream> {
        self.prepared(request.into_inner()).await
    }

    async fn submit_run(&self, request: Request<v1::SubmitRunRequest>) -> Answer<v1::SubmitRunResponse> {
        let who = Principal::of(&request)?;
        let v1::SubmitRunRequest { key, experiment_json, name, dataset: wanted } = request.into_inner();
        let existed = self.existing(&key).await?;
        if !existed {
            let mut experiment: Experiment = document("experiment", &experiment_json)?;
            who.check(&experiment.scheduling.project)?;
            self.check_after(&who, &experiment, &mut BTreeSet::new()).await?;
            self.check_places(&mut experiment, &mut BTreeSet::new()).await?;
            let (dataset, _) = self.register(&experiment.dataset.url).await?;
            if !wanted.is_empty() && wanted != dataset.to_string() {
                let url = &experiment.dataset.url;
                let why = format!(
                    "the dataset at {url} is not the one that was asked for: its digest is {dataset}, not {wanted}"
                );
                return Err(Status::failed_precondition(why));
            }
            let mut pins = BTreeMap::new();
            self.pin(&experiment, &mut pins).await?;
            experiment.evaluation.digests = pins;
            let (key, experiment) = (key.clone(), Box::new(experiment));
            self.core.command(Command::SubmitRun { key, name, experiment, dataset }).await?;
        }
        let run = self
            .find(move |v| match v.cluster.keys.get(&key) {
                Some(morph_control::Submission::Run(id)) => {
                    v.cluster.runs.get(id).map(|r| v.run(r, true)).ok_or_else(|| not_found("run"))
                }
                _ => Err(Refusal::Exists(format!("the key {} does not belong to a run", quoted(&key)))),
            })
            .await?;
        self.made_by(&who, &run.id).await?;
        Ok(Response::new(v1::SubmitRunResponse { run: Some(run), existed }))
    }

    async fn submit_sweep(&self, request: Request<v1::SubmitSweepRequest>) -> Answer<v1::SubmitSweepResponse> {
        let who = Principal::of(&request)?;
        let v1::SubmitSweepRequest { key, sweep_json } = request.into_inner();
        let existed = self.existing(&key).await?;
        if !existed {
            let mut sweep: Sweep = document("sweep", &sweep_json)?;
            let invalid = |e: search::Error| Status::invalid_argument(e.to_string());
            let mut bytes = 0usize;
            let (mut datasets, mut places, mut pins) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
            let mut theirs = BTreeSet::new();
            for point in search::ask(&sweep, 0, u32::MAX).map_err(invalid)? {
                let mut experiment = search::with(&sweep, &point).map_err(invalid)?;
                bytes = bytes.saturating_add(length(&experiment));
                if bytes > LARGEST_SWEEP {
                    let most = LARGEST_SWEEP >> 20;
                    let why = format!(
                        "sweep: the experiments of its runs have more than {most} MiB together: set run_cap, or make them smaller"
                    );
                    return Err(Status::invalid_argument(why));
                }
                who.check(&experiment.scheduling.project)?;
                self.check_after(&who, &experiment, &mut theirs).await?;
                self.check_places(&mut experiment, &mut places).await?;
                self.pin(&experiment, &mut pins).await?;
                let url = experiment.dataset.url;
                if let std::collections::btree_map::Entry::Vacant(unknown) = datasets.entry(url) {
                    let (digest, _) = self.register(unknown.key()).await?;
                    unknown.insert(digest);
                }
            }
            sweep.experiment.iter_mut().for_each(|e| e.evaluation.digests.clone_from(&pins));
            let (key, sweep) = (key.clone(), Box::new(sweep));
            self.core.command(Command::SubmitSweep { key, sweep, datasets }).await?;
        }
        let sweep = self
            .find(move |v| match v.cluster.keys.get(&key) {
                Some(morph_control::Submission::Sweep(id)) => {
                    v.cluster.sweeps.get(id).map(|s| v.sweep(s, true)).ok_or_else(|| not_found("sweep"))
                }
                _ => Err(Refusal::Exists(format!("the key {} does not belong to a sweep", quoted(&key)))),
            })
            .await?;
        self.made_by(&who, &sweep.id).await?;
        Ok(Response::new(v1::SubmitSweepResponse { sweep: Some(sweep), existed }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let page = self.find(move |v| pages::runs(v, &who, &request)).await?;
        Ok(Response::new(page))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Answer<v1::GetRunResponse> {
        let who = Principal::of(&request)?;
        let text = request.into_inner().run;
        let run = self
            .find(move |v| {
                let id = find_run(v.cluster, &text, who.project.as_deref())?;
                v.cluster.runs.get(&id).map(|r| v.run(r, true)).ok_or_else(|| not_found("run"))
            })
            .await?;
        Ok(Response::new(v1::GetRunResponse { run: Some(run) }))
    }

    async fn list_sweeps(&self, request: Request<v1::ListSweepsRequest>) -> Answer<v1::ListSweepsResponse> {
        let who = Principal::of(&request)?;
        let all = move |v: &View<'_>| {
            let own = v.cluster.sweeps.values().filter(|s| v.cluster.has_within(s, who.project.as_deref()));
            own.map(|s| v.sweep(s, false)).collect()
        };
        let sweeps = self.core.ask(all).await?;
        Ok(Response::new(v1::ListSweepsResponse { sweeps }))
    }

    async fn get_sweep(&self, request: Request<v1::GetSweepRequest>) -> Answer<v1::GetSweepResponse> {
        let who = Principal::of(&request)?;
        let text = request.into_inner().sweep;
        let (sweep, runs) = self
            .find(move |v| {
                let id = find_sweep(v.cluster, &text, who.project.as_deref())?;
                let sweep = v.cluster.sweeps.get(&id).ok_or_else(|| not_found("sweep"))?;
                let runs = sweep.runs.iter().filter_map(|id| v.cluster.runs.get(id)).map(|r| v.run(r, false)).collect();
                Ok((v.sweep(sweep, true), runs))
            })
            .await?;
        Ok(Response::new(v1::GetSweepResponse { sweep: Some(sweep), runs }))
    }

    async fn list_workers(&self, request: Request<v1::ListWorkersRequest>) -> Answer<v1::ListWorkersResponse> {
        let who = Principal::of(&request)?;
        let all = move |v: &View<'_>| v.cluster.workers.values().map(|w| v.worker(w, &who)).collect();
        let workers = self.core.ask(all).await?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Answer<v1::CancelResponse> {
        let who = Principal::of(&request)?;
        let (target, runs) = self.runs(who, request.into_inner().id, |r| !r.is_over()).await?;
        self.core.command(Command::Cancel(target)).await?;
        Ok(Response::new(v1::CancelResponse { runs }))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Answer<v1::PauseResponse> {
        let who = Principal::of(&request)?;
        let open = |r: &Run| !r.is_over() && !matches!(r.state, RunState::Paused { .. });
        let (target, runs) = self.runs(who, request.into_inner().id, open).await?;
        self.core.command(Command::Pause(target)).await?;
        Ok(Response::new(v1::PauseResponse { runs }))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Answer<v1::ResumeResponse> {
        let who = Principal::of(&request)?;
        let paused = |r: &Run| match &r.state {
            RunState::Paused { .. } => true,
            RunState::Stopping { stop, .. } => stop.cause == Cause::Pause,
            _ => false,
        };
        let (target, runs) = self.runs(who, request.into_inner().id, paused).await?;
        self.core.command(Command::Resume(target)).await?;
        Ok(Response::new(v1::ResumeResponse { runs }))
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Answer<v1::RetryResponse> {
        let who = Principal::of(&request)?;
        let ended = |r: &Run| matches!(r.state, RunState::Failed { .. } | RunState::Cancelled { .. });
        let (target, runs) = self.runs(who, request.into_inner().id, ended).await?;
        self.core.command(Command::Retry(target)).await?;
        Ok(Response::new(v1::RetryResponse { runs }))
    }

    async fn cordon(&self, request: Request<v1::CordonRequest>) -> Answer<v1::CordonResponse> {
        let v1::CordonRequest { worker: text, reason, drain } = request.into_inner();
        let worker = self.find(move |v| find_worker(v.cluster, &text)).await?;
        let reason = if reason.is_empty() { "by hand".to_owned() } else { reason };
        self.core.command(Command::Cordon { worker, reason, drain }).await?;
        let runs = self.core.ask(move |v| v.cluster.runs_on(worker).map(|r| r.id.to_string()).collect()).await?;
        Ok(Response::new(v1::CordonResponse { worker: worker.to_string(), runs }))
    }

    async fn uncordon(&self, request: Request<v1::UncordonRequest>) -> Answer<v1::UncordonResponse> {
        let text = request.into_inner().worker;
        let worker = self.find(move |v| find_worker(v.cluster, &text)).await?;
        self.core.command(Command::Uncordon(worker)).await?;
        Ok(Response::new(v1::UncordonResponse { worker: worker.to_string() }))
    }

    type WatchStream = Feed<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let who = Principal::of(&request)?;
        let target = self.theirs(&who, request.into_inner().id).await?;
        let this = self.clone();
        let paint = move || {
            let this = this.clone();
            let timed = move |v: &View<'_>| {
                let since = Instant::now();
                snapshot(v, target).map(|(response, over)| (response, over, since.elapsed()))
            };
            async move { this.find(timed).await }
        };
        let source = Source { paint, changes: self.core.changes(), stop: self.stop.clone() };
        Ok(Response::new(Box::pin(self.gallery.watch(target, source))))
    }

    type LogsStream = Feed<v1::LogsResponse>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let who = Principal::of(&request)?;
        let v1::LogsRequest { run: text, follow, rank, attempt, tail, after } = request.into_inner();
        let run = self.their_run(&who, text).await?;
        let (sender, stream) = mpsc::channel(4);
        let this = self.clone();
        tokio::spawn(async move {
            let wanted = Lines { rank, attempt, tail, after };
            if let Err(status) = this.tell_lines(run, wanted, follow, &sender).await {
                // Whoever listened may have gone away.
                sender.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn metrics(&self, request: Request<v1::MetricsRequest>) -> Answer<v1::MetricsResponse> {
        let who = Principal::of(&request)?;
        let v1::MetricsRequest { run, names } = request.into_inner();
        let run = self.their_run(&who, run).await?;
        let points = self.read(move |s| s.metrics(run, &names)).await?;
        let point = |p: crate::store::Point| v1::MetricPoint { step: p.step, at: p.at, name: p.name, value: p.value };
        Ok(Response::new(v1::MetricsResponse { points: points.into_iter().map(point).collect() }))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<v1::EventsResponse> {
        self.history(request).await
    }

    async fn test_sets(&self, request: Request<v1::TestSetsRequest>) -> Answer<v1::TestSetsResponse> {
        let who = Principal::of(&request)?;
        let wanted = request.into_inner().datasets;
        let told = move |v: &View<'_>| {
            let all = test_use::all(v.cluster).into_iter();
            let told = all.map(|t| view::test_set(v.cluster, &t, |project| who.may_touch(project)));
            told.filter(|t| wanted.is_empty() || wanted.contains(&t.dataset) || wanted.contains(&t.url)).collect()
        };
        Ok(Response::new(v1::TestSetsResponse { tests: self.core.ask(told).await? }))
    }

    async fn record_evaluation(
        &self,
        request: Request<v1::RecordEvaluationRequest>,
    ) -> Answer<v1::RecordEvaluationResponse> {
        let who = Principal::of(&request)?;
        let v1::RecordEvaluationRequest { run, checkpoint, tests, key } = request.into_inner();
        let run = if run.is_empty() {
            None
        } else {
            match self.theirs(&who, run).await? {
                Target::Run(id) => Some(id),
                Target::Sweep(_) => return Err(Status::invalid_argument("run: that is a sweep")),
            }
        };
        let tested = |t: v1::Tested| {
            let digest = (!t.digest.is_empty()).then(|| t.digest.parse()).transpose();
            let digest = digest.map_err(|e| Status::invalid_argument(format!("digest of {}: {e}", t.url)))?;
            Ok::<_, Status>(test_use::Tested { url: t.url, digest, split: t.split })
        };
        let tests = tests.into_iter().map(tested).collect::<Result<_, _>>()?;
        let key = Some(key).filter(|key| !key.is_empty());
        self.core.command(Command::Rescored { key, run, checkpoint, tests }).await?;
        Ok(Response::new(v1::RecordEvaluationResponse {}))
    }

    type FollowEventsStream = Feed<v1::FollowEventsResponse>;

    async fn follow_events(&self, request: Request<v1::FollowEventsRequest>) -> Answer<Self::FollowEventsStream> {
        self.follow(request).await
    }
}

impl Coordinator {
    /// Waits for a change of the state, and no less than is polite; false: nobody listens any more.
    async fn changed<T>(
        &self,
        changes: &mut watch::Receiver<u64>,
        to: &mpsc::Sender<Result<T, Status>>,
    ) -> Result<bool, Status> {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Err(stopping()) },
            () = to.closed() => return Ok(false),
            () = self.stop.cancelled() => return Err(stopping()),
        }
        tokio::time::sleep(PACE).await;
        Ok(true)
    }
}

/// What a stream ends with that has not come to its end.
fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

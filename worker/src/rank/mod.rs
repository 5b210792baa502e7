//! A rank: one process that trains its share of a run and then scores it.

pub mod batches;
pub mod events;
pub mod failure;
pub mod foreign;
pub mod group;
pub mod images;
pub mod orders;
pub mod progress;
pub mod resume;
pub mod saver;
pub mod schedule;
pub mod snapshot;
pub mod trainer;
pub mod updates;

use std::{
    io::{BufReader, stdin, stdout},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use morph_checkpoint::{Tensors, retention::Kept};
use morph_collective::native::{self, Determinism};
use morph_model::Optimizers;
use morph_objects::Objects;
use morph_proto::v1;
use morph_scores::evaluation::Input;
use morph_spec::{Digest, Experiment};
use morph_telemetry::{Identity, TRACE, continues};
use tch::{Device, Kind};
use tokio::runtime::{Builder, Runtime};

use crate::{
    child, device,
    evaluate::{self, Similarity},
    rank::{
        events::Events,
        failure::Failure,
        group::{Group, Place},
        images::Dataset,
        orders::{Orders, leave},
        saver::Saver,
        snapshot::{Net, Provenance},
        trainer::{Bench, End, Trainer},
    },
    wire::{Event, Exit},
};

/// How a rank is started by its agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Process id of the agent.
    pub agent: u32,
    /// The address at which other ranks reach this one.
    pub host: String,
    /// The node's cache.
    pub cache: PathBuf,
    /// Its limit in bytes.
    pub cache_bytes: u64,
}

/// Serves one attempt and exits.
pub fn main(options: &Options) -> ! {
    let events = Arc::new(Events::new(Box::new(stdout())));
    if let Err(why) = child::bind_to(options.agent).and_then(|()| child::limit()) {
        leave(&events, Exit::Infra, why);
    }
    let orders = Orders::read(BufReader::new(stdin()), Arc::clone(&events));
    let start = orders.start();
    let v1::Fence { run, attempt } = start.fence.clone().unwrap_or_default();
    let span =
        tracing::info_span!(target: TRACE, "rank", run, attempt, rank = start.rank, world_size = start.world_size);
    continues(&span, &start.traceparent);
    morph_telemetry::identify(Identity { run, attempt, rank: start.rank });
    let ended = span.in_scope(|| serve(options, &start, &orders, &events));
    // Ended before the process: what has not ended is not sent.
    drop(span);
    match ended {
        Ok(exit) => leave(&events, exit, String::new()),
        Err(failure) => {
            tracing::error!("{failure}");
            leave(&events, failure.exit(), failure.to_string());
        }
    }
}

/// What a start order says, parsed.
#[derive(Debug)]
pub struct Job {
    /// The attempt.
    pub attempt: u32,
    /// This rank.
    pub rank: u32,
    /// Number of ranks.
    pub world: u32,
    /// Which of this node's slots: the GPU.
    pub device: u32,
    /// The experiment.
    pub experiment: Experiment,
    /// Its canonical JSON.
    pub experiment_json: serde_json::Value,
    /// The dataset's folder.
    pub dataset: String,
    /// BLAKE3 of its manifest.
    pub digest: Digest,
    /// The checkpoint to go on from.
    pub resume: Option<(String, Digest)>,
    /// Recorded checkpoints that retention may remove.
    pub older: Vec<Kept>,
    /// Checkpoints and artifacts go below this.
    pub output: Objects,
}

impl Job {
    /// Parses a start order.
    ///
    /// # Errors
    /// What is missing or wrong: the coordinator's fault, or a version that does not fit.
    pub fn parse(start: &v1::StartRank) -> Result<Self, Failure> {
        let bad = |what: &str, why: String| Failure::User(format!("the start order's {what}: {why}"));
        let fence = start.fence.as_ref().ok_or_else(|| bad("fence", "missing".into()))?;
        let dataset = start.dataset.as_ref().ok_or_else(|| bad("dataset", "missing".into()))?;
        let digest = |text: &str| text.parse::<Digest>().map_err(|e| bad("digest", e.to_string()));
        let resume = match &start.resume {
            Some(c) => Some((c.url.clone(), digest(&c.digest)?)),
            None => None,
        };
        let kept = |c: &v1::Checkpoint| Kept { url: c.url.clone(), step: c.step, best: c.best };
        let mut older: Vec<Kept> = start.older.iter().chain(&start.resume).map(kept).collect();
        older.sort_by(|a, b| (a.step, &a.url).cmp(&(b.step, &b.url)));
        older.dedup_by(|a, b| a.url == b.url);
        Ok(Self {
            attempt: fence.attempt,
            rank: start.rank,
            world: start.world_size.max(1),
            device: start.device,
            experiment: serde_json::from_str(&start.experiment_json).map_err(|e| bad("experiment", e.to_string()))?,
            experiment_json: serde_json::from_str(&start.experiment_json)
                .map_err(|e| bad("experiment", e.to_string()))?,
            dataset: dataset.url.clone(),
            digest: digest(&dataset.digest)?,
            resume,
            older,
            output: Objects::open(&start.output_url)?,
        })
    }
}

fn serve(options: &Options, start: &v1::StartRank, orders: &Orders, events: &Arc<Events>) -> Result<Exit, Failure> {
    let job = Job::parse(start)?;
    let settings = &job.experiment.trainer;
    let place = Place { device: device::pick(settings.device, job.device)?, kind: Kind::Float };
    set_up(settings.threads, place.device)?;
    let runtime = runtime()?;

    let prepare = tracing::info_span!(target: TRACE, "prepare").entered();
    let dataset =
        runtime.block_on(Dataset::open(&job.dataset, Some(job.digest), &options.cache, options.cache_bytes))?;
    let sets = runtime.block_on(dataset.sets(&job.experiment))?;
    // Every rank looks, and finds the same: nobody trains for days to be refused.
    let leakage = evaluate::leakage::look(&job.experiment, &sets.train, &sets.validation, &sets.test);
    evaluate::leakage::refuse(&leakage)?;
    evaluate::inputs::truth_is_there(&job.experiment)?;
    let lpips = Similarity::load(&job.experiment, place, &runtime)?;
    let fid = evaluate::inception(&job.experiment, place, &runtime)?;
    let mut net = build(&job.experiment, place, &runtime)?;
    let provenance = Provenance { experiment: job.experiment_json.clone(), dataset: dataset.digest, world: job.world };
    let folder = job.output.at("checkpoints");
    let at = match &job.resume {
        Some((url, digest)) => {
            let snapshot = runtime.block_on(resume::read(url, *digest, &folder))?;
            tracing::info!(step = snapshot.state.step, epoch = snapshot.state.epoch, "going on from {url}");
            snapshot::restore(&mut net, &snapshot, &provenance)?
        }
        None => foreign::begin(&mut net, &job.experiment, &runtime)?,
    };

    let timeout = Duration::from_secs(u64::from(settings.collective_timeout_s.max(1)));
    let group = Group::join(job.rank, job.world, &options.host, timeout, place.device, orders, events)?;
    let tensors: Vec<_> = net.method.parameters().into_iter().chain(net.method.buffers()).map(|(_, t)| t).collect();
    group.broadcast(&tensors)?;
    drop(tensors);
    drop(prepare);

    let saver = (job.rank == 0).then(|| {
        let keep = settings.checkpoint.keep_last;
        let older = resume::keeping_the_best(&job.older, at.best.as_ref());
        Saver::new(runtime.handle().clone(), folder, job.attempt, keep, older, Arc::clone(events))
    });
    let bench = Bench {
        experiment: &job.experiment,
        sets: &sets,
        group: &group,
        place,
        orders,
        events,
        provenance: &provenance,
    };
    orders.begin_training()?;
    let mut trainer = Trainer::new(bench, net, at, saver);
    events.say(&Event::Ready {
        step: trainer.position().step,
        total_steps: trainer.total_steps(),
        cached: dataset.cached(),
    });
    if trainer.train()? == End::Stopped {
        return Ok(Exit::Stopped);
    }
    let (net, at, saver) = trainer.into_parts();
    if group.any(orders.stop_requested())? {
        return Ok(Exit::Stopped);
    }
    let inputs = evaluate::weights(&net.files(&job.experiment), lpips.as_ref(), fid.as_ref());
    let scene = evaluate::Scene {
        experiment: &job.experiment,
        test: &sets.test,
        validation: &sets.validation,
        leakage: Some(&leakage),
        lpips: lpips.as_ref(),
        fid: fid.as_ref().map(|(network, _)| network),
        inputs: &inputs,
        group: &group,
        place,
        orders,
        runtime: &runtime,
    };
    let since = Instant::now();
    let _evaluate = tracing::info_span!(target: TRACE, "evaluate").entered();
    if !evaluate::attempt(&scene, net.method.as_ref(), &at, &job.output, events)? {
        return Ok(Exit::Stopped);
    }
    if job.rank == 0 {
        events.metrics(at.step, [("perf/scoring_seconds".to_owned(), since.elapsed().as_secs_f64())]);
    }
    if let Some(saver) = saver {
        orders.acknowledged().into_iter().for_each(|step| saver.recorded(step));
        saver.tidy();
    }
    Ok(Exit::Succeeded)
}

/// Fixes everything in libtorch on which results could depend. On a GPU some sums are in any order all the same.
///
/// # Errors
/// When libtorch refuses.
pub fn set_up(threads: u32, device: Device) -> Result<(), Failure> {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
    if device.is_cuda() {
        native::set_deterministic(Determinism::CuDnn)?;
        native::set_tf32(false)?;
    } else {
        native::set_deterministic(Determinism::All)?;
    }
    Ok(native::set_flush_denormal(true)?)
}

/// The runtime for object storage: one thread, beside those that compute.
///
/// # Errors
/// When no thread can be had.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::Infra(format!("start the I/O thread: {e}")))
}

/// Builds the network and its optimizers as `experiment` says; weights from its seed.
///
/// # Errors
/// When perceptual weights cannot be had.
pub fn build(experiment: &Experiment, place: Place, runtime: &Runtime) -> Result<Net, Failure> {
    let settings = &experiment.trainer;
    let perceptual = &settings.loss.perceptual;
    let named = perceptual.weights.as_deref().filter(|w| perceptual.weight != 0.0 && *w != "random");
    let vgg = named.map(|location| weights("trainer.loss.perceptual.weights", location, runtime)).transpose()?;
    let (vgg, inputs) = vgg.unzip();
    tch::manual_seed(settings.seed.cast_signed());
    let method = morph_model::build(&experiment.model, settings, vgg.as_ref(), place.device, place.kind)?;
    let optimizers = Optimizers::new(method.as_ref(), &settings.optimizer);
    Ok(Net { method, optimizers, inputs: inputs.into_iter().collect(), begun: None })
}

/// The tensors in the file of weights at `location`, of any kind that is known, and what file it was, for the record. `field` is where the
/// experiment names it.
///
/// # Errors
/// When it cannot be read.
pub fn weights(field: &str, location: &str, runtime: &Runtime) -> Result<(Tensors, Input), Failure> {
    let (folder, key) = split_location(location)?;
    let bytes = runtime.block_on(folder.get(&key))?;
    let input = evaluate::inputs::file(field, &folder.url_of(&key), Digest::of(&bytes));
    Ok((morph_checkpoint::weights::read(&bytes, location)?, input))
}

/// A file by URL or path: its folder and its name.
///
/// # Errors
/// When it is neither.
pub fn split_location(location: &str) -> Result<(Objects, String), Failure> {
    if location.contains("://") {
        return Ok(morph_objects::split_url(location)?);
    }
    let path = Path::new(location);
    let name = path.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Failure::User(format!("{location:?} is no file")))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Objects::open(&folder.to_string_lossy())?, name.to_owned()))
}

//! `train`, `sweep`, and all that is submitted, followed and concluded as they are.

use std::{future::Future, pin::Pin, thread::available_parallelism};

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_proto::v1::{self, RunState, SweepState};
use morph_spec::{
    Digest, Experiment,
    experiment::{Device, Place},
    gpus,
    load::Document,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Status;

use crate::{
    cli::{Format, Global, Submit},
    connect::{self, AWAY, Client, Connection, is_away},
    data,
    fail::{HANGUP, INTERRUPTED, OK, TERMINATED, UNREACHABLE, USAGE, coded, status},
    get::pages,
    local::Local,
    print,
    reproduce::Original,
    results,
    watch::Screen,
};

/// The command as it was typed, ready to be typed again.
pub fn typed() -> String {
    let quoted = |arg: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) { arg } else { format!("'{}'", arg.replace('\'', "'\\''")) }
    };
    // Names of files need not be UTF-8; `args` would panic.
    let words = std::env::args_os().skip(1).map(|word| quoted(word.to_string_lossy().into_owned()));
    std::iter::once("morphctl".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// What is submitted.
pub enum Job {
    /// One training.
    Run {
        /// What is trained.
        experiment: Box<Experiment>,
        /// Its name; empty: the experiment's and a number.
        name: String,
    },
    /// A search.
    Sweep(Box<morph_spec::Sweep>),
    /// A training that was done before.
    Again(Box<Original>),
}

/// What it became.
struct Submitted {
    id: String,
    name: String,
    existed: bool,
    over: bool,
    /// Runs that are tried again.
    retried: usize,
}

/// Reads the file as the verb wants it.
fn read(global: &Global, args: &Submit, verb: &str) -> Result<Job> {
    let mut set = args.set.clone();
    set.set.extend(args.project.iter().map(|project| format!("scheduling.project={project}")));
    set.set.extend(args.priority.iter().map(|priority| format!("scheduling.priority={priority}")));
    if !args.after.is_empty() {
        set.set.push(format!("scheduling.after=[{}]", args.after.join(", ")));
    }
    let document = data::document(&args.file, &data::options(global, &set)?)?;
    match (document, verb) {
        (Document::Experiment(mut experiment), "train") => {
            absolute(&mut experiment)?;
            Ok(Job::Run { experiment, name: args.name.clone().unwrap_or_default() })
        }
        (Document::Sweep(mut sweep), "sweep") => {
            sweep.experiment.iter_mut().try_for_each(absolute)?;
            if let Some(name) = &args.name {
                sweep.name.clone_from(name);
            }
            Ok(Job::Sweep(sweep))
        }
        (other, _) => {
            let fix = match other.kind() {
                "experiment" => "morphctl train",
                "sweep" => "morphctl sweep",
                "cluster" => "morph-coordinator --cluster",
                _ => "morphctl data prepare",
            };
            let file = args.file.display();
            Err(coded(USAGE, format!("{file} is of kind: {}; for that it is {fix} {file}", other.kind())))
        }
    }
}

/// Paths mean files of this machine and working folder: whoever reads them may have others.
///
/// # Errors
/// When one is no place.
pub fn absolute(experiment: &mut Experiment) -> Result<()> {
    for Place { location, is_folder, .. } in experiment.places() {
        if is_folder {
            *location = Objects::open(location)?.url();
        } else if !location.contains("://") {
            let path = std::path::absolute(&*location).with_context(|| format!("find {location}"))?;
            *location = format!("file://{}", path.display());
        }
    }
    Ok(())
}

impl Job {
    /// The same job has the same key, so that the same command goes on instead of beginning again.
    fn key(&self) -> Result<String> {
        let (kind, text) = match self {
            Self::Run { experiment, name } => ("run", format!("{name}\n{}", serde_json::to_string(experiment)?)),
            Self::Sweep(sweep) => ("sweep", serde_json::to_string(sweep)?),
            Self::Again(original) => ("again", original.run.id.clone()),
        };
        Ok(format!("{kind}-{}", &Digest::of(text.as_bytes()).to_string()[..32]))
    }

    /// What becomes of it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Run { .. } | Self::Again(_) => "run",
            Self::Sweep(_) => "sweep",
        }
    }

    fn world_size(&self) -> u32 {
        match self {
            Self::Run { experiment, .. } => experiment.trainer.world_size,
            Self::Again(original) => original.experiment.trainer.world_size,
            Self::Sweep(sweep) => sweep.experiment.iter().map(|e| e.trainer.world_size).max().unwrap_or(1),
        }
    }

    /// Whether its ranks take GPUs where there are some.
    fn on_gpus(&self) -> bool {
        let may = |e: &Experiment| e.trainer.device != Device::Cpu;
        match self {
            Self::Run { experiment, .. } => may(experiment),
            Self::Again(original) => may(&original.experiment),
            Self::Sweep(sweep) => sweep.experiment.iter().any(may),
        }
    }

    /// Whether a sweep sets the number of ranks itself.
    fn chooses_world_size(&self) -> bool {
        matches!(self, Self::Sweep(sweep) if sweep.parameters.keys().any(|name| name == "trainer.world_size"))
    }

    /// Submits it, or finds what the same submission has made. What of that failed or was cancelled is tried again.
    async fn submit(&self, client: &mut Client) -> Result<Submitted> {
        let (mut submitted, good) = self.submit_as(client, self.key()?).await?;
        if !good {
            let request = v1::RetryRequest { id: submitted.id.clone() };
            submitted.retried = client.retry(request).await.map_err(|s| status(&s))?.into_inner().runs.len();
            submitted.over = false;
        }
        Ok(submitted)
    }

    /// Submits it once; false when it has ended without success.
    async fn submit_as(&self, client: &mut Client, key: String) -> Result<(Submitted, bool)> {
        match self {
            Self::Run { experiment, name } => {
                let experiment_json = serde_json::to_string(experiment)?;
                let request = v1::SubmitRunRequest { key, experiment_json, name: name.clone(), ..Default::default() };
                submit_run(client, request).await
            }
            // One that has ended is no answer to who wants it trained again; one that has not goes on.
            Self::Again(original) => {
                let mut n = 1u32;
                loop {
                    let (submitted, good) = submit_run(client, original.request(&key, n)?).await?;
                    if !submitted.existed || (!submitted.over && good) {
                        return Ok((submitted, good));
                    }
                    n += 1;
                }
            }
            Self::Sweep(sweep) => {
                let request = v1::SubmitSweepRequest { key, sweep_json: serde_json::to_string(sweep)? };
                let done = client.submit_sweep(request).await.map_err(|s| status(&s))?.into_inner();
                let sweep = done.sweep.unwrap_or_default();
                let state = sweep.state();
                let good = !matches!(state, SweepState::Failed | SweepState::Cancelled);
                let over = !matches!(state, SweepState::Running | SweepState::Paused);
                Ok((Submitted { id: sweep.id, name: sweep.name, existed: done.existed, over, retried: 0 }, good))
            }
        }
    }
}

async fn submit_run(client: &mut Client, request: v1::SubmitRunRequest) -> Result<(Submitted, bool)> {
    let done = client.submit_run(request).await.map_err(|s| status(&s))?.into_inner();
    let run = done.run.unwrap_or_default();
    let state = run.state();
    let over = matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled);
    let good = !matches!(state, RunState::Failed | RunState::Cancelled);
    Ok((Submitted { id: run.id, name: run.name, existed: done.existed, over, retried: 0 }, good))
}

/// What is to be done, and where.
pub struct Errand {
    /// As the command line calls it.
    pub verb: &'static str,
    /// What is submitted.
    pub job: Job,
    /// In this process and its children.
    pub local: bool,
    /// With `local`: how many ranks at a time.
    pub slots: Option<u32>,
    /// Without waiting for the end.
    pub detach: bool,
}

/// Runs `train` or `sweep`; the exit code.
///
/// # Errors
/// What went wrong.
pub async fn run(global: &Global, args: &Submit, verb: &'static str) -> Result<u8> {
    let job = read(global, args, verb)?;
    Errand { verb, job, local: args.local, slots: args.slots, detach: args.detach }.run(global).await
}

impl Errand {
    /// Submits, follows and concludes; the exit code.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn run(&self, global: &Global) -> Result<u8> {
        if self.local {
            return self.here(global).await;
        }
        let Some(mut client) = Connection::live(global).await? else {
            let why = format!(
                "nobody serves {}: run it here with {} --local, or name a coordinator with --coordinator URL",
                connect::home(global)?.display(),
                typed()
            );
            return Err(coded(UNREACHABLE, why));
        };
        let submitted = self.job.submit(&mut client).await?;
        self.announce(global, &submitted);
        if self.detach {
            return self.detached(global, &submitted).map(|()| OK);
        }
        let mut screen = Screen::new(global);
        let mut signals = Signals::new()?;
        tokio::select! {
            end = follow(global, &mut client, &submitted, &mut screen) => {
                screen.finish();
                self.conclude(global, &mut client, &end?).await
            }
            code = signals.next() => {
                screen.finish();
                say!("{} {} goes on without you", self.verb, submitted.name);
                say!("  come back:  {}", typed());
                say!("  stop it:    morphctl cancel {}", submitted.name);
                Ok(code)
            }
        }
    }

    /// `--local`.
    async fn here(&self, global: &Global) -> Result<u8> {
        // Said by the environment it is a default, which the command line may override.
        if std::env::args_os().any(|arg| arg.to_string_lossy().starts_with("--coordinator")) {
            return Err(coded(
                USAGE,
                "--local and --coordinator exclude each other: one trains here, the other elsewhere",
            ));
        }
        if global.coordinator.is_some() && !global.quiet {
            say!("--local: MORPH_COORDINATOR is set, and not used");
        }
        let home = connect::home(global)?;
        let world_size = self.job.world_size();
        let slots = self.slots.unwrap_or_else(|| computers(self.job.on_gpus()).max(world_size));
        if slots < world_size && !self.job.chooses_world_size() {
            let why = format!(
                "--slots {slots} can never hold the {world_size} ranks of trainer.world_size: give it as many slots"
            );
            return Err(coded(USAGE, why));
        }
        let mut signals = Signals::new()?;
        let mut local = Local::start(&home, slots, global.log.log_format).await?;
        let mut client = local.client.clone();
        let submitted = match self.job.submit(&mut client).await {
            Ok(submitted) => submitted,
            Err(e) => {
                local.stop().await;
                return Err(e);
            }
        };
        self.announce(global, &submitted);
        company(global, &mut client, &submitted).await;
        let mut screen = Screen::new(global);
        let work = async {
            arrived(client.clone()).await;
            follow(global, &mut client, &submitted, &mut screen).await
        };
        let ended = tokio::select! {
            end = work => Ended::Work(Box::new(end)),
            code = signals.next() => Ended::Signal(code),
            error = local.failed() => Ended::Broken(error),
        };
        screen.finish();
        match ended {
            Ended::Work(end) => {
                let code = match *end {
                    Ok(end) => self.conclude(global, &mut client, &end).await,
                    Err(e) => Err(e),
                };
                drop(client);
                local.stop().await;
                code
            }
            Ended::Broken(error) => {
                drop(client);
                local.kill().await;
                Err(error)
            }
            Ended::Signal(code) => {
                drop(client);
                say!("stopping: running ranks save a checkpoint first (Ctrl-C again kills them)");
                let again = tokio::select! {
                    saved = local.drain() => Some(saved),
                    _ = signals.next() => None,
                };
                match again {
                    Some(true) => local.stop().await,
                    _ => local.kill().await,
                }
                let saved =
                    if again == Some(true) { "stopped at a checkpoint" } else { "killed; what was saved is kept" };
                say!("{saved}. The same command goes on from there: {}", typed());
                Ok(code)
            }
        }
    }

    /// Says what came of it; the exit code.
    async fn conclude(&self, global: &Global, client: &mut Client, end: &v1::WatchResponse) -> Result<u8> {
        match &self.job {
            Job::Again(original) => original.conclude(global, client, end).await,
            Job::Run { .. } | Job::Sweep(_) => results::conclude(global, client, end).await,
        }
    }

    fn announce(&self, global: &Global, submitted: &Submitted) {
        if global.quiet {
            return;
        }
        let Submitted { id, name, existed, over, retried } = submitted;
        let kind = self.job.kind();
        match (existed, over) {
            _ if *retried > 0 && kind == "sweep" => {
                let runs = if *retried == 1 { "1 run".to_owned() } else { format!("{retried} runs") };
                say!("{kind} {name} ({id}) exists already: {runs} of it did not succeed and are tried again");
            }
            _ if *retried > 0 => say!("{kind} {name} ({id}) exists already: it did not succeed and is tried again"),
            (true, true) => say!("{kind} {name} ({id}) is done already: its results are reused"),
            (true, false) => say!("{kind} {name} ({id}) exists already and goes on"),
            _ => say!("{kind} {name} ({id}) submitted"),
        }
    }

    fn detached(&self, global: &Global, submitted: &Submitted) -> Result<()> {
        let kind = self.job.kind();
        match global.output {
            Format::Json | Format::Yaml => print::value(
                global,
                &serde_json::json!({ "kind": kind, "id": submitted.id, "name": submitted.name, "existed": submitted.existed }),
            ),
            Format::Name | Format::Table => print::line(&format!("{kind}/{}", submitted.name)),
        }
    }
}

enum Ended {
    Work(Box<Result<v1::WatchResponse>>),
    Signal(u8),
    Broken(anyhow::Error),
}

/// Waits a moment for the agent that is being started here, so that nobody is told to start one.
async fn arrived(mut client: Client) {
    for _ in 0..50 {
        // What fails here fails louder soon.
        let Ok(all) = client.list_workers(v1::ListWorkersRequest::default()).await else { return };
        if all.into_inner().workers.iter().any(|w| w.state == "ready") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// How many ranks this machine bears at a time: one per GPU, where there are GPUs and they are wanted, else one per core.
fn computers(gpus_wanted: bool) -> u32 {
    let present = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |gpus| gpus.count() as u32);
    let gpus = gpus::visible(present, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
    if gpus_wanted && gpus > 0 { gpus } else { available_parallelism().map_or(1, |n| n.get() as u32) }
}

/// Mentions what else goes on in this home, since it takes slots too.
async fn company(global: &Global, client: &mut Client, submitted: &Submitted) {
    // Only a remark: what fails here fails louder soon.
    let Ok(open) = pages(client, v1::ListRunsRequest { open: true, ..Default::default() }).await else { return };
    let is_other = |r: &&v1::Run| r.id != submitted.id && r.sweep != submitted.id;
    let others: Vec<&str> = open.iter().filter(is_other).map(|r| r.name.as_str()).collect();
    if let (Some(first), false) = (others.first(), global.quiet) {
        say!("goes on too and shares the slots: {} (stop one: morphctl cancel {first})", others.join(", "));
    }
}

/// Shows snapshots until the end; the last one. A coordinator that goes away is waited for.
fn follow<'a>(
    global: &'a Global,
    client: &'a mut Client,
    submitted: &'a Submitted,
    screen: &'a mut Screen,
) -> Pin<Box<dyn Future<Output = Result<v1::WatchResponse>> + 'a>> {
    Box::pin(async move {
        let mut waiting = false;
        loop {
            match watched(client, submitted, screen, &mut waiting).await {
                Ok(Some(last)) => return Ok(last),
                Err(s) if !is_away(&s) => return Err(status(&s)),
                _ => {}
            }
            if !std::mem::replace(&mut waiting, true) {
                screen.say(AWAY);
            }
            *client = Connection::again(global).await?;
        }
    })
}

/// Shows snapshots as long as they come; the last one, if there was one.
async fn watched(
    client: &mut Client,
    submitted: &Submitted,
    screen: &mut Screen,
    waiting: &mut bool,
) -> Result<Option<v1::WatchResponse>, Status> {
    let mut stream = client.watch(v1::WatchRequest { id: submitted.id.clone() }).await?.into_inner();
    let mut last = None;
    while let Some(snapshot) = stream.message().await? {
        *waiting = false;
        screen.show(&snapshot);
        last = Some(snapshot);
    }
    Ok(last)
}

/// Ctrl-C, SIGTERM, and the end of the terminal.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The exit code of the next signal.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
            _ = self.hangup.recv() => HANGUP,
        }
    }
}

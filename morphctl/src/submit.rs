//! `train` and `sweep`: submit, follow, report.

use std::{future::Future, pin::Pin, thread::available_parallelism};

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_proto::v1::{self, RunState, SweepState};
use morph_spec::{Digest, Experiment, load::Document};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Status;

use crate::{
    cli::{Format, Global, Submit},
    connect::{self, AWAY, Client, Connection, is_away},
    data,
    fail::{CANCELLED, FAILED, HANGUP, INTERRUPTED, OK, TERMINATED, UNREACHABLE, USAGE, coded, status},
    json,
    local::Local,
    print, report,
    watch::{self, Screen},
};

/// The command as it was typed, ready to be typed again.
fn typed() -> String {
    let quoted = |arg: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) { arg } else { format!("'{}'", arg.replace('\'', "'\\''")) }
    };
    // Names of files need not be UTF-8; `args` would panic.
    let words = std::env::args_os().skip(1).map(|word| quoted(word.to_string_lossy().into_owned()));
    std::iter::once("morphctl".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// What is submitted.
enum Job {
    Run { experiment: Box<Experiment>, name: String },
    Sweep(Box<morph_spec::Sweep>),
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
fn absolute(experiment: &mut Experiment) -> Result<()> {
    experiment.dataset.url = Objects::open(&experiment.dataset.url)?.url();
    let evaluation = &mut experiment.evaluation;
    let comparisons = evaluation.comparisons.values_mut();
    let datasets = comparisons.flat_map(|c| [&mut c.dataset, &mut c.healthy.dataset, &mut c.pathology.dataset]);
    for url in datasets.chain([&mut evaluation.truth]).flatten() {
        *url = Objects::open(url)?.url();
    }
    if let Some(weights) = &mut experiment.trainer.loss.perceptual.weights
        && weights != "random"
        && !weights.contains("://")
    {
        let path = std::path::absolute(&*weights).with_context(|| format!("find {weights}"))?;
        *weights = format!("file://{}", path.display());
    }
    Ok(())
}

impl Job {
    /// The same job has the same key, so that the same command goes on instead of beginning again.
    fn key(&self) -> Result<String> {
        let (kind, text) = match self {
            Self::Run { experiment, name } => ("run", format!("{name}\n{}", serde_json::to_string(experiment)?)),
            Self::Sweep(sweep) => ("sweep", serde_json::to_string(sweep)?),
        };
        Ok(format!("{kind}-{}", &Digest::of(text.as_bytes()).to_string()[..32]))
    }

    fn world_size(&self) -> u32 {
        match self {
            Self::Run { experiment, .. } => experiment.trainer.world_size,
            Self::Sweep(sweep) => sweep.experiment.iter().map(|e| e.trainer.world_size).max().unwrap_or(1),
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
                let request = v1::SubmitRunRequest { key, experiment_json, name: name.clone() };
                let done = client.submit_run(request).await.map_err(|s| status(&s))?.into_inner();
                let run = done.run.unwrap_or_default();
                let state = run.state();
                let over = matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled);
                let good = !matches!(state, RunState::Failed | RunState::Cancelled);
                Ok((Submitted { id: run.id, name: run.name, existed: done.existed, over, retried: 0 }, good))
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

/// Runs `train` or `sweep`; the exit code.
///
/// # Errors
/// What went wrong.
pub async fn run(global: &Global, args: &Submit, verb: &'static str) -> Result<u8> {
    let job = read(global, args, verb)?;
    if args.local {
        return here(global, args, verb, &job).await;
    }
    let Some(mut client) = Connection::live(global).await? else {
        let home = connect::home(global)?;
        let file = args.file.display();
        return Err(coded(
            UNREACHABLE,
            format!(
                "nobody serves {}: run it here with morphctl {verb} {file} --local, or name a coordinator with --coordinator URL",
                home.display()
            ),
        ));
    };
    let submitted = job.submit(&mut client).await?;
    announce(global, verb, &submitted);
    if args.detach {
        return detached(global, verb, &submitted).map(|()| OK);
    }
    let mut screen = Screen::new(global);
    let mut signals = Signals::new()?;
    tokio::select! {
        end = follow(global, &mut client, &submitted, &mut screen) => {
            screen.finish();
            conclude(global, &mut client, &end?).await
        }
        code = signals.next() => {
            screen.finish();
            say!("{verb} {} goes on without you", submitted.name);
            say!("  come back:  {}", typed());
            say!("  stop it:    morphctl cancel {}", submitted.name);
            Ok(code)
        }
    }
}

/// `--local`.
async fn here(global: &Global, args: &Submit, verb: &'static str, job: &Job) -> Result<u8> {
    // Said by the environment it is a default, which the command line may override.
    if std::env::args_os().any(|arg| arg.to_string_lossy().starts_with("--coordinator")) {
        return Err(coded(USAGE, "--local and --coordinator exclude each other: one trains here, the other elsewhere"));
    }
    if global.coordinator.is_some() && !global.quiet {
        say!("--local: MORPH_COORDINATOR is set, and not used");
    }
    let home = connect::home(global)?;
    let cores = available_parallelism().map_or(1, |n| n.get() as u32);
    let slots = args.slots.unwrap_or_else(|| cores.max(job.world_size()));
    if slots < job.world_size() && !job.chooses_world_size() {
        let why = format!(
            "--slots {slots} can never hold the {} ranks of trainer.world_size: give it as many slots",
            job.world_size()
        );
        return Err(coded(USAGE, why));
    }
    let mut signals = Signals::new()?;
    let mut local = Local::start(&home, slots, global.log.log_format).await?;
    let mut client = local.client.clone();
    let submitted = match job.submit(&mut client).await {
        Ok(submitted) => submitted,
        Err(e) => {
            local.stop().await;
            return Err(e);
        }
    };
    announce(global, verb, &submitted);
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
                Ok(end) => conclude(global, &mut client, &end).await,
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
            let saved = if again == Some(true) { "stopped at a checkpoint" } else { "killed; what was saved is kept" };
            say!("{saved}. The same command goes on from there: {}", typed());
            Ok(code)
        }
    }
}

enum Ended {
    Work(Box<Result<v1::WatchResponse>>),
    Signal(u8),
    Broken(anyhow::Error),
}

fn announce(global: &Global, verb: &str, submitted: &Submitted) {
    if global.quiet {
        return;
    }
    let Submitted { id, name, existed, over, retried } = submitted;
    let kind = if verb == "train" { "run" } else { "sweep" };
    match (existed, over) {
        _ if *retried > 0 && verb == "sweep" => {
            let runs = if *retried == 1 { "1 run".to_owned() } else { format!("{retried} runs") };
            say!("{kind} {name} ({id}) exists already: {runs} of it did not succeed and are tried again");
        }
        _ if *retried > 0 => say!("{kind} {name} ({id}) exists already: it did not succeed and is tried again"),
        (true, true) => say!("{kind} {name} ({id}) is done already: its results are reused"),
        (true, false) => say!("{kind} {name} ({id}) exists already and goes on"),
        _ => say!("{kind} {name} ({id}) submitted"),
    }
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

/// Mentions what else goes on in this home, since it takes slots too.
async fn company(global: &Global, client: &mut Client, submitted: &Submitted) {
    // Only a remark: what fails here fails louder soon.
    let Ok(all) = client.list_runs(v1::ListRunsRequest::default()).await else { return };
    let is_open = |r: &&v1::Run| !matches!(r.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled);
    let is_other = |r: &&v1::Run| r.id != submitted.id && r.sweep != submitted.id;
    let runs = all.into_inner().runs;
    let others: Vec<&str> = runs.iter().filter(is_open).filter(is_other).map(|r| r.name.as_str()).collect();
    if let (Some(first), false) = (others.first(), global.quiet) {
        say!("goes on too and shares the slots: {} (stop one: morphctl cancel {first})", others.join(", "));
    }
}

fn detached(global: &Global, verb: &str, submitted: &Submitted) -> Result<()> {
    let kind = if verb == "train" { "run" } else { "sweep" };
    match global.output {
        Format::Json | Format::Yaml => print::value(
            global,
            &serde_json::json!({ "kind": kind, "id": submitted.id, "name": submitted.name, "existed": submitted.existed }),
        ),
        Format::Name | Format::Table => print::line(&format!("{kind}/{}", submitted.name)),
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

/// Says how it ended, and all scores.
async fn conclude(global: &Global, client: &mut Client, end: &v1::WatchResponse) -> Result<u8> {
    let (metric, goal) = match &end.sweep {
        Some(sweep) => (sweep.metric.clone(), sweep.goal.clone()),
        None => (default_metric(&end.runs), "maximize".to_owned()),
    };
    match global.output {
        Format::Json | Format::Yaml => {
            let runs: Vec<_> = report::ranked(&end.runs, &metric, &goal).into_iter().map(json::run).collect();
            let value = match &end.sweep {
                Some(sweep) => {
                    let mut value = json::sweep(sweep);
                    value["runs"] = runs.into();
                    value
                }
                None => runs.into_iter().next().unwrap_or_default(),
            };
            print::value(global, &value)?;
        }
        Format::Name => {
            for run in report::ranked(&end.runs, &metric, &goal) {
                print::line(&format!("run/{}", run.name))?;
            }
        }
        Format::Table => {
            let tables = report::tables(&end.runs, &metric, &goal);
            if !tables.is_empty() {
                print::line(tables.trim_end())?;
            }
            if !tables.is_empty() && is_synthetic(client, &end.runs).await {
                print::line("These are phantoms: their numbers say nothing about patients.")?;
            }
            let best = report::ranked(&end.runs, &metric, &goal).into_iter().find(|r| r.state() == RunState::Succeeded);
            if let Some(best) = best {
                print::line(&format!("\nbest run: {}", best.name))?;
                for artifact in &best.artifacts {
                    print::line(&format!("  {}", artifact.strip_prefix("file://").unwrap_or(artifact)))?;
                }
            }
            if let Some(sweep) = &end.sweep {
                print::line(&format!("sweep {}: {}", sweep.name, watch::counts(sweep)))?;
            }
            for run in end.runs.iter().filter(|r| r.state() == RunState::Failed) {
                print::line(&format!("run {} failed: {}", run.name, run.error))?;
                print::line(&format!("  its log: morphctl logs {}", run.name))?;
            }
        }
    }
    let state = |wanted: RunState| end.runs.iter().any(|r| r.state() == wanted);
    Ok(if state(RunState::Failed) {
        FAILED
    } else if state(RunState::Cancelled) {
        CANCELLED
    } else {
        OK
    })
}

/// What a single run is listed by.
fn default_metric(runs: &[v1::Run]) -> String {
    let names = runs.iter().flat_map(|r| r.summary.keys()).filter(|n| n.ends_with("/auroc"));
    names.min().cloned().unwrap_or_else(|| "val/score".into())
}

/// Whether the runs were made on phantoms.
async fn is_synthetic(client: &mut Client, runs: &[v1::Run]) -> bool {
    let Some(first) = runs.first() else { return false };
    let Ok(run) = client.get_run(v1::GetRunRequest { run: first.id.clone() }).await else { return false };
    let json = run.into_inner().run.unwrap_or_default().experiment_json;
    let Ok(experiment) = serde_json::from_str::<Experiment>(&json) else { return false };
    let request = v1::RegisterDatasetRequest { url: experiment.dataset.url };
    let Ok(found) = client.register_dataset(request).await else { return false };
    let json = found.into_inner().dataset.unwrap_or_default().manifest_json;
    serde_json::from_str::<morph_spec::Manifest>(&json).is_ok_and(|m| m.synthetic)
}

/// Ctrl-C, SIGTERM, and the end of the terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The exit code of the next signal.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
            _ = self.hangup.recv() => HANGUP,
        }
    }
}

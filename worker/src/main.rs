//! `morph-worker`: the agent of a node, its ranks, and two tools for people.

use std::{io::Write, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use morph_spec::{
    experiment::{self, Score},
    scheduling::Bytes,
};
use morph_telemetry::{Format, LogArgs, Logs};
use morph_worker::{agent, device, evaluate::checkpoint, export, node, prepare, rank, rank::failure::Failure};
use tch::Device;

/// Exit code of what was refused (docs/exit-codes.md).
const REFUSED: u8 = 4;
/// What is asked of `evaluate` makes no sense, as morphctl says it.
const USAGE: u8 = 2;

/// Runs training where the GPUs (or CPUs) are.
#[derive(Debug, Parser)]
#[command(
    version = morph_worker::VERSION,
    after_help = "Examples:
  morph-worker agent --coordinator http://head:7070 --slots 2 --home /var/lib/morph
  morph-worker devices
  morph-worker parity golden/morphaeus_small_warmup --json
  morph-worker evaluate --checkpoint file:///data/runs/01J…/checkpoints/step-00000120-a1/manifest.json --panel panel.png"
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a coordinator: starts ranks and reports what they do, until told to leave.
    #[command(after_help = "Example:
  morph-worker agent --coordinator https://head:7070 --slots 2 --home /var/lib/morph --host 10.0.0.7 \
    --ca ca.crt --cert node-7.crt --key node-7.key

SIGTERM stops the ranks with a checkpoint and leaves; a second one kills them. While the coordinator is away ranks go on,
and their reports are kept until it is back.")]
    Agent(AgentArgs),
    /// One rank; started by the agent.
    #[command(hide = true)]
    Rank(RankArgs),
    /// Makes shards of a dataset; started by the agent.
    #[command(hide = true)]
    Prepare {
        #[arg(long)]
        agent: u32,
    },
    /// Replays one recorded case of the reference implementation and compares.
    #[command(after_help = "Example:
  morph-worker parity golden/morphaeus_small_warmup --json
  morph-worker parity golden/morphaeus_small_trained --device cuda

Exit code 0: within tolerance; 1: not; 2: no such case.")]
    Parity {
        /// The case's folder; inputs.safetensors and the VGG weights lie beside it.
        dir: PathBuf,
        /// Where to compute.
        #[arg(long, value_enum, default_value = "cpu")]
        device: At,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Scores a checkpoint in this process.
    #[command(after_help = "Example:
  morph-worker evaluate --checkpoint runs/01J…/checkpoints/step-00000120-a1/manifest.json -o json --panel panel.png")]
    Evaluate(EvaluateArgs),
    /// Writes a checkpoint's network to a file; `morphctl export` asks for this.
    #[command(after_help = "Example:
  morph-worker export --checkpoint runs/01J…/checkpoints/step-00000120-a1 --format torchscript --out morphaeus.ts")]
    Export(ExportArgs),
    /// Lists where ranks can compute on this machine.
    Devices {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
struct AgentArgs {
    /// The coordinator's URL; of several, with commas between, the one that serves is used.
    #[arg(long, env = "MORPH_COORDINATOR", value_name = "URL")]
    coordinator: String,
    /// File (mode 0600) with a token of scope agent, for a coordinator without TLS; MORPH_TOKEN holds the token itself.
    #[arg(long, env = "MORPH_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate (PEM) of the authority that vouches for the coordinator, for https.
    #[arg(long, env = "MORPH_CA", value_name = "FILE", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// This agent's certificate (PEM), of kind agent; read again at each connection.
    #[arg(long, env = "MORPH_CERT", value_name = "FILE", requires = "ca")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "MORPH_KEY", value_name = "FILE", requires = "ca")]
    key: Option<PathBuf>,
    /// How many ranks may run here at a time [default: one per GPU, or one].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// Home folder: the agent's id, the node's cache.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The address at which other nodes' ranks reach this node's.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDR")]
    host: String,
    /// End when the parent process does.
    #[arg(long)]
    die_with_parent: bool,
    /// Limit of the node's dataset cache, in GiB.
    #[arg(long, default_value_t = 64, value_name = "GIB")]
    cache_gib: u64,
    /// What this node is, for scheduling.nodes of experiments; may be said again. `device` (cpu, cuda) and `os` are known.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Main memory for all ranks [default: what the machine, or the container, has].
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, like zone=a".into()),
    }
}

#[derive(Debug, clap::Args)]
struct RankArgs {
    #[arg(long)]
    agent: u32,
    #[arg(long)]
    host: String,
    #[arg(long)]
    cache: PathBuf,
    #[arg(long)]
    cache_bytes: u64,
}

#[derive(Debug, clap::Args)]
struct EvaluateArgs {
    /// URL or path of the checkpoint's manifest, or of its folder.
    #[arg(long, value_name = "URL")]
    checkpoint: String,
    /// Another dataset than the experiment's to score on; may be said again.
    #[arg(long, value_name = "URL")]
    on: Vec<String>,
    /// Change how it is scored, like evaluation.healthy.labels=[Normal]; may be said again.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The score that thresholds, subgroups and p-values are of: l1, top5, …
    #[arg(long)]
    score: Option<Score>,
    /// Folder with twins/, lesions/ and masks/ of the images.
    #[arg(long, value_name = "URL")]
    truth: Option<String>,
    /// Score test images that had a part in training, or may have had: its data cannot be read; the evaluation says so.
    #[arg(long)]
    allow_leakage: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Also draw some cases into this PNG file.
    #[arg(long, value_name = "FILE")]
    panel: Option<PathBuf>,
    /// Also write every image's numbers into this CSV file.
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Also write all artifacts into this folder: evaluation.json, cases.csv, cases.parquet, panel.png.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also draw every test image's residual over it, into this folder.
    #[arg(long, value_name = "DIR")]
    heatmaps: Option<PathBuf>,
    /// Root of the raw files: heat maps are drawn over these, and as DICOM Secondary Captures, too.
    #[arg(long, value_name = "DIR", requires = "heatmaps")]
    source: Option<PathBuf>,
    /// The node's dataset cache.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// URL or path of the checkpoint's manifest, or of its folder.
    #[arg(long, value_name = "URL")]
    checkpoint: String,
    /// What to write.
    #[arg(long, value_enum)]
    format: Exported,
    /// The file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite it.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Exported {
    /// A checkpoint as the published code writes it, with the optimizers' state.
    Paper,
    /// What the method makes of images, as TorchScript.
    Torchscript,
    /// The same as ONNX.
    Onnx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.log.log_format;
    log(&cli.command, format);
    let scores = matches!(cli.command, Command::Evaluate(_));
    let done = match cli.command {
        Command::Agent(args) => serve(args, format),
        Command::Rank(RankArgs { agent, host, cache, cache_bytes }) => {
            rank::main(&rank::Options { agent, host, cache, cache_bytes })
        }
        Command::Prepare { agent } => prepare::main(agent),
        Command::Parity { dir, device, json } => return parity(&dir, device, json),
        Command::Evaluate(args) => score(args),
        Command::Export(args) => write(&args),
        Command::Devices { output } => devices(output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::debug!("{e:?}");
            complain(&format!("{e:#}"));
            match e.downcast_ref() {
                Some(Failure::Refused(_)) => ExitCode::from(REFUSED),
                // The agent has its own words for how ranks end.
                Some(Failure::User(_)) if scores => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Logs go to stderr. A child's have no time of their own: the agent adds one to every line.
fn log(command: &Command, format: Format) {
    let (filter, level) = ("RUST_LOG", "info");
    let (program, time) = match command {
        Command::Rank(_) => ("morph-rank", false),
        Command::Prepare { .. } => ("morph-prepare", false),
        _ => ("morph-worker", true),
    };
    morph_telemetry::init(Logs { program, format, filter, level, time });
}

fn serve(args: AgentArgs, log_format: Format) -> Result<()> {
    // Else every rank of every run would find it out.
    device::may_use_nccl()?;
    let tls = match (args.ca, args.cert, args.key) {
        (Some(ca), Some(cert), Some(key)) => Some(agent::link::Tls { ca, cert, key }),
        _ => None,
    };
    let options = agent::Options {
        proof: agent::link::Proof { token: token(args.token_file.as_deref())?, tls },
        coordinator: args.coordinator,
        slots: args.slots.unwrap_or_else(|| node::gpus().max(1)),
        home: args.home,
        host: args.host,
        die_with_parent: args.die_with_parent,
        cache_bytes: args.cache_gib.saturating_mul(1 << 30),
        log_format,
        labels: node::labels(args.labels),
        memory: args.memory.map_or_else(node::memory, |m| m.0),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(agent::run(options));
    morph_telemetry::finish(Duration::from_secs(1));
    ended
}

/// MORPH_TOKEN, or what the file holds that only its owner may read.
fn token(file: Option<&std::path::Path>) -> Result<Option<String>> {
    if let Some(text) = std::env::var("MORPH_TOKEN").ok().filter(|t| !t.trim().is_empty()) {
        return Ok(Some(text));
    }
    let Some(path) = file else { return Ok(None) };
    let context = || format!("--token-file {}", path.display());
    let mode = std::fs::metadata(path).with_context(context)?.permissions().mode();
    anyhow::ensure!(mode & 0o077 == 0, "{}: others can read it (mode {:o}): chmod 600 it", context(), mode & 0o777);
    Ok(Some(std::fs::read_to_string(path).with_context(context)?.trim().to_owned()))
}

/// Where `parity` computes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum At {
    Cpu,
    /// The first GPU.
    Cuda,
}

impl At {
    fn device(self) -> Result<Device, Failure> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => {
                let device = device::pick(experiment::Device::Cuda, 0)?;
                rank::set_up(1, device)?;
                Ok(device)
            }
        }
    }
}

fn parity(dir: &std::path::Path, at: At, json: bool) -> ExitCode {
    if !dir.is_dir() {
        complain(&format!("{}: no such folder; name one of the recorded cases", dir.display()));
        return ExitCode::from(2);
    }
    let device = match at.device() {
        Ok(device) => device,
        Err(e) => {
            complain(&e.to_string());
            return ExitCode::from(2);
        }
    };
    let report = match morph_model::parity::run(dir, device) {
        Ok(report) => report,
        Err(e) => {
            complain(&format!("{}: {e}", dir.display()));
            return ExitCode::from(2);
        }
    };
    let text = if json { serde_json::to_string_pretty(&report).unwrap_or_default() } else { report.to_string() };
    match print(&text) {
        Ok(()) if report.passed() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn write(args: &ExportArgs) -> Result<()> {
    let format = match args.format {
        Exported::Paper => export::Format::Paper,
        Exported::Torchscript => export::Format::TorchScript,
        Exported::Onnx => export::Format::Onnx,
    };
    let exported =
        export::checkpoint(&morph_checkpoint::manifest_url(&args.checkpoint)?, format, &args.out, args.force)?;
    exported.notes.iter().for_each(|note| complain(note));
    Ok(())
}

fn score(args: EvaluateArgs) -> Result<()> {
    let url = morph_checkpoint::manifest_url(&args.checkpoint)?;
    let cache = args.cache.unwrap_or_else(|| std::env::temp_dir().join("morph-cache"));
    let request = checkpoint::Request {
        url,
        on: args.on,
        set: args.set,
        score: args.score,
        truth: args.truth,
        allow_leakage: args.allow_leakage,
        heatmaps: args.heatmaps,
        source: args.source,
    };
    // Not after hours of scoring.
    for path in [&args.panel, &args.cases].into_iter().flatten() {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        anyhow::ensure!(folder.is_dir() && !path.is_dir(), "{}: no file can be written there", path.display());
    }
    for folder in [&args.out, &request.heatmaps].into_iter().flatten() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let outcome = checkpoint::evaluate(&request, &cache, 64 << 30)?;
    let write = |path: &std::path::Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    };
    if let Some(path) = args.panel {
        write(&path, &outcome.panel)?;
    }
    if let Some(path) = args.cases {
        write(&path, outcome.cases.to_csv().as_bytes())?;
    }
    if let Some(folder) = args.out {
        for (name, bytes) in outcome.files()? {
            write(&folder.join(name), &bytes)?;
        }
    }
    match args.output {
        Output::Json => print(&outcome.evaluation.to_json()),
        Output::Table => print(outcome.evaluation.text().trim_end()),
    }
}

fn devices(output: Output) -> Result<()> {
    let found = device::list();
    match output {
        Output::Json => print(&serde_json::to_string_pretty(&found)?),
        Output::Table => {
            let lines: Vec<String> = found
                .iter()
                .map(|d| if d.threads == 0 { d.name.clone() } else { format!("{} ({} threads)", d.name, d.threads) })
                .collect();
            print(&lines.join("\n"))
        }
    }
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("write to stdout")
}

fn complain(text: &str) {
    // Where stderr is closed there is nobody to complain to.
    drop(writeln!(std::io::stderr().lock(), "morph-worker: {text}"));
}

//! The command line.

mod data;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use morph_spec::experiment::Score;
use morph_telemetry::LogArgs;

pub use self::data::Data;
pub use crate::print::{Format, Output};
use crate::{certs::Certs, compare::How, token::Token};

/// Trains MorphAEus and its rivals at scale: data, runs, sweeps, scores.
#[derive(Debug, Parser)]
#[command(
    name = "morphctl",
    version,
    propagate_version = true,
    after_help = "Examples:
  morphctl data synth raw/rsna-phantom --healthy 900 --opacity 150
  morphctl data prepare configs/datasets/rsna-phantom.yaml
  morphctl sweep configs/sweeps/demo.yaml --local
  morphctl get runs
  morphctl describe run demo-1
  morphctl compare demo
  morphctl report demo --out report

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 error, 2 bad usage or file, 3 not found, 4 refused,
5 not allowed, 6 no coordinator, 100 a run failed, 101 not reproduced, 103 cancelled, 130 Ctrl-C (docs/exit-codes.md)."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Home folder: state, datasets, results [default: ./morph-home, or ./morph-demo if only that exists].
    #[arg(long, global = true, env = "MORPH_HOME", value_name = "DIR", help_heading = "Global options")]
    pub home: Option<PathBuf>,
    /// A coordinator that runs elsewhere, like https://head:7070; of several, with commas between, the one that serves is asked.
    #[arg(long, global = true, env = "MORPH_COORDINATOR", value_name = "URL", help_heading = "Global options")]
    pub coordinator: Option<String>,
    /// File (mode 0600) with the token that the coordinator asks for; MORPH_TOKEN holds the token itself.
    #[arg(long, global = true, env = "MORPH_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,
    /// Certificate (PEM) of the authority that vouches for the coordinator, for https.
    #[arg(long, global = true, env = "MORPH_CA", value_name = "FILE", help_heading = "Global options")]
    pub ca: Option<PathBuf>,
    /// Certificate (PEM) to present, where one is wanted.
    #[arg(
        long,
        global = true,
        env = "MORPH_CERT",
        value_name = "FILE",
        requires = "key",
        help_heading = "Global options"
    )]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(
        long,
        global = true,
        env = "MORPH_KEY",
        value_name = "FILE",
        requires = "cert",
        help_heading = "Global options"
    )]
    pub key: Option<PathBuf>,
    /// How to print.
    #[arg(
        id = "output",
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        value_name = "OUTPUT",
        default_value_t = Output::Table,
        help_heading = "Global options"
    )]
    pub asked: Output,
    /// The same for commands that print no tables for papers.
    #[arg(skip = Format::Table)]
    pub output: Format,
    /// Say only what was asked for, and errors.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Say more; twice: much more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// When to colour; NO_COLOR is respected.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = "Global options")]
    pub color: Color,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes, prepares and looks at datasets.
    #[command(subcommand)]
    Data(Data),
    /// Checks YAML files and shows all that is wrong with them.
    #[command(after_help = "Examples:
  morphctl validate configs/sweeps/*.yaml configs/cxr/*.yaml
  morphctl validate experiment.yaml --set trainer.optimizer.lr=1e-4 -o yaml     # with every default")]
    Validate {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Fields to change.
        #[command(flatten)]
        set: Set,
    },
    /// Turns a YAML file of the paper's own code into an experiment.
    #[command(after_help = "Examples:
  morphctl import MorphAEus/projects/23_morphaeus/configs/cxr/ae-s.yaml --out ae-s.yaml
  morphctl import vae.yaml | morphctl train - --local

The run is the one that the published code really trains, its quirks included; comments say what mends them. What has no
counterpart is named on stderr and at the top of the file. See docs/weights.md.")]
    Import {
        /// The file.
        file: PathBuf,
        /// Write the experiment to this file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Overwrite it.
        #[arg(long, requires = "out")]
        force: bool,
    },
    /// Trains and scores one experiment, and follows it.
    #[command(after_help = "Examples:
  morphctl train configs/phantom/morphaeus.yaml --local
  morphctl train configs/phantom/morphaeus.yaml --local --set trainer.epochs=3
  morphctl --coordinator http://head:7070 train configs/cxr/morphaeus.yaml --detach

The same command again goes on where it stopped, or shows what is done.")]
    Train(Submit),
    /// Searches over hyper-parameters, and follows it.
    #[command(after_help = "Examples:
  morphctl sweep configs/sweeps/demo.yaml --local
  morphctl sweep configs/sweeps/demo.yaml --local --set trainer.epochs=3
  morphctl --coordinator http://head:7070 sweep configs/sweeps/demo.yaml --detach

The same command again goes on where it stopped, or shows what is done.")]
    Sweep(Submit),
    /// Scores a run's best checkpoint again, or any checkpoint; here, perhaps on other datasets.
    #[command(after_help = "Examples:
  morphctl evaluate demo-1
  morphctl evaluate demo-1 --on s3://bucket/padchest --score top5 --out padchest/
  morphctl evaluate demo-1 --on padchest --set 'evaluation.pathology={covid: {split: test, labels: [COVID]}}'
  morphctl evaluate s3://bucket/runs/01J…/checkpoints/step-00000120-a1 --on rsna padchest -o json   (no coordinator)

--on asks for the labels that the run was scored by; --set evaluation.healthy.labels=[…] and evaluation.pathology=… name others.
Test images that had a part in training are refused (exit code 4). docs/scores.md says what each number means.")]
    Evaluate(Evaluate),
    /// Compares runs by their scores on the same test cases: the paper's table.
    #[command(after_help = "Examples:
  morphctl compare morphaeus-1 vae-1 dae-1
  morphctl compare methods-smoke                       # the runs of a sweep; those that differ in the seed only are one row
  morphctl compare methods-smoke --baseline vae-1 --score top5 -o latex

Every number has its 95 % interval: 2000 resamples of the cases, patients whole. p is DeLong's, of each row against the
best or --baseline, corrected by Holm. Runs that did not score the same cases are refused. How to read it: docs/comparing.md")]
    Compare {
        /// Runs and sweeps: names or ids.
        #[arg(required = true, value_name = "RUN|SWEEP")]
        runs: Vec<String>,
        /// How to compare.
        #[command(flatten)]
        how: How,
    },
    /// Writes a report on runs as one HTML page that needs nothing beside it.
    #[command(after_help = "Examples:
  morphctl report methods-smoke --out report           # report/index.html
  morphctl report morphaeus-1 vae-1 --out report --baseline vae-1

What was trained, the table of compare, subgroups, curves, distributions, thresholds, examples, training, how often the
test sets were used, and a card for each method. It works from a file, without a network, in light and dark, and in print.")]
    Report {
        /// Runs and sweeps: names or ids.
        #[arg(required = true, value_name = "RUN|SWEEP")]
        runs: Vec<String>,
        /// The folder to write to; made when it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How to compare.
        #[command(flatten)]
        how: How,
    },
    /// Trains a run again from its record and says whether it became the same, to the bit.
    #[command(after_help = "Examples:
  morphctl reproduce demo-1 --local
  morphctl --coordinator http://head:7070 reproduce demo-1 -o json

Ends with 0 when final weights, recorded metrics and scores are equal, with 101 and the first step and metric that differ
when they are not, with 4 when the dataset is no longer the one that it was trained on.")]
    Reproduce {
        /// Name or id of the run.
        run: String,
        /// Train here: a coordinator in this process, and an agent with its ranks beside it.
        #[arg(long)]
        local: bool,
        /// With --local: how many ranks at a time [default: one per GPU or core, and enough for the run].
        #[arg(long, requires = "local", value_parser = clap::value_parser!(u32).range(1..))]
        slots: Option<u32>,
    },
    /// Writes a run's weights to a file that other programs read.
    #[command(after_help = "Examples:
  morphctl export demo-1 --format pt --out demo-1.pt                  # torch.load(…, weights_only=True)
  morphctl export demo-1 --format pt --layout paper --out best_model.pt
  morphctl export demo-1 --format safetensors --out demo-1.safetensors
  morphctl export s3://bucket/runs/01J…/checkpoints/step-00000120-a1 --format torchscript --out demo-1.ts
  morphctl export demo-1 --format onnx --out demo-1.onnx

What each file holds, and how to read it: docs/weights.md.")]
    Export {
        /// Name or id of the run; or URL or path of a checkpoint.
        #[arg(value_name = "RUN|CHECKPOINT")]
        what: String,
        /// What to write.
        #[arg(long, value_enum)]
        format: Weights,
        /// How a `pt` file is laid out.
        #[arg(long, value_enum, default_value_t = Layout::State)]
        layout: Layout,
        /// The file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Overwrite it.
        #[arg(long)]
        force: bool,
        /// The newest checkpoint of the run instead of the best.
        #[arg(long)]
        newest: bool,
    },
    /// Lists runs, sweeps, workers or datasets.
    #[command(after_help = "Examples:
  morphctl get runs
  morphctl get runs demo -o json          # the runs of sweep demo
  morphctl get sweeps -o name")]
    Get {
        /// What to list.
        #[arg(value_enum)]
        what: Things,
        /// Only this one; for runs also: of this sweep.
        id: Option<String>,
    },
    /// Shows all of one thing: state, reasons, attempts, checkpoints, scores, history.
    #[command(after_help = "Examples:
  morphctl describe run demo-1
  morphctl describe sweep demo -o yaml")]
    Describe {
        /// What it is.
        #[arg(value_enum)]
        what: Thing,
        /// Name, id or the beginning of an id.
        id: String,
    },
    /// Prints what a run's ranks logged.
    #[command(after_help = "Examples:
  morphctl logs demo-1
  morphctl logs demo-1 -f --rank 0 --tail 20")]
    Logs {
        /// Name or id of the run.
        run: String,
        /// Go on until the run has ended.
        #[arg(short, long)]
        follow: bool,
        /// Only this rank.
        #[arg(long)]
        rank: Option<u32>,
        /// Only this attempt.
        #[arg(long)]
        attempt: Option<u32>,
        /// Only the last lines.
        #[arg(long, value_name = "N")]
        tail: Option<u32>,
    },
    /// Tells what happened to a run, a sweep or everything, from the event log.
    #[command(after_help = "Examples:
  morphctl events demo-1
  morphctl events demo -f                 # go on until the sweep has ended
  morphctl events --since 10m -o json     # one object a line, with all that is recorded")]
    Events {
        /// Run or sweep: name, id or the beginning of an id; all when left out.
        id: Option<String>,
        /// Go on until the run or sweep has ended.
        #[arg(short, long)]
        follow: bool,
        /// Only from this time on: how long ago, like 10m, or a time like 2026-11-23T10:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = crate::events::since)]
        since: Option<u64>,
    },
    /// Stops a run or all of a sweep for good; running ones save a checkpoint first.
    #[command(after_help = "Example:
  morphctl cancel demo")]
    Cancel {
        /// Name, id or the beginning of an id.
        id: String,
    },
    /// Holds a run or all of a sweep back; running ones save a checkpoint first.
    #[command(after_help = "Example:
  morphctl pause demo")]
    Pause {
        /// Name, id or the beginning of an id.
        id: String,
    },
    /// Lets a paused run or sweep go on.
    #[command(after_help = "Example:
  morphctl resume demo")]
    Resume {
        /// Name, id or the beginning of an id.
        id: String,
    },
    /// Tries what failed or was cancelled again, from its newest checkpoint; what succeeded is kept.
    #[command(after_help = "Examples:
  morphctl retry demo         # all of the sweep's runs that did not succeed
  morphctl retry demo-3")]
    Retry {
        /// Name, id or the beginning of an id.
        id: String,
    },
    /// Gives a worker no new work; what runs there goes on.
    #[command(after_help = "Example:
  morphctl cordon node-7 --reason 'new fans on Friday'")]
    Cordon {
        /// Id, the beginning of one, or host.
        worker: String,
        /// For those who wonder.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Gives a cordoned worker work again.
    #[command(after_help = "Example:
  morphctl uncordon node-7")]
    Uncordon {
        /// Id, the beginning of one, or host.
        worker: String,
    },
    /// Empties a worker: no new work, and what runs there saves a checkpoint and goes on elsewhere.
    #[command(after_help = "Example:
  morphctl drain node-7 --reason 'kernel update'")]
    Drain {
        /// Id, the beginning of one, or host.
        worker: String,
        /// For those who wonder.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Makes, lists and ends the tokens that say who may do what.
    #[command(subcommand)]
    Token(Token),
    /// Makes an own certificate authority, and certificates for the coordinator and its agents.
    #[command(subcommand)]
    Certs(Certs),
    /// Prints a shell's completion script.
    #[command(after_help = "Example:
  source <(morphctl completion bash)")]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Formats of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// PyTorch's zip format.
    Pt,
    /// safetensors.
    Safetensors,
    /// The network itself, as TorchScript: image in, reconstruction out.
    Torchscript,
    /// The network itself, as ONNX (operators of version 16).
    Onnx,
}

/// Layouts of `pt` files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// A flat state dict.
    State,
    /// As the published code's: model_weights, the optimizers' state, epoch.
    Paper,
}

/// `--set`.
#[derive(Debug, Clone, Default, Args)]
pub struct Set {
    /// Change a field, like trainer.optimizer.lr=1e-4; may be said again.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// What `evaluate` takes.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Name or id of a run; or URL or path of a checkpoint's folder or manifest (with a `/` in it).
    #[arg(value_name = "RUN|CHECKPOINT")]
    pub what: String,
    /// Datasets to score on instead of the experiment's: URLs or paths of prepared ones.
    #[arg(long, alias = "dataset", value_name = "DATASET", num_args = 1..)]
    pub on: Vec<String>,
    /// Change how it is scored: a field of evaluation (labels, specificity, lpips, …), or dataset.url where the data have moved; may
    /// be said again.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// The score that metrics, thresholds, subgroups and p-values are of (l1, mse, q95, top5, prior_l1, prior_top5, or one of
    /// them with _masked).
    #[arg(long, value_name = "NAME")]
    pub score: Option<Score>,
    /// Folder with twins/, lesions/ and masks/ of the images.
    #[arg(long, value_name = "URL")]
    pub truth: Option<String>,
    /// Score test images that had a part in training, too, or of which nobody can tell since the data that were trained on cannot be
    /// read; the evaluation says so.
    #[arg(long)]
    pub allow_leakage: bool,
    /// The newest checkpoint of the run instead of the best.
    #[arg(long)]
    pub newest: bool,
    /// Also draw some cases into this PNG file.
    #[arg(long, value_name = "FILE")]
    pub panel: Option<PathBuf>,
    /// Also write every image's numbers into this CSV file.
    #[arg(long, alias = "scores", value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// Also write all artifacts into this folder: evaluation.json, cases.csv, cases.parquet, panel.png.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Also draw every test image's residual over it, on one scale for all, into this folder: <set>/<id>.png.
    #[arg(long, value_name = "DIR")]
    pub heatmaps: Option<PathBuf>,
    /// Root of the raw files: heat maps are drawn over these, and as DICOM Secondary Captures, too.
    #[arg(long, value_name = "DIR", requires = "heatmaps")]
    pub source: Option<PathBuf>,
}

/// What `train` and `sweep` take.
#[derive(Debug, Clone, Args)]
pub struct Submit {
    /// The YAML file; -: standard input.
    pub file: PathBuf,
    /// Fields to change.
    #[command(flatten)]
    pub set: Set,
    /// Run everything here: a coordinator in this process, and an agent with its ranks beside it.
    #[arg(long)]
    pub local: bool,
    /// With --local: how many ranks at a time [default: one per GPU or core, and enough for one run].
    #[arg(long, requires = "local", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Do not wait for the end.
    #[arg(short, long, conflicts_with = "local")]
    pub detach: bool,
    /// Another name than the file's.
    #[arg(long)]
    pub name: Option<String>,
    /// Whose it is, as --set scheduling.project=NAME.
    #[arg(long, value_name = "NAME", help_heading = "Scheduling")]
    pub project: Option<String>,
    /// Higher goes first, as --set scheduling.priority=N.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Scheduling")]
    pub priority: Option<i32>,
    /// Start when this run or sweep has succeeded, as scheduling.after; may be said again.
    #[arg(long, value_name = "RUN|SWEEP", help_heading = "Scheduling")]
    pub after: Vec<String>,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Things {
    /// Trainings.
    #[value(alias = "run")]
    Runs,
    /// Searches.
    #[value(alias = "sweep")]
    Sweeps,
    /// Agents.
    #[value(aliases = ["worker", "agents", "agent"])]
    Workers,
    /// Prepared datasets.
    #[value(alias = "dataset")]
    Datasets,
}

/// What can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Thing {
    /// A training.
    #[value(alias = "runs")]
    Run,
    /// A search.
    #[value(alias = "sweeps")]
    Sweep,
    /// An agent.
    #[value(aliases = ["workers", "agent"])]
    Worker,
    /// A prepared dataset.
    #[value(alias = "datasets")]
    Dataset,
}

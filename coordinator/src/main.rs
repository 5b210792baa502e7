//! `morph-coordinator`: the coordinator as a process of its own.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use morph_coordinator::{Options, Tls, auth::layer::Limits};
use morph_spec::load::{self, Document};
use morph_telemetry::{LogArgs, Logs};
use tokio::signal::unix::{SignalKind, signal};

/// Shards data, schedules runs and remembers what happened.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  morph-coordinator --home /var/lib/morph --listen 127.0.0.1:7070
  morph-coordinator --home /var/lib/morph --listen 0.0.0.0:7070 --objects s3://bucket/morph \\
    --tls-cert head.crt --tls-key head.key --tls-ca ca.crt          # morphctl certs makes them

It can be stopped and started again at any time, with any signal: ranks train on, and agents come back by themselves.
To stop training as well: morphctl cancel."
)]
struct Cli {
    /// Folder of its database; of run outputs too, unless --objects says otherwise.
    #[arg(long, env = "MORPH_HOME", value_name = "DIR", default_value = "morph-home")]
    home: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Where run outputs go: file:///…, s3://bucket/prefix, …
    #[arg(long, value_name = "URL")]
    objects: Option<String>,
    /// How often agents are asked to say something.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    heartbeat: Duration,
    /// How long an agent may be silent or away before its ranks count as lost.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    grace: Duration,
    /// How long ranks may take to save and stop before they are killed.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    stop_timeout: Duration,
    /// YAML of kind: cluster with projects, their weights and quotas, and the rules of scheduling.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Its certificate in PEM; with it connections are encrypted, and agents must present certificates of kind agent.
    #[arg(long, env = "MORPH_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, env = "MORPH_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities whose agents are let in, in PEM; several while one replaces another.
    #[arg(long, env = "MORPH_TLS_CA", value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Folder below which files may be read for who submits from afar; may be said again. On loopback all may.
    #[arg(long, value_name = "DIR")]
    allow_files: Vec<PathBuf>,
    /// Let http(s) URLs of datasets lead to this machine and to link-local addresses.
    #[arg(long)]
    allow_private_urls: bool,
    /// Requests a second that one principal may send, twice as many at once after a rest.
    #[arg(long, value_name = "N", default_value_t = Limits::default().requests, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Ask nobody who they are, and listen on any address without TLS: whoever reaches it may read all and give orders.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    log: LogArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; write it like 300ms, 5s or 2m"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than nothing".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.log.log_format;
    let level = "info";
    morph_telemetry::init(Logs { program: "morph-coordinator", format, filter: "RUST_LOG", level, time: true });
    let ended = serve(cli).await;
    if let Err(why) = &ended {
        tracing::error!("{why}");
    }
    morph_telemetry::finish(Duration::from_secs(1));
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(cli: Cli) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let home = cli.home.clone();
    let cluster = match &cli.cluster {
        Some(file) => match load::file(file, &load::Options::default())? {
            Document::Cluster(cluster) => Some(cluster),
            other => anyhow::bail!("--cluster {}: is of kind {}, not cluster", file.display(), other.kind()),
        },
        None => None,
    };
    let tls = match (cli.tls_cert, cli.tls_key, cli.tls_ca) {
        (Some(cert), Some(key), Some(ca)) => Some(Tls { cert, key, ca }),
        _ => None,
    };
    if cli.insecure {
        tracing::warn!("--insecure: whoever reaches {} may read everything and give orders", cli.listen);
    }
    let mut handle = morph_coordinator::start(Options {
        home: cli.home,
        listen: cli.listen,
        objects: cli.objects,
        read_only: false,
        heartbeat: cli.heartbeat,
        grace: cli.grace,
        stop_timeout: cli.stop_timeout,
        cluster,
        insecure: cli.insecure,
        tls,
        allow_private_urls: cli.allow_private_urls,
        allow_files: cli.allow_files,
        limits: Limits { requests: cli.requests, ..Limits::default() },
    })
    .await?;
    tracing::info!("listening on {}, home {}", handle.url(), home.display());
    let failed = tokio::select! {
        _ = terminated.recv() => None,
        _ = interrupted.recv() => None,
        error = handle.failed() => Some(error),
    };
    if failed.is_none() {
        tracing::info!("stopping; running ranks go on and their agents wait for the next coordinator");
    }
    handle.stop().await;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

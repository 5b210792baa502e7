//! `morph-coordinator`: the coordinator as a process of its own.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use morph_coordinator::{
    Options, Postgres, Tls,
    auth::layer::Limits,
    restore::{self, Restored},
    store::postgres::Server,
    upkeep,
};
use morph_spec::load::{self, Document};
use morph_telemetry::{LogArgs, Logs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Shards data, schedules runs and remembers what happened.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  morph-coordinator --home /var/lib/morph --listen 127.0.0.1:7070
  MORPH_DATABASE=postgresql://morph:secret@db/morph morph-coordinator --objects s3://bucket/morph   # as many as you like: one serves
  morph-coordinator --home /var/lib/morph --listen 0.0.0.0:7070 --objects s3://bucket/morph \\
    --tls-cert head.crt --tls-key head.key --tls-ca ca.crt          # morphctl certs makes them
  morph-coordinator backup --home /var/lib/morph --to /backup/morph.db      # while it serves
  morph-coordinator restore --home /var/lib/morph --from /backup/morph.db
  morph-coordinator copy --from /var/lib/morph/state.db --to postgresql://morph@db/morph

It can be stopped and started again at any time, with any signal: ranks train on, and agents come back by themselves.
To stop training as well: morphctl cancel."
)]
struct Cli {
    #[command(flatten)]
    serve: Serve,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    tool: Option<Tool>,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Writes a backup of the database in --home into a file; a coordinator that serves it goes on meanwhile.
    #[command(after_help = "Example:
  morph-coordinator backup --home /var/lib/morph --to /backup/morph-2026-01-31.db

A PostgreSQL is backed up with pg_dump -n morph. To go on from a backup: morph-coordinator restore.")]
    Backup {
        /// Folder of the database.
        #[arg(long, env = "MORPH_HOME", value_name = "DIR", default_value = "morph-home")]
        home: PathBuf,
        /// The file, which must not be there yet.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Puts a backup into a --home that has no database, or goes on from what pg_restore has put into a PostgreSQL.
    ///
    /// What has happened since the backup is not known, and agents may still be at it: all attempts that it knows as running end,
    /// and runs go on in new ones, from the newest of their checkpoints that is still there.
    #[command(after_help = "Examples:
  morph-coordinator restore --from /backup/morph-2026-01-31.db --home /var/lib/morph
  MORPH_DATABASE=postgresql://morph:secret@db/morph morph-coordinator restore      # after pg_restore

Agents need not be stopped. It asks object storage which checkpoints are there, with the credentials of its environment.")]
    Restore {
        /// The backup.
        #[arg(long, value_name = "FILE", required_unless_present = "database", conflicts_with = "database")]
        from: Option<PathBuf>,
        /// Folder of the database.
        #[arg(long, env = "MORPH_HOME", value_name = "DIR", default_value = "morph-home")]
        home: PathBuf,
        /// The database: postgresql://user@host/database. With a password only as MORPH_DATABASE, or the password as PGPASSWORD.
        #[arg(long, env = "MORPH_DATABASE", value_name = "URL", hide_env_values = true)]
        database: Option<String>,
        /// Certificates of the authorities that vouch for the database server, in PEM; by default those that this machine
        /// believes.
        #[arg(long, env = "MORPH_DATABASE_CA", value_name = "FILE", requires = "database")]
        database_ca: Option<PathBuf>,
    },
    /// Copies a state.db that nobody serves into an empty PostgreSQL, to go on there.
    #[command(after_help = "Example:
  MORPH_DATABASE=postgresql://morph:secret@db/morph morph-coordinator copy --from /var/lib/morph/state.db

All of it or nothing: what was written is read back and compared before it counts. The file stays as it is.")]
    Copy {
        /// The file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The database: postgresql://user@host/database. With a password only as MORPH_DATABASE, or the password as PGPASSWORD.
        #[arg(long, env = "MORPH_DATABASE", value_name = "URL", hide_env_values = true)]
        to: String,
        /// Certificates of the authorities that vouch for the database server, in PEM; by default those that this machine
        /// believes.
        #[arg(long, env = "MORPH_DATABASE_CA", value_name = "FILE")]
        database_ca: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Folder of its database; of run outputs too, unless --objects says otherwise.
    #[arg(long, env = "MORPH_HOME", value_name = "DIR", default_value = "morph-home")]
    home: PathBuf,
    /// A PostgreSQL database in place of the file in --home, shared with coordinators that stand by:
    /// postgresql://user@host/database. With a password only as MORPH_DATABASE, or the password as PGPASSWORD: arguments are
    /// seen by all users of this machine.
    #[arg(long, env = "MORPH_DATABASE", value_name = "URL", hide_env_values = true, requires = "objects")]
    database: Option<String>,
    /// Certificates of the authorities that vouch for the database server, in PEM; by default those that this machine believes.
    #[arg(long, env = "MORPH_DATABASE_CA", value_name = "FILE", requires = "database")]
    database_ca: Option<PathBuf>,
    /// A coordinator that was not heard of for so long is replaced by one that stands by.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lease)]
    lease: Duration,
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
    /// After so many events a copy of the state is written into --home, from which the next start begins.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    snapshot_every: u64,
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
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; write it like 300ms, 5s or 2m"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than nothing".into()),
    }
}

/// Shorter ones would end while the database does its own housekeeping.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if lease < Duration::from_secs(2) { Err("must be at least 2s".into()) } else { Ok(lease) }
}

/// The PostgreSQL at `url`; `said`: in an argument.
fn server(option: &str, url: &str, ca: Option<&Path>, said: bool) -> anyhow::Result<Server> {
    let server = Server::new(url, ca)?;
    if said
        && url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).is_some_and(|(who, _)| who.contains(':'))
    {
        anyhow::bail!(
            "{option} has a password in it, which all users of this machine can see; say it in MORPH_DATABASE or \
             PGPASSWORD, and have the password changed"
        );
    }
    Ok(server)
}

/// Whether `id` was given as an argument, and not by the environment.
fn is_said(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The database that `cli` names.
fn postgres(cli: &Serve, said: bool) -> anyhow::Result<Option<Postgres>> {
    let Some(url) = &cli.database else { return Ok(None) };
    let server = server("--database", url, cli.database_ca.as_deref(), said)?;
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    let name = format!("the coordinator at {host} port {} (pid {})", cli.listen.port(), std::process::id());
    Ok(Some(Postgres { server, name, lease: cli.lease }))
}

#[tokio::main]
async fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let said = match matches.subcommand() {
        Some(("copy", copy)) => is_said(copy, "to"),
        Some(("restore", restore)) => is_said(restore, "database"),
        Some(_) => false,
        None => is_said(&matches, "database"),
    };
    let Cli { serve: cli, log, tool } = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let (format, level) = (log.log_format, "info");
    morph_telemetry::init(Logs { program: "morph-coordinator", format, filter: "RUST_LOG", level, time: true });
    let ended = match tool {
        None => serve(cli, said).await,
        Some(Tool::Backup { .. }) if cli.database.is_some() => Err(anyhow::anyhow!(
            "MORPH_DATABASE is set: a PostgreSQL is backed up with pg_dump -n morph; unset it to back up a state.db"
        )),
        Some(tool) => tool.run(said).await,
    };
    if let Err(why) = &ended {
        tracing::error!("{why}");
    }
    morph_telemetry::finish(Duration::from_secs(1));
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for disks and networks, which only a thread of its own may.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(job).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

impl Tool {
    async fn run(self, said: bool) -> anyhow::Result<()> {
        let text = match self {
            Self::Backup { home, to } => {
                let place = to.display().to_string();
                let bytes = blocking(move || upkeep::backup(&home, &to)).await?;
                format!("{place}: {bytes} bytes, checked")
            }
            Self::Restore { from, home, database, database_ca } => {
                let (restored, place) = match database {
                    Some(url) => {
                        let server = server("--database", &url, database_ca.as_deref(), said)?;
                        (restore::restored(&server).await?, server.name().to_owned())
                    }
                    None => {
                        let from = from.context("--from names the backup")?;
                        (restore::restore(&from, &home).await?, home.display().to_string())
                    }
                };
                told(&place, &restored)?
            }
            Self::Copy { from, to, database_ca } => {
                let server = server("--to", &to, database_ca.as_deref(), said)?;
                let (file, name) = (from.display().to_string(), server.name().to_owned());
                let rows = blocking(move || upkeep::copy(&from, &server)).await?;
                let rows: String = rows.iter().map(|(table, rows)| format!("{table:8}{rows:>12} rows\n")).collect();
                format!(
                    "{rows}read back and compared: {name} has all of it. Start coordinators with --database and the same --objects, \
                     and move {file} away: what it would record from now on nobody else would know."
                )
            }
        };
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    }
}

fn told(place: &str, restored: &Restored) -> anyhow::Result<String> {
    let Restored { at, runs, open, ended, gone } = restored;
    let at = jiff::Timestamp::from_microsecond(i64::try_from(at.0)?)?;
    Ok(format!(
        "{place}: {runs} runs, {open} of them not over; the backup's last event was at {at:.0}\n\
         {ended} attempts that ran then have ended; {gone} checkpoints to go on from are no longer there\n\
         start the coordinator: the runs go on. What was submitted since the backup must be submitted again."
    ))
}

/// Lets this process have as many files open as the kernel allows it: each agent and each watch is a connection. How many of these
/// there may be.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    let limit = limit.unwrap_or_else(|e| {
        tracing::warn!("raise the limit of open files: {e}");
        1024
    });
    if limit < ENOUGH_FILES {
        tracing::warn!(
            "only {limit} files may be open, one for each agent: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
    usize::try_from(limit.saturating_sub(OTHER_FILES).max(limit / 2)).unwrap_or(usize::MAX)
}

/// For 10,000 agents, and as many who watch.
const ENOUGH_FILES: u64 = 20_000;
/// Those of databases, logs, datasets that are looked at.
const OTHER_FILES: u64 = 512;

async fn serve(cli: Serve, said: bool) -> anyhow::Result<()> {
    let connections = raise_file_limit();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let home = cli.home.clone();
    let postgres = postgres(&cli, said)?;
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
    let starting = morph_coordinator::start(Options {
        home: cli.home,
        listen: cli.listen,
        objects: cli.objects,
        postgres,
        read_only: false,
        heartbeat: cli.heartbeat,
        grace: cli.grace,
        stop_timeout: cli.stop_timeout,
        snapshot_every: cli.snapshot_every,
        cluster,
        insecure: cli.insecure,
        tls,
        allow_private_urls: cli.allow_private_urls,
        allow_files: cli.allow_files,
        limits: Limits { requests: cli.requests, ..Limits::default() },
        connections,
    });
    let mut handle = tokio::select! {
        handle = starting => handle?,
        // It may stand by for ever.
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    };
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

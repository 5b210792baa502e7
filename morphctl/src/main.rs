//! `morphctl`: what people and scripts say to morph.
#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Talk, to stderr. Whoever listened there may have gone away: that must not end a training.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::note(&format!($($text)*)) };
}

mod bars;
mod certs;
mod change;
mod checkpoint;
mod cli;
mod compare;
mod connect;
mod data;
mod describe;
mod evaluate;
mod events;
mod export;
mod fail;
mod get;
mod import;
mod json;
mod local;
mod logs;
mod prepare;
mod print;
mod report;
mod reproduce;
mod results;
mod submit;
mod text;
mod token;
mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{CommandFactory, Parser};
use morph_proto::v1;
use morph_telemetry::{Logs, TRACE};
use tracing::Instrument;

use crate::{
    change::Wish,
    cli::{Cli, Command, Global},
    fail::coded,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    print::set_color(&cli.global);
    log(&cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say!("morphctl: start: {e}");
            return ExitCode::from(fail::ERROR);
        }
    };
    let ended = runtime.block_on(run(cli));
    morph_telemetry::finish(Duration::from_secs(2));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            if e.downcast_ref::<morph_spec::load::Problems>().is_some() {
                say!("{e}");
            } else {
                say!("morphctl: {}", fail::text(&e));
            }
            ExitCode::from(fail::code(&e))
        }
    }
}

/// The embedded coordinator's log: warnings, unless more is asked for.
fn log(global: &Global) {
    let level = ["error", "info", "debug"][usize::from(global.verbose.min(2))];
    let (program, format) = ("morphctl", global.log.log_format);
    morph_telemetry::init(Logs { program, format, filter: "MORPH_LOG", level, time: false });
}

async fn run(mut cli: Cli) -> Result<u8> {
    match cli.global.asked.format() {
        Some(format) => cli.global.output = format,
        None if matches!(cli.command, Command::Compare { .. }) => {}
        None => return Err(coded(fail::USAGE, "-o csv, latex and markdown are for morphctl compare alone")),
    }
    let global = &cli.global;
    match cli.command {
        Command::Data(command) => return data::run(global, command).await,
        Command::Validate { files, set } => data::validate(global, &files, &set)?,
        Command::Import { file, out, force } => import::import(&file, out.as_deref(), force)?,
        Command::Train(args) => {
            let span = tracing::info_span!(target: TRACE, "morphctl train");
            return Box::pin(submit::run(global, &args, "train")).instrument(span).await;
        }
        Command::Sweep(args) => {
            let span = tracing::info_span!(target: TRACE, "morphctl sweep");
            return Box::pin(submit::run(global, &args, "sweep")).instrument(span).await;
        }
        Command::Evaluate(args) => return evaluate::evaluate(global, &args).await,
        Command::Compare { runs, how } => compare::compare(global, &runs, &how).await?,
        Command::Report { runs, out, how } => report::report(global, &runs, &out, &how).await?,
        Command::Reproduce { run, local, slots } => {
            return Box::pin(reproduce::reproduce(global, &run, reproduce::Place { local, slots })).await;
        }
        Command::Export { what, format, layout, out, force, newest } => {
            let request = export::Request { what: &what, format, layout, out: &out, force, newest };
            return export::export(global, request).await;
        }
        Command::Get { what, id } => get::get(global, what, id.as_deref()).await?,
        Command::Describe { what, id } => describe::describe(global, what, &id).await?,
        Command::Logs { run, follow, rank, attempt, tail } => {
            let request = v1::LogsRequest { run, follow, rank, attempt, tail: tail.unwrap_or(0), after: 0 };
            logs::logs(global, request).await?;
        }
        Command::Events { id, follow, since } => {
            let (id, since) = (id.unwrap_or_default(), since.unwrap_or(0));
            events::events(global, events::Request { id, follow, since }).await?;
        }
        Command::Cancel { id } => change::ask(global, Wish::Cancel, &id).await?,
        Command::Pause { id } => change::ask(global, Wish::Pause, &id).await?,
        Command::Resume { id } => change::ask(global, Wish::Resume, &id).await?,
        Command::Retry { id } => change::ask(global, Wish::Retry, &id).await?,
        Command::Cordon { worker, reason } => change::cordon(global, &worker, &reason, false).await?,
        Command::Drain { worker, reason } => change::cordon(global, &worker, &reason, true).await?,
        Command::Uncordon { worker } => change::uncordon(global, &worker).await?,
        Command::Certs(command) => certs::run(global, command)?,
        Command::Token(command) => token::run(global, command).await?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "morphctl", &mut script);
            print::line(String::from_utf8_lossy(&script).trim_end())?;
        }
    }
    Ok(fail::OK)
}

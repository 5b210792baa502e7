//! What the programs have in common when they tell about themselves: how logs look, and where traces and metrics go. Libraries say what
//! they have to say with `tracing`; those that pass a trace on use [`traceparent`] and [`continues`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod json;
mod lines;
pub mod openmetrics;
mod otel;
mod push;

use std::{io::IsTerminal, sync::OnceLock};

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use lines::Lines;
pub use otel::{TRACE, continues, finish, traceparent};
pub use push::{Push, headers};

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line.
    Json,
}

impl Format {
    /// As it is written on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The option of every program.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LogArgs {
    /// How logs on stderr look.
    #[arg(
        long,
        global = true,
        env = "MORPH_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub log_format: Format,
}

/// A program's logs, which go to stderr.
#[derive(Debug, Clone, Copy)]
pub struct Logs {
    /// Who logs, as JSON names it.
    pub program: &'static str,
    /// How lines look.
    pub format: Format,
    /// The variable that may say what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub filter: &'static str,
    /// What is logged when it does not.
    pub level: &'static str,
    /// Whether lines of text begin with the time; JSON always has it.
    pub time: bool,
}

/// The rank that this whole process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The run's id.
    pub run: String,
    /// The attempt.
    pub attempt: u32,
    /// The rank.
    pub rank: u32,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

/// From now on every line of JSON says that it is about `identity`, from whatever thread it comes. Text does not: a rank's
/// lines are stamped by its agent. The first call counts.
pub fn identify(identity: Identity) {
    // A process is one rank for good.
    drop(IDENTITY.set(identity));
}

/// Sets the logs up, and traces if they are wanted. Once per process, at its beginning; [`finish`] belongs to its end.
pub fn init(logs: Logs) {
    let filter = EnvFilter::try_from_env(logs.filter).unwrap_or_else(|_| EnvFilter::new(logs.level));
    let filter = filter.and(filter_fn(|m| m.target() != TRACE));
    let (traces, problem) = match otel::layer(logs.program) {
        Ok(layer) => (layer, None),
        Err(why) => (None, Some(why)),
    };
    Registry::default().with(lines(logs).with_filter(filter)).with(traces).init();
    if let Some(why) = problem {
        tracing::warn!("{why}");
    }
}

fn lines(logs: Logs) -> Box<dyn Layer<Registry> + Send + Sync> {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Who listened on stderr may have gone away: that is no reason to write there that it has.
    let stderr = move || Lines::new(std::io::stderr(), ansi);
    let text = fmt::layer().with_writer(stderr).with_target(false).with_ansi(ansi).log_internal_errors(false);
    match (logs.format, logs.time) {
        (Format::Text, true) => text.boxed(),
        (Format::Text, false) => text.without_time().boxed(),
        (Format::Json, _) => {
            let json = json::Json { program: logs.program, identity: &IDENTITY };
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .log_internal_errors(false)
                .fmt_fields(JsonFields::new())
                .event_format(json)
                .boxed()
        }
    }
}

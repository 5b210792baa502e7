//! `morph-bench`: how much the coordinator bears. `scripts/bench control` builds and runs it.
//!
//! The real program is started on a folder of its own and spoken to over gRPC, by as many agents as are asked for; they do
//! what agents do, but for training. What is printed beside a bar is what docs/benchmarks.md explains.

mod agents;
mod control;
mod history;
mod server;

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Parser;

/// Measures the coordinator.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The program to measure.
    #[arg(long, default_value = "target/release/morph-coordinator")]
    coordinator: PathBuf,
    /// Agents that are connected.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Runs that live and end.
    #[arg(long, default_value_t = 2000)]
    runs: usize,
    /// Events that a restart has to read.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Runs that wait in the queue.
    #[arg(long, default_value_t = 100_000)]
    queue: usize,
    /// A PostgreSQL for the coordinator in place of its file; what a restart takes is not measured then.
    #[arg(long, env = "MORPH_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One figure.
#[derive(Debug)]
pub struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// The most or the least it may be.
    bar: Option<Bar>,
}

/// What is wanted of a figure.
#[derive(Debug, Clone, Copy)]
pub enum Bar {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, bar: None }
    }

    fn bar(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    fn holds(&self) -> Option<bool> {
        self.bar.map(|bar| match bar {
            Bar::AtMost(most) => self.value <= most,
            Bar::AtLeast(least) => self.value >= least,
        })
    }
}

fn line(figure: &Figure) -> String {
    let bar = match figure.bar {
        Some(Bar::AtMost(most)) => format!("at most {most}"),
        Some(Bar::AtLeast(least)) => format!("at least {least}"),
        None => String::new(),
    };
    let verdict = match figure.holds() {
        Some(true) => "holds",
        Some(false) => "MISSED",
        None => "",
    };
    format!("{:<58} {:>12.2} {:<9} {bar:<16} {verdict}", figure.what, figure.value, figure.unit)
}

fn json(figures: &[Figure]) -> serde_json::Value {
    let all = figures
        .iter()
        .map(|f| serde_json::json!({"what": f.what, "value": f.value, "unit": f.unit, "holds": f.holds()}));
    all.collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut figures = control::measure(&cli).await?;
    if cli.database.is_none() {
        figures.extend(history::measure(&cli).await?);
    }
    let mut out = std::io::stdout().lock();
    if cli.json {
        writeln!(out, "{:#}", json(&figures))?;
    } else {
        for figure in &figures {
            writeln!(out, "{}", line(figure))?;
        }
    }
    Ok(())
}

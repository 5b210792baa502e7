//! What Prometheus may ask: counted where it happens, in OpenMetrics' text format. docs/observability.md lists all names.
//!
//! No label has values that grow with use: no ids, no names that people chose.

pub mod rpc;
mod state;

use std::{fmt, time::Duration};

use morph_control::{Cluster, Event, Exit, What};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use state::State;

use crate::store::Batch;

/// Name and value.
type Label = (&'static str, &'static str);
/// Told apart by one label.
type By = [Label; 1];
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Seconds from half a millisecond to about half a minute.
const SHORT: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 30.0];
/// Seconds from a hundredth to a day.
const LONG: [f64; 13] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Messages of a turn of the core's loop.
const TURNS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0];

fn short() -> Histogram {
    Histogram::new(SHORT)
}

fn long() -> Histogram {
    Histogram::new(LONG)
}

/// All of a coordinator's metrics.
pub struct Metrics {
    registry: Registry,
    events: Family<By, Counter>,
    exits: Family<By, Counter>,
    attempts: Family<By, Counter>,
    placement: Family<By, Histogram, fn() -> Histogram>,
    commit: Histogram,
    turn: Histogram,
    turn_messages: Histogram,
    command: Histogram,
    points: Counter,
    lines: Counter,
    line_bytes: Counter,
    heartbeats: Counter,
    rpc: rpc::Calls,
    gauges: state::Gauges,
    answers: Gauge,
    inbox: Gauge,
    database: Family<By, Gauge>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("morph");
        let r = &mut registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The program", build);
        let metrics = Self {
            events: Family::default(),
            exits: Family::default(),
            attempts: Family::default(),
            placement: Family::new_with_constructor(long),
            commit: short(),
            turn: short(),
            turn_messages: Histogram::new(TURNS),
            command: short(),
            points: Counter::default(),
            lines: Counter::default(),
            line_bytes: Counter::default(),
            heartbeats: Counter::default(),
            rpc: rpc::Calls::new(r),
            gauges: state::Gauges::new(r),
            answers: Gauge::default(),
            inbox: Gauge::default(),
            database: Family::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        r.register("events", "Events recorded, by kind", m.events.clone());
        r.register("rank_exits", "Ranks that ended, by cause", m.exits.clone());
        r.register("attempts_ended", "Attempts that ended, by outcome", m.attempts.clone());
        let help = "Time from a run's submission, or from the end of its last attempt, to its placement";
        r.register_with_unit("placement", help, Unit::Seconds, m.placement.clone());
        r.register_with_unit("commit", "Time that a transaction of the database took", Unit::Seconds, m.commit.clone());
        r.register_with_unit("core_turn", "Time that a turn of the core's loop took", Unit::Seconds, m.turn.clone());
        r.register("core_turn_messages", "Messages taken in a turn of the core's loop", m.turn_messages.clone());
        let help = "Time from a command's arrival at the core's loop until it was durable and answered";
        r.register_with_unit("command", help, Unit::Seconds, m.command.clone());
        r.register("metric_points", "Points of runs' metrics recorded", m.points.clone());
        r.register("log_lines", "Lines of ranks' logs recorded", m.lines.clone());
        r.register("log_bytes", "Bytes of ranks' logs recorded", m.line_bytes.clone());
        r.register("heartbeats", "Heartbeats of agents", m.heartbeats.clone());
        r.register("core_answers", "1: the core's loop answered this scrape's question", m.answers.clone());
        r.register("core_inbox_messages", "Messages that wait for the core's loop", m.inbox.clone());
        r.register_with_unit("database", "Size of the database's files", Unit::Bytes, m.database.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts what happened; `after` is the state that it led to.
    pub fn event(&self, after: &Cluster, event: &Event) {
        self.events.get_or_create(&[("kind", event.kind())]).inc();
        match &event.what {
            What::RunPlaced { fence, .. } => {
                let Some(run) = after.runs.get(&fence.run) else { return };
                let (why, since) = match run.past.last() {
                    None => ("submit", run.created_at),
                    Some(past) => ("requeue", past.ended_at),
                };
                let waited = event.at.since(since);
                self.placement.get_or_create(&[("after", why)]).observe(waited.as_secs_f64());
            }
            What::RankExited { exit, .. } => {
                self.exits.get_or_create(&[("cause", cause(*exit))]).inc();
            }
            What::AttemptEnded { outcome, .. } => {
                self.attempts.get_or_create(&[("outcome", outcome.word())]).inc();
            }
            _ => {}
        }
    }

    /// Counts what a transaction recorded, and how long it took.
    pub fn committed(&self, batch: &Batch, took: Duration) {
        self.commit.observe(took.as_secs_f64());
        self.points.inc_by(batch.metrics.len() as u64);
        self.lines.inc_by(batch.lines.len() as u64);
        self.line_bytes.inc_by(batch.lines.iter().map(|l| l.text.len() as u64).sum());
    }

    /// A turn of the core's loop that took in `messages`.
    pub fn turned(&self, messages: usize, took: Duration) {
        self.turn.observe(took.as_secs_f64());
        self.turn_messages.observe(messages as f64);
    }

    /// A command that was answered.
    pub fn commanded(&self, took: Duration) {
        self.command.observe(took.as_secs_f64());
    }

    /// An agent's heartbeat.
    pub fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// All of it as text. `state`: what the core's loop answered, if it did; `inbox`: messages that wait for it; `database`: its
    /// parts and their bytes.
    pub fn text(&self, state: Option<&State>, inbox: usize, database: &[(&'static str, u64)]) -> String {
        self.answers.set(i64::from(state.is_some()));
        self.inbox.set(inbox as i64);
        if let Some(state) = state {
            self.gauges.set(state);
        }
        for &(file, bytes) in database {
            self.database.get_or_create(&[("file", file)]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("invariant: a String takes all text");
        out
    }
}

fn cause(exit: Exit) -> &'static str {
    match exit {
        Exit::Succeeded => "succeeded",
        Exit::Stopped => "stopped",
        Exit::PeerLost => "peer_lost",
        Exit::Lost => "worker_lost",
        Exit::Infra => "infrastructure",
        Exit::Crashed => "crashed",
        Exit::User => "user",
        Exit::NoCheckpoint => "no_checkpoint",
    }
}

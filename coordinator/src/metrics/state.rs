//! What the core's state amounts to in numbers, found out at each scrape.

use std::time::Duration;

use morph_control::{RunState, SweepEnd, WorkerState, goodput::Goodput};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{By, Seconds};
use crate::view::View;

const RUNS: [&str; 8] = ["queued", "paused", "starting", "running", "stopping", "succeeded", "failed", "cancelled"];
const SWEEPS: [&str; 5] = ["running", "paused", "succeeded", "failed", "cancelled"];
const WORKERS: [&str; 6] = ["ready", "leaving", "cordoned", "away", "lost", "left"];
const SLOTS: [&str; 3] = ["used", "free", "unavailable"];

/// The numbers of one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    runs: [i64; RUNS.len()],
    sweeps: [i64; SWEEPS.len()],
    workers: [i64; WORKERS.len()],
    slots: [i64; SLOTS.len()],
    oldest: Duration,
    silence: Option<(Duration, Duration)>,
    sessions: i64,
    draining: bool,
    time: Goodput,
}

impl State {
    /// Counts through what `view` shows.
    pub fn of(view: &View<'_>) -> Self {
        let mut state = Self { sessions: view.connected as i64, ..Self::default() };
        let cluster = view.cluster;
        state.draining = cluster.draining.is_some();
        for run in cluster.runs.values() {
            let which = match &run.state {
                RunState::Queued { since, .. } => {
                    state.oldest = state.oldest.max(view.now.since(*since));
                    0
                }
                RunState::Paused { .. } => 1,
                RunState::Starting { .. } => 2,
                RunState::Running { .. } => 3,
                RunState::Stopping { .. } => 4,
                RunState::Succeeded { .. } => 5,
                RunState::Failed { .. } => 6,
                RunState::Cancelled { .. } => 7,
            };
            state.runs[which] += 1;
        }
        view.live.values().for_each(|l| state.time.add(&l.goodput(view.now)));
        for sweep in cluster.sweeps.values() {
            let which = match sweep.end {
                None if sweep.paused => 1,
                None => 0,
                Some(SweepEnd::Succeeded) => 2,
                Some(SweepEnd::Failed) => 3,
                Some(SweepEnd::Cancelled) => 4,
            };
            state.sweeps[which] += 1;
        }
        let mut silences = Vec::new();
        for worker in cluster.workers.values() {
            let which = match worker.state {
                WorkerState::Ready if worker.leaving => 1,
                WorkerState::Ready if worker.cordoned.is_some() => 2,
                WorkerState::Ready => 0,
                WorkerState::Away { .. } => 3,
                WorkerState::Lost => 4,
                WorkerState::Left => 5,
            };
            state.workers[which] += 1;
            if matches!(worker.state, WorkerState::Lost | WorkerState::Left) {
                continue;
            }
            let idle = cluster.idle(worker.id);
            state.slots[0] += i64::from(worker.slots.saturating_sub(idle));
            state.slots[if worker.serves() { 1 } else { 2 }] += i64::from(idle);
            if let Some(heard) = view.last_seen.get(&worker.id) {
                silences.push(view.now.since(*heard));
            }
        }
        silences.sort_unstable();
        state.silence = silences.last().map(|longest| (silences[silences.len() / 2], *longest));
        state
    }
}

/// Where [`State`] is shown.
pub(super) struct Gauges {
    runs: Family<By, Gauge>,
    sweeps: Family<By, Gauge>,
    workers: Family<By, Gauge>,
    slots: Family<By, Gauge>,
    oldest: Seconds,
    silence: Family<By, Seconds>,
    sessions: Gauge,
    draining: Gauge,
    time: Family<By, Seconds>,
}

impl Gauges {
    pub(super) fn new(r: &mut Registry) -> Self {
        let gauges = Self {
            runs: Family::default(),
            sweeps: Family::default(),
            workers: Family::default(),
            slots: Family::default(),
            oldest: Seconds::default(),
            silence: Family::default(),
            sessions: Gauge::default(),
            draining: Gauge::default(),
            time: Family::default(),
        };
        r.register("runs", "Runs, by state", gauges.runs.clone());
        r.register("sweeps", "Sweeps, by state", gauges.sweeps.clone());
        r.register("workers", "Workers that ever joined, by state", gauges.workers.clone());
        r.register("slots", "Slots of workers that are not gone, by state", gauges.slots.clone());
        let help = "How long the run that has waited longest has waited";
        r.register_with_unit("queue_age", help, Unit::Seconds, gauges.oldest.clone());
        let help = "How long workers have been silent: the median and the longest";
        r.register_with_unit("heartbeat_age", help, Unit::Seconds, gauges.silence.clone());
        r.register("agent_sessions", "Agents that are connected", gauges.sessions.clone());
        r.register("draining", "1: nothing new is started, the coordinator is being stopped", gauges.draining.clone());
        let help = "Where the time of all runs since their submission went, by class";
        r.register_with_unit("run_time", help, Unit::Seconds, gauges.time.clone());
        gauges
    }

    pub(super) fn set(&self, state: &State) {
        let all = [
            (&self.runs, &RUNS[..], &state.runs[..]),
            (&self.sweeps, &SWEEPS, &state.sweeps),
            (&self.workers, &WORKERS, &state.workers),
            (&self.slots, &SLOTS, &state.slots),
        ];
        for (family, words, counts) in all {
            for (word, count) in words.iter().zip(counts) {
                family.get_or_create(&[("state", *word)]).set(*count);
            }
        }
        self.oldest.set(state.oldest.as_secs_f64());
        let (median, longest) = state.silence.unwrap_or_default();
        self.silence.get_or_create(&[("worker", "median")]).set(median.as_secs_f64());
        self.silence.get_or_create(&[("worker", "longest")]).set(longest.as_secs_f64());
        for (class, time) in state.time.classes() {
            self.time.get_or_create(&[("class", class)]).set(time.as_secs_f64());
        }
        self.sessions.set(state.sessions);
        self.draining.set(i64::from(state.draining));
    }
}

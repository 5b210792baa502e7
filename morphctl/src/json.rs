//! The wire's messages as JSON for programs. Names here are a promise: fields are added, never renamed.

use morph_proto::v1;
use serde_json::{Map, Value, json};

use crate::{compare::ledger::Use, text};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn when(micros: u64) -> Value {
    if micros == 0 { Value::Null } else { Value::from(text::instant(micros)) }
}

fn numbers(map: &std::collections::HashMap<String, f64>) -> Value {
    let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
    Value::Object(sorted.into_iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect::<Map<_, _>>())
}

/// The state of a run, in lower case.
pub fn run_state(run: &v1::Run) -> String {
    word(run.state().as_str_name(), "RUN_STATE_")
}

/// The state of a sweep, in lower case.
pub fn sweep_state(sweep: &v1::Sweep) -> String {
    word(sweep.state().as_str_name(), "SWEEP_STATE_")
}

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// A run.
pub fn run(run: &v1::Run) -> Value {
    let mut out = json!({
        "id": run.id,
        "name": run.name,
        "sweep": if run.sweep.is_empty() { Value::Null } else { Value::from(run.sweep.clone()) },
        "state": run_state(run),
        "reason": run.reason,
        "params": parsed(&run.params_json),
        "attempt": run.attempt,
        "step": run.step,
        "total_steps": run.total_steps,
        "epoch": run.epoch,
        "world_size": run.world_size,
        "project": run.project,
        "priority": run.priority,
        "images_per_second": run.images_per_second,
        "created_at": when(run.created_at),
        "started_at": when(run.started_at),
        "ended_at": when(run.ended_at),
        "error": run.error,
        "summary": numbers(&run.summary),
        "latest": numbers(&run.latest),
        "artifacts": run.artifacts,
        "dataset": run.dataset,
    });
    if !run.time.is_empty() {
        out["time"] = numbers(&run.time);
    }
    let more = [("experiment", &run.experiment_json), ("report", &run.summary_json)];
    for (name, text) in more.into_iter().filter(|(_, t)| !t.is_empty()) {
        out[name] = parsed(text);
    }
    if !run.attempts.is_empty() {
        out["attempts"] = run.attempts.iter().map(attempt).collect();
    }
    if !run.checkpoints.is_empty() {
        out["checkpoints"] = run.checkpoints.iter().map(checkpoint).collect();
    }
    out
}

fn attempt(a: &v1::Attempt) -> Value {
    json!({
        "attempt": a.attempt,
        "workers": a.ranks.iter().map(|p| p.worker.clone()).collect::<Vec<_>>(),
        "placed_at": when(a.placed_at),
        "ended_at": when(a.ended_at),
        "outcome": if a.outcome.is_empty() { Value::Null } else { Value::from(a.outcome.clone()) },
        "error": a.error,
        "version": a.version,
    })
}

fn checkpoint(c: &v1::Checkpoint) -> Value {
    json!({
        "url": c.url,
        "digest": c.digest,
        "step": c.step,
        "epoch": c.epoch,
        "attempt": c.attempt,
        "bytes": c.bytes,
        "score": c.score,
        "best": c.best,
        "at": when(c.at),
    })
}

/// A sweep.
pub fn sweep(s: &v1::Sweep) -> Value {
    json!({
        "id": s.id,
        "name": s.name,
        "state": sweep_state(s),
        "reason": s.reason,
        "metric": s.metric,
        "goal": s.goal,
        "total": s.total,
        "queued": s.queued,
        "running": s.running,
        "succeeded": s.succeeded,
        "failed": s.failed,
        "cancelled": s.cancelled,
        "paused": s.paused,
        "time": numbers(&s.time),
        "best_run": if s.best_run.is_empty() { Value::Null } else { Value::from(s.best_run.clone()) },
        "best_value": s.best_value,
        "created_at": when(s.created_at),
        "ended_at": when(s.ended_at),
    })
}

/// A worker.
pub fn worker(w: &v1::Worker) -> Value {
    json!({
        "id": w.id,
        "host": w.host,
        "slots": w.slots,
        "used": w.used,
        "state": w.state,
        "version": w.version,
        "runs": w.runs,
        "cordoned": if w.cordoned.is_empty() { Value::Null } else { Value::from(w.cordoned.clone()) },
        "labels": w.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "memory": w.memory,
        "cached": w.cached,
        "joined_at": when(w.joined_at),
        "last_seen": when(w.last_seen),
    })
}

/// A dataset.
pub fn dataset(d: &v1::Dataset) -> Value {
    let mut out = json!({
        "name": d.name,
        "url": d.url,
        "digest": d.digest,
        "samples": d.samples,
        "bytes": d.bytes,
        "registered_at": when(d.registered_at),
    });
    if !d.manifest_json.is_empty() {
        out["manifest"] = parsed(&d.manifest_json);
    }
    out
}

/// How a test set was used.
pub fn test_set(t: &v1::TestSet) -> Value {
    serde_json::to_value(Use::new(t)).unwrap_or_default()
}

/// An event.
pub fn event(e: &v1::Event) -> Value {
    json!({ "seq": e.seq, "at": when(e.at), "kind": e.kind, "text": e.text })
}

/// An event with all that is recorded of it.
pub fn event_with_data(e: &v1::Event) -> Value {
    let mut out = event(e);
    out["name"] = if e.name.is_empty() { Value::Null } else { Value::from(e.name.clone()) };
    out["data"] = parsed(&e.json)["data"].take();
    out
}

/// A log line.
pub fn line(l: &v1::LogLine) -> Value {
    json!({
        "run": l.run, "attempt": l.attempt, "rank": l.rank, "seq": l.seq, "at": when(l.at), "stream": l.stream, "text": l.text,
    })
}

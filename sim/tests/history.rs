//! Histories that releases have recorded fold to what they folded to then.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use morph_control::{Event, What};
use morph_sim::history;
use serde_json::Value;

/// One event of each kind, a line each.
const KINDS: &str = include_str!("../../control/tests/golden/events.jsonl");

/// The histories of a release: the name of each, its events and the state that they folded to, as recorded.
fn histories(release: &Path) -> Vec<(String, Vec<Value>, Vec<Value>)> {
    let values = |path: &Path| -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    };
    let files = fs::read_dir(release).expect("a folder").map(|entry| entry.expect("a file").path());
    let read = |path: PathBuf| {
        let name = path.display().to_string();
        let state = name.strip_suffix(".events.jsonl").map(|stem| format!("{stem}.state.jsonl"))?;
        Some((name, values(&path), values(Path::new(&state))))
    };
    files.filter_map(read).collect()
}

/// All folders of releases.
fn releases() -> Vec<PathBuf> {
    let all = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).expect("the recorded histories");
    all.map(|entry| entry.expect("a folder").path()).collect()
}

fn events(lines: &[Value]) -> Vec<Event> {
    lines.iter().map(|line| Event::from_json(&line.to_string()).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Whether all that was `recorded` is in `now`; fields may have been added since. Else where it is not.
fn keeps(at: &str, recorded: &Value, now: &Value) -> Result<(), String> {
    match (recorded, now) {
        (Value::Object(old), Value::Object(new)) => old.iter().try_for_each(|(name, value)| {
            let at = format!("{at}.{name}");
            keeps(&at, value, new.get(name).ok_or_else(|| format!("{at} is gone"))?)
        }),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).enumerate().try_for_each(|(i, (old, new))| keeps(&format!("{at}[{i}]"), old, new))
        }
        _ if recorded == now => Ok(()),
        _ => Err(format!("{at} was {recorded}, and is {now}")),
    }
}

/// Whether `events` fold to what is `recorded`.
fn folds(events: &[Event], recorded: &[Value]) -> Result<(), String> {
    keeps("state", &recorded.into(), &history::state(events).into())
}

#[test]
fn recorded_histories_fold_to_what_they_did() {
    for (name, lines, state) in releases().iter().flat_map(|release| histories(release)) {
        let events = events(&lines);
        for (line, event) in lines.iter().zip(&events) {
            let written = serde_json::to_value(event).expect("JSON");
            keeps("event", line, &written).unwrap_or_else(|e| panic!("{name}: {e}\nin {line}"));
        }
        folds(&events, &state).unwrap_or_else(|e| panic!("{name} folds to something else: {e}"));
    }
}

#[test]
fn this_version_is_recorded_with_every_kind_of_event() {
    let own = env!("CARGO_PKG_VERSION");
    let command = format!("cargo run --release -p morph-sim -- --seeds 1500 --record sim/tests/golden/{own}");
    let release = releases().into_iter().find(|folder| folder.ends_with(own));
    let release = release.unwrap_or_else(|| panic!("record this version: {command}"));
    let kinds = |events: &[Event]| events.iter().map(Event::kind).collect::<BTreeSet<_>>();
    let recorded: BTreeSet<_> = histories(&release).iter().flat_map(|(_, lines, _)| kinds(&events(lines))).collect();
    let all: Vec<Value> = KINDS.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let missing: Vec<_> = kinds(&events(&all)).difference(&recorded).copied().collect();
    assert!(missing.is_empty(), "no history has {missing:?}; record once more: {command}");
}

#[test]
fn a_fold_that_leaves_something_out_is_noticed() {
    let (_, lines, state) = histories(&releases()[0]).swap_remove(0);
    let mut events = events(&lines);
    folds(&events, &state).expect("all of it");
    let saved = |e: &Event| matches!(e.what, What::CheckpointCommitted { .. });
    events.remove(events.iter().rposition(saved).expect("a checkpoint"));
    let why = folds(&events, &state).expect_err("a checkpoint is missing");
    assert!(why.contains("checkpoints"), "{why}");
}

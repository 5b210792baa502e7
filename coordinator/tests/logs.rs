//! The program's logs, as who collects them sees them.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

/// The first lines that the program logs, until it has said where it listens, and that it has started (from another thread).
fn logged(args: &[&str]) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_morph-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--home"])
        .arg(home.path())
        .args(args)
        .env("RUST_LOG", "info,morph_coordinator=debug")
        .env_remove("MORPH_LOG_FORMAT")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if ["listening on", "coordinator_started"].iter().all(|what| lines.iter().any(|l| l.contains(what))) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn json_is_one_object_a_line() {
    let lines = logged(&["--log-format", "json"]);
    assert!(lines.len() >= 2, "the first event and the address: {lines:?}");
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["at"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
        assert_eq!(line["program"], "morph-coordinator");
    }
    assert!(lines.iter().any(|l| l.contains("\"kind\":\"coordinator_started\"")), "{lines:?}");
}

#[test]
fn text_is_for_people() {
    let lines = logged(&[]);
    assert!(lines.iter().all(|l| !l.starts_with('{')), "{lines:?}");
}

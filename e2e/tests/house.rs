//! The house itself: who may use whom, what a room must never reach, and how long a file may grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_path_buf()
}

/// Room → rooms it may use, and crates that it must not reach even through others. docs/ARCHITECTURE.md has the same
/// table for people.
const TABLE: &[(&str, &[&str], &[&str])] = &[
    ("morph-spec", &[], &["tokio", "tch", "tonic", "object_store", "rusqlite"]),
    ("morph-control", &["morph-spec"], &["tokio", "tch", "tonic", "object_store", "rusqlite"]),
    ("morph-scores", &["morph-spec"], &["tokio", "tch", "tonic", "object_store", "rusqlite"]),
    ("morph-proto", &["morph-spec", "morph-control"], &["tch", "rusqlite", "object_store"]),
    ("morph-objects", &["morph-spec"], &["tonic", "tch", "rusqlite"]),
    ("morph-data", &["morph-spec", "morph-objects"], &["tonic", "tch", "rusqlite"]),
    ("morph-checkpoint", &["morph-spec", "morph-objects"], &["tonic", "tch", "rusqlite"]),
    ("morph-model", &["morph-spec", "morph-checkpoint"], &["tonic", "rusqlite"]),
    ("morph-collective", &[], &["tokio", "tonic", "rusqlite"]),
    (
        "morph-worker",
        &[
            "morph-spec",
            "morph-proto",
            "morph-control",
            "morph-objects",
            "morph-data",
            "morph-scores",
            "morph-checkpoint",
            "morph-model",
            "morph-collective",
            "morph-telemetry",
        ],
        &["rusqlite"],
    ),
    (
        "morph-coordinator",
        &["morph-spec", "morph-proto", "morph-control", "morph-objects", "morph-checkpoint", "morph-telemetry"],
        &["tch", "arrow-ipc", "dicom-object"],
    ),
    (
        "morphctl",
        &[
            "morph-spec",
            "morph-proto",
            "morph-objects",
            "morph-data",
            // compare and report: tables of cases become intervals and p-values where they are asked for.
            "morph-scores",
            "morph-checkpoint",
            "morph-coordinator",
            "morph-telemetry",
        ],
        &["tch"],
    ),
    ("morph-telemetry", &[], &["tch", "rusqlite", "object_store"]),
    ("morph-sim", &["morph-spec", "morph-control"], &["tokio", "tch", "tonic", "object_store", "rusqlite"]),
    ("morph-e2e", &[], &["tch"]),
    (
        "morph-fuzz",
        &[
            "morph-spec",
            "morph-proto",
            "morph-control",
            "morph-objects",
            "morph-data",
            "morph-checkpoint",
            "morph-coordinator",
            "morph-scores",
            "morph-telemetry",
        ],
        &["tch"],
    ),
    ("morph-bench", &["morph-spec", "morph-proto", "morph-control", "morph-coordinator"], &["tch"]),
];

struct Graph {
    /// Package name → names of its normal and build dependencies.
    edges: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

fn graph() -> Graph {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        // What other platforms need has never been downloaded.
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let meta: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let names: BTreeMap<&str, &str> = meta["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| (p["id"].as_str().expect("id"), p["name"].as_str().expect("name")))
        .collect();
    let members = meta["workspace_members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|id| names[id.as_str().expect("id")].to_owned())
        .collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in meta["resolve"]["nodes"].as_array().expect("nodes") {
        let from = names[node["id"].as_str().expect("id")].to_owned();
        let to = edges.entry(from).or_default();
        for dep in node["deps"].as_array().expect("deps") {
            let linked = dep["dep_kinds"].as_array().expect("kinds").iter().any(|k| k["kind"].is_null());
            if linked {
                to.insert(names[dep["pkg"].as_str().expect("pkg")].to_owned());
            }
        }
    }
    Graph { edges, members }
}

fn reaches(graph: &Graph, from: &str, target: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(name) = todo.pop() {
        if name == target {
            return true;
        }
        if seen.insert(name) {
            todo.extend(graph.edges.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let graph = graph();
    let listed: BTreeSet<String> = TABLE.iter().map(|(room, ..)| (*room).to_owned()).collect();
    assert_eq!(listed, graph.members, "every room has a row in the table");
    let mut wrong = Vec::new();
    for (room, may, _) in TABLE {
        for dep in graph.edges[*room].iter().filter(|d| graph.members.contains(*d)) {
            if !may.contains(&dep.as_str()) {
                wrong.push(format!("{room} must not use {dep}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_never_reach_what_they_must_not() {
    let graph = graph();
    let mut wrong = Vec::new();
    for (room, _, never) in TABLE {
        for target in *never {
            if reaches(&graph, room, target) {
                wrong.push(format!("{room} reaches {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn tracked() -> Vec<PathBuf> {
    let out = Command::new("git").arg("ls-files").current_dir(root()).output().expect("git runs");
    String::from_utf8(out.stdout).expect("UTF-8 names").lines().map(PathBuf::from).collect()
}

#[test]
fn files_are_read_in_one_sitting() {
    let long: Vec<String> = tracked()
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .filter_map(|f| {
            let lines = fs::read_to_string(root().join(&f)).ok()?.lines().count();
            (lines > 600).then(|| format!("{}: {lines} lines", f.display()))
        })
        .collect();
    assert!(long.is_empty(), "is there a second room inside?\n{}", long.join("\n"));
}

#[test]
fn no_path_of_one_machine_is_committed() {
    // Spelt in two halves, or this file would accuse itself.
    let roots: Vec<String> =
        ["wor", "roo", "hom"].iter().zip(["k", "t", "e"]).map(|(a, b)| format!("/{a}{b}/")).collect();
    let found: Vec<String> = tracked()
        .into_iter()
        .filter(|f| f.extension().is_none_or(|e| e != "lock"))
        .filter_map(|f| {
            let text = fs::read_to_string(root().join(&f)).ok()?;
            let line = text.lines().position(|l| roots.iter().any(|r| l.contains(r.as_str())))?;
            Some(format!("{}:{}", f.display(), line + 1))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_simulator_may_break_mechanisms() {
    for entry in fs::read_dir(root()).expect("the repository can be read") {
        let manifest = entry.expect("an entry").path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else { continue };
        let allowed = manifest.ends_with("control/Cargo.toml") || manifest.ends_with("sim/Cargo.toml");
        assert!(allowed || !text.contains("sabotage"), "{} speaks of sabotage", manifest.display());
    }
    let sim = fs::read_to_string(root().join("sim/Cargo.toml")).expect("sim has a manifest");
    assert!(!sim.contains("default ="), "sabotage is never on by itself");
}

#[test]
fn the_bill_of_materials_names_what_is_linked() -> anyhow::Result<()> {
    let out = Command::new(root().join("scripts/sbom")).output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let bom: Value = serde_json::from_slice(&out.stdout)?;
    let components = bom["components"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |name: &str| components.iter().find(|c| c["name"] == name);
    for name in ["tonic", "tch", "rusqlite", "libtorch", "morph-worker"] {
        assert!(named(name).is_some_and(|c| c["version"].is_string()), "{name} is missing");
    }
    assert!(named("tonic").is_some_and(|c| c["hashes"][0]["content"].as_str().is_some_and(|h| h.len() == 64)));
    assert!(named("assert_cmd").is_none(), "what only tests use is not shipped");
    Ok(())
}

//! The program as a shell sees it: help, exit codes, formats.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use assert_cmd::Command;
use tempfile::TempDir;

fn morphctl(home: &Path) -> Command {
    let mut command = Command::cargo_bin("morphctl").unwrap();
    command
        .env("MORPH_HOME", home)
        .env_remove("MORPH_COORDINATOR")
        .env_remove("MORPH_TOKEN")
        .env_remove("NO_COLOR")
        .current_dir(home);
    command
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Exit code, stdout, stderr.
fn run(home: &TempDir, args: &[&str]) -> (i32, String, String) {
    let out = morphctl(home.path()).args(args).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

const EXPERIMENT: &str = "kind: experiment\nname: x\ndataset: {url: d}\nmodel: {method: morphaeus, image_size: 32, channels: [4, 8, 8, 8]}\n";

#[test]
fn every_verb_has_help_with_an_example() {
    let home = home();
    for verb in [
        "validate",
        "train",
        "sweep",
        "evaluate",
        "compare",
        "report",
        "reproduce",
        "export",
        "import",
        "get",
        "describe",
        "logs",
        "events",
        "cancel",
        "pause",
        "resume",
        "retry",
        "cordon",
        "uncordon",
        "drain",
        "certs init",
        "certs issue",
        "token create",
        "token list",
        "token revoke",
        "completion",
        "data synth",
        "data prepare",
        "data inspect",
    ] {
        let args: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let (code, out, _) = run(&home, &args);
        assert_eq!(code, 0, "{verb}");
        assert!(out.contains("Example") && out.contains(&format!("morphctl {verb}")), "{verb} has no example:\n{out}");
    }
    assert!(run(&home, &["--help"]).1.contains("Exit codes"));
}

#[test]
fn what_compares_says_why_it_cannot() {
    let home = home();
    let (code, _, err) = run(&home, &["compare", "nobody"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("there is no run or sweep \"nobody\""), "{err}");
    assert_eq!(run(&home, &["compare"]).0, 2);
    assert_eq!(run(&home, &["report", "nobody"]).0, 2, "it wants a folder");
    let (code, _, err) = run(&home, &["report", "nobody", "--out", "out"]);
    assert!(code == 3 && !home.path().join("out").exists(), "{err}");
    let (code, _, err) = run(&home, &["reproduce", "nobody", "--local"]);
    assert_eq!(code, 3, "{err}");
    for format in ["csv", "latex", "markdown"] {
        let (code, _, err) = run(&home, &["get", "runs", "-o", format]);
        assert!(code == 2 && err.contains("for morphctl compare alone"), "{err}");
    }
}

#[test]
fn bad_usage_ends_with_2() {
    let home = home();
    assert_eq!(run(&home, &["frobnicate"]).0, 2);
    assert_eq!(run(&home, &["train"]).0, 2);
    assert_eq!(run(&home, &["train", "x.yaml", "--slots", "0", "--local"]).0, 2);
    let (code, _, err) = run(&home, &["evaluate", "x", "--score", "l2"]);
    assert!(code == 2 && err.contains("top5"), "{err}");
    let (code, _, err) = run(&home, &["--coordinator", "not a url", "get", "runs"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_home_where_nothing_ran_is_empty_and_stays_untouched() {
    let home = home();
    for what in ["runs", "sweeps", "workers", "datasets"] {
        let (code, out, err) = run(&home, &["get", what]);
        assert_eq!((code, out.as_str()), (0, ""), "{what}: {err}");
        assert!(err.contains("nothing has run yet"), "{err}");
        assert_eq!(run(&home, &["get", what, "-o", "json"]).1.trim(), "[]");
    }
    for args in [&["events"][..], &["events", "-f"], &["events", "-o", "json"]] {
        assert_eq!((run(&home, args).0, run(&home, args).1.as_str()), (0, ""), "{args:?}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "a question leaves nothing behind");
}

#[test]
fn what_is_not_there_ends_with_3() {
    let home = home();
    for args in [
        &["describe", "run", "nothing"][..],
        &["logs", "nothing"],
        &["events", "nothing"],
        &["events", "nothing", "-f"],
        &["get", "sweeps", "nothing"],
        &["evaluate", "nothing"],
        &["evaluate", "./no/checkpoint"],
        &["evaluate", "nothing", "--on", "no-dataset"],
    ] {
        let (code, _, err) = run(&home, args);
        assert_eq!(code, 3, "{args:?}: {err}");
    }
}

#[test]
fn a_coordinator_that_is_not_there_ends_with_6() {
    let home = home();
    let (code, _, err) = run(&home, &["--coordinator", "http://127.0.0.1:9", "get", "runs"]);
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("127.0.0.1:9"), "{err}");
    fs::write(home.path().join("e.yaml"), EXPERIMENT).unwrap();
    let (code, _, err) = run(&home, &["train", "e.yaml"]);
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("--local"), "it says what to do: {err}");
}

#[test]
fn validate_shows_all_mistakes_of_all_files() {
    let home = home();
    fs::write(home.path().join("good.yaml"), EXPERIMENT).unwrap();
    fs::write(home.path().join("bad.yaml"), EXPERIMENT.replace("name: x", "nome: x") + "trainer: {epochs: many}\n")
        .unwrap();
    let (code, out, err) = run(&home, &["validate", "good.yaml", "bad.yaml"]);
    assert_eq!(code, 2);
    assert!(out.contains("good.yaml: experiment \"x\" is valid"), "{out}");
    assert!(
        err.contains("bad.yaml:2:1") && err.contains("nome") && err.contains("epochs") && err.contains("1 of 2"),
        "{err}"
    );
    let (code, out, _) = run(&home, &["validate", "good.yaml", "--set", "trainer.optimizer.lr=1e-4", "-o", "yaml"]);
    assert_eq!(code, 0);
    assert!(out.contains("lr: 0.0001"), "{out}");
    let (code, _, err) = run(&home, &["validate", "good.yaml", "--set", "trainer.optimiser.lr=1e-4"]);
    assert_eq!(code, 2);
    assert!(err.contains("optimizer"), "{err}");
    let (code, out, _) = run(&home, &["validate", "bad.yaml", "-o", "json"]);
    assert_eq!(code, 2);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(json[0]["problems"].as_array().unwrap().iter().any(|p| p["line"] == 2), "{out}");
}

#[test]
fn the_wrong_kind_of_file_names_the_right_verb() {
    let home = home();
    fs::write(home.path().join("e.yaml"), EXPERIMENT).unwrap();
    let (code, _, err) = run(&home, &["sweep", "e.yaml", "--local"]);
    assert_eq!(code, 2);
    assert!(err.contains("morphctl train e.yaml"), "{err}");
}

#[test]
fn synth_is_reused_and_never_overwrites() {
    let home = home();
    let synth = |n: &str| {
        run(&home, &["data", "synth", "raw", "--healthy", n, "--opacity", "1", "--other", "0", "--size", "64"])
    };
    assert_eq!(synth("3").0, 0);
    let (code, out, _) = synth("3");
    assert!(code == 0 && out.contains("reused"), "{out}");
    let (code, _, err) = synth("4");
    assert!(code != 0 && err.contains("raw"), "{err}");
}

#[test]
fn output_is_plain_where_there_is_no_terminal() {
    let home = home();
    fs::write(home.path().join("bad.yaml"), "kind: experimant\n").unwrap();
    let (_, out, err) = run(&home, &["validate", "bad.yaml"]);
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "{err:?}");
}

#[test]
fn completion_is_a_script() {
    let home = home();
    let (code, out, _) = run(&home, &["completion", "bash"]);
    assert!(code == 0 && out.contains("_morphctl"), "{out}");
}

#[test]
fn a_home_that_is_a_file_is_refused_and_cancel_makes_no_home() {
    let home = home();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    let (code, _, err) = run(&home, &["--home", file.to_str().unwrap(), "get", "runs"]);
    assert!(code == 2 && err.contains("not a folder"), "{code} {err}");
    let none = home.path().join("none");
    let (code, _, err) = run(&home, &["--home", none.to_str().unwrap(), "cancel", "x"]);
    assert!(code == 3 && err.contains("nothing has run yet"), "{code} {err}");
    assert!(!none.exists());
}

#[test]
fn standard_input_is_a_file_called_dash() {
    let home = home();
    let validate = |text: &str| morphctl(home.path()).args(["validate", "-"]).write_stdin(text).output().unwrap();
    assert_eq!(validate(EXPERIMENT).status.code(), Some(0));
    let out = validate("kind: experiment\nname: x\ndatset: {url: d}\n");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && err.contains("standard input:3:1"), "{err}");
}

#[test]
fn local_and_a_coordinator_exclude_each_other_but_the_environment_gives_way() {
    let home = home();
    fs::write(home.path().join("x.yaml"), EXPERIMENT).unwrap();
    let (code, _, err) = run(&home, &["train", "x.yaml", "--local", "--coordinator", "http://127.0.0.1:9"]);
    assert!(code == 2 && err.contains("exclude"), "{code} {err}");
    let out = morphctl(home.path())
        .args(["train", "x.yaml", "--local"])
        .env("MORPH_COORDINATOR", "http://127.0.0.1:9")
        .env("MORPH_WORKER", "/nonexistent")
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(err.contains("not used") && err.contains("MORPH_WORKER"), "{err}");
}

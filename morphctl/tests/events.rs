//! `morphctl events` against a coordinator in which things happen.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use morph_coordinator::{Handle, Options};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/phantom/morphaeus.yaml");
const DATASET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/datasets/rsna-phantom.yaml");

/// A coordinator without agents; `set` names a dataset of a few images.
struct World {
    home: TempDir,
    set: String,
    runtime: Runtime,
    handle: Option<Handle>,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let home = tempfile::tempdir().unwrap();
        let options = Options { home: home.path().to_owned(), ..Options::default() };
        let handle = Some(runtime.block_on(morph_coordinator::start(options)).unwrap());
        let raw = home.path().join("raw/rsna-phantom");
        let set = format!("dataset.url={}", home.path().join("datasets/rsna-phantom").display());
        let world = Self { home, set, runtime, handle };
        let raw = raw.to_str().unwrap();
        world.run(&["data", "synth", "--healthy", "40", "--opacity", "4", "--other", "2", "--size", "64", raw]);
        world.run(&["data", "prepare", DATASET]);
        world
    }

    fn submit(&self, name: &str) {
        self.run(&["train", EXPERIMENT, "--detach", "--name", name, "--set", &self.set]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_morphctl"));
        for name in ["MORPH_COORDINATOR", "MORPH_TOKEN", "MORPH_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.env("MORPH_HOME", self.home.path()).current_dir(Path::new("/")).args(args);
        command
    }

    /// What it prints; it must end well.
    fn run(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn stop(&mut self) {
        self.runtime.block_on(self.handle.take().unwrap().stop());
    }
}

fn kinds(lines: &str) -> Vec<String> {
    let kind = |l: &str| serde_json::from_str::<Value>(l).unwrap()["kind"].as_str().unwrap().to_owned();
    lines.lines().map(kind).collect()
}

#[test]
fn the_story_of_a_run_is_told_alone_among_others_and_by_time() {
    let mut world = World::new();
    world.submit("one");
    world.run(&["pause", "one"]);
    world.run(&["resume", "one"]);
    world.submit("two");
    world.run(&["cancel", "one"]);
    let story = ["run_submitted", "run_paused", "run_resumed", "run_cancelled"];
    for serving in [true, false] {
        if !serving {
            world.stop();
        }
        let one = world.run(&["events", "one", "-o", "json"]);
        assert_eq!(kinds(&one), story, "serving: {serving}");
        let first: Value = serde_json::from_str(one.lines().next().unwrap()).unwrap();
        assert!(first["name"] == "one" && first["data"]["experiment"]["kind"].is_string(), "{first}");
        let all = world.run(&["events"]);
        assert!(
            all.contains("coordinator_started") && all.contains("two") && all.contains("run one submitted"),
            "{all}"
        );
        assert_eq!(world.run(&["events", "one", "-o", "name"]).lines().count(), story.len());
        assert_eq!(world.run(&["events", "one", "--since", "2100-01-01T00:00:00Z"]), "");
        assert_eq!(kinds(&world.run(&["events", "one", "--since", "1d", "-o", "json"])), story);
        let run: Value = serde_json::from_str(&world.run(&["describe", "run", "one", "-o", "json"])).unwrap();
        let at = |name: &str| run[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond() as f64;
        let time = run["time"].as_object().unwrap();
        let sum: f64 = time.values().map(|s| s.as_f64().unwrap()).sum();
        let wall = (at("ended_at") - at("created_at")) / 1e3;
        assert!(time["paused"].as_f64() > Some(0.0) && (sum - wall).abs() <= 1.0, "{time:?}, wall {wall} s");
        assert!(world.run(&["describe", "run", "one"]).contains("paused"));
        // What has ended, or is served by nobody, brings nothing more.
        assert_eq!(kinds(&world.run(&["events", "one", "-f", "-o", "json"])), story);
    }
}

#[test]
fn who_follows_hears_what_happens_until_the_end() {
    let world = World::new();
    world.submit("one");
    let mut child = world.command(&["events", "one", "-f", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || kinds(&lines.next().unwrap().unwrap()).remove(0);
    assert_eq!(next(), "run_submitted");
    world.run(&["pause", "one"]);
    assert_eq!(next(), "run_paused", "told while it follows");
    world.run(&["cancel", "one"]);
    assert_eq!(next(), "run_cancelled");
    assert!(child.wait().unwrap().success(), "it ends by itself");
}

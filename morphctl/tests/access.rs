//! Who may do what, as people meet it: the program against a coordinator that listens on a real port.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use assert_cmd::Command;
use morph_coordinator::{Handle, Options};
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct World {
    runtime: Runtime,
    home: TempDir,
    /// Where commands run that know nothing of the coordinator's home.
    elsewhere: TempDir,
    handle: Handle,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = Options { home: home.path().to_owned(), ..Options::default() };
        let handle = runtime.block_on(morph_coordinator::start(options)).unwrap();
        Self { runtime, home, elsewhere, handle }
    }

    fn command(&self, home: &Path, token: Option<&str>, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("morphctl").unwrap();
        for name in ["MORPH_COORDINATOR", "MORPH_TOKEN", "MORPH_TOKEN_FILE", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("MORPH_HOME", home).current_dir(self.elsewhere.path()).args(args);
        if let Some(token) = token {
            command.env("MORPH_TOKEN", token);
        }
        command
    }

    /// As somebody elsewhere: exit code, stdout, stderr.
    fn ask(&self, token: Option<&str>, args: &[&str]) -> (i32, String, String) {
        let url = self.handle.url();
        let args: Vec<&str> = ["--coordinator", &url].into_iter().chain(args.iter().copied()).collect();
        run(self.command(self.elsewhere.path(), token, &args))
    }

    /// As who owns the home.
    fn own(&self, args: &[&str]) -> (i32, String, String) {
        run(self.command(self.home.path(), None, args))
    }

    fn token(&self, name: &str, scope: &str, more: &[&str]) -> String {
        let args: Vec<&str> =
            ["token", "create", "--name", name, "--scope", scope].iter().chain(more).copied().collect();
        let (code, out, err) = self.own(&args);
        assert_eq!(code, 0, "{err}");
        out.trim().to_owned()
    }
}

fn run(mut command: Command) -> (i32, String, String) {
    let out = command.output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn without_a_token_nothing_is_told_and_the_way_to_one_is() {
    let world = World::new();
    for args in [&["get", "runs"][..], &["cancel", "x"], &["logs", "x"], &["cordon", "x"], &["token", "list"]] {
        let (code, out, err) = world.ask(None, args);
        assert_eq!((code, out.as_str()), (5, ""), "{args:?}: {err}");
        assert!(err.contains("MORPH_TOKEN") && err.contains("morphctl token create"), "{err}");
    }
    assert_eq!(world.own(&["get", "runs"]).0, 0, "who owns the home needs none");
    let url = world.handle.url();
    let (code, _, err) = run(world.command(world.home.path(), None, &["--coordinator", &url, "get", "runs"]));
    assert_eq!(code, 0, "nor when the URL is said: {err}");
}

#[test]
fn a_scope_opens_its_doors_and_no_other() {
    let world = World::new();
    let [read, submit, admin, agent] = ["read", "submit", "admin", "agent"].map(|s| world.token(s, s, &[]));
    // What is allowed meets "not found" (3), what is not is refused (5) before anybody looks.
    for (token, list, cancel, cordon, tokens) in
        [(&read, 0, 5, 5, 5), (&submit, 0, 3, 5, 5), (&admin, 0, 3, 3, 0), (&agent, 5, 5, 5, 5)]
    {
        for (args, expected) in [
            (&["get", "runs"][..], list),
            (&["cancel", "x"], cancel),
            (&["cordon", "x"], cordon),
            (&["token", "list"], tokens),
        ] {
            let (code, _, err) = world.ask(Some(token), args);
            assert_eq!(code, expected, "{args:?}: {err}");
        }
    }
    let (_, _, err) = world.ask(Some(&read), &["cancel", "x"]);
    assert!(err.contains("scope read") && err.contains("needs submit"), "{err}");
}

#[test]
fn wrong_revoked_and_expired_tokens_end_with_5() {
    let world = World::new();
    let ci = world.token("ci", "read", &[]);
    assert_eq!(world.ask(Some(&ci), &["get", "runs"]).0, 0);
    let mut wrong = ci.clone();
    let last = if wrong.pop() == Some('0') { '1' } else { '0' };
    wrong.push(last);
    for (token, word) in [(wrong.as_str(), "does not know"), ("nonsense", "does not know")] {
        let (code, _, err) = world.ask(Some(token), &["get", "runs"]);
        assert!(code == 5 && err.contains(word) && !err.contains(token), "{code} {err}");
    }
    let (code, _, err) = world.own(&["token", "create", "--name", "ci", "--scope", "read"]);
    assert!(code == 4 && err.contains("revoke it first"), "{code} {err}");
    assert_eq!(world.own(&["token", "revoke", "ci"]).0, 0);
    let (code, _, err) = world.ask(Some(&ci), &["get", "runs"]);
    assert!(code == 5 && err.contains("revoked"), "{code} {err}");
    let short = world.token("short", "read", &["--expires", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (code, _, err) = world.ask(Some(&short), &["get", "runs"]);
    assert!(code == 5 && err.contains("expired"), "{code} {err}");
    let (_, out, _) = world.own(&["token", "list"]);
    assert!(out.contains("revoked") && out.contains("expired") && !out.contains(&ci[24..]), "{out}");
    assert_eq!(world.own(&["token", "revoke", "nobody"]).0, 3);
    assert_eq!(world.own(&["token", "create", "--name", "x", "--scope", "root"]).0, 2);
    assert_eq!(world.own(&["token", "create", "--name", "x", "--scope", "read", "--expires", "never"]).0, 2);
}

#[test]
fn a_token_file_is_for_its_owner_only_and_is_never_overwritten() {
    let world = World::new();
    let file = world.elsewhere.path().join("ci.token");
    let path = file.to_str().unwrap();
    let create = ["token", "create", "--name", "ci", "--scope", "read", "--out", path];
    let (code, out, err) = world.own(&create);
    assert!(code == 0 && !out.contains("morph_") && !err.contains("morph_"), "{out} {err}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(world.own(&create).0, 4);
    assert_eq!(world.ask(None, &["--token-file", path, "get", "runs"]).0, 0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = world.ask(None, &["--token-file", path, "get", "runs"]);
    assert!(code == 2 && err.contains("chmod 600"), "{code} {err}");
}

#[test]
fn tokens_outlive_the_coordinator_and_its_secrets_lie_nowhere() {
    let mut world = World::new();
    let ci = world.token("ci", "read", &[]);
    let owner = world.handle.owner().expose().to_owned();
    assert_eq!(world.ask(Some(&owner), &["get", "runs"]).0, 0);
    let options = Options { home: world.home.path().to_owned(), ..Options::default() };
    let handle = world.runtime.block_on(async {
        world.handle.stop().await;
        morph_coordinator::start(options).await.unwrap()
    });
    world.handle = handle;
    assert_eq!(world.ask(Some(&ci), &["get", "runs"]).0, 0);
    assert_eq!(world.ask(Some(&owner), &["get", "runs"]).0, 5, "the owner's is new after each start");
    let mut files = vec![world.home.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|f| f.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(64).any(|w| w == &ci.as_bytes()[23..]), "{} holds the secret", path.display());
        }
    }
}

#[test]
fn a_token_is_not_sent_in_clear() {
    let world = World::new();
    let (code, _, err) = run(world.command(
        world.elsewhere.path(),
        Some("morph_secret"),
        &["--coordinator", "http://192.0.2.1:7070", "get", "runs"],
    ));
    assert!(code == 2 && err.contains("in clear") && !err.contains("morph_secret"), "{code} {err}");
}

#[test]
fn other_addresses_than_loopback_need_tls_or_a_deliberate_word() {
    let runtime = Runtime::new().unwrap();
    let home = tempfile::tempdir().unwrap();
    let options =
        || Options { home: home.path().to_owned(), listen: "0.0.0.0:0".parse().unwrap(), ..Options::default() };
    let refused = runtime.block_on(morph_coordinator::start(options())).unwrap_err().to_string();
    assert!(refused.contains("--tls-cert") && refused.contains("--insecure"), "{refused}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    let open = runtime.block_on(morph_coordinator::start(Options { insecure: true, ..options() })).unwrap();
    runtime.block_on(open.stop());
}

/// A prepared dataset of a few images below `dir`, and its URL.
fn dataset(world: &World, dir: &Path) -> String {
    let raw = dir.join("raw/rsna-phantom");
    let synth = ["data", "synth", "--healthy", "40", "--opacity", "4", "--other", "2", "--size", "64"];
    let (code, _, err) = run(world.command(dir, None, &[&synth[..], &[raw.to_str().unwrap()]].concat()));
    assert_eq!(code, 0, "{err}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/datasets/rsna-phantom.yaml");
    let (code, _, err) = run(world.command(dir, None, &["data", "prepare", file]));
    assert_eq!(code, 0, "{err}");
    dir.join("datasets/rsna-phantom").to_str().unwrap().to_owned()
}

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/phantom/morphaeus.yaml");

#[test]
fn a_project_neither_sees_nor_touches_anothers_runs() {
    let world = World::new();
    let url = dataset(&world, world.elsewhere.path());
    let set = format!("dataset.url={url}");
    let [thorax, brain] = ["thorax", "brain"].map(|p| world.token(p, "submit", &["--project", p]));
    let submit = |token: &str, project: &str| {
        world.ask(Some(token), &["train", EXPERIMENT, "--detach", "--name", "r", "--set", &set, "--project", project])
    };
    let (code, _, err) = submit(&brain, "thorax");
    assert!(code == 5 && err.contains("is for project brain"), "{code} {err}");
    let (code, _, err) = submit(&thorax, "thorax");
    assert_eq!(code, 0, "{err}");
    let names = |token: &str| world.ask(Some(token), &["get", "runs", "-o", "name"]).1;
    assert_eq!((names(&thorax).trim(), names(&brain).trim()), ("run/r", ""));
    for args in [
        &["describe", "run", "r"][..],
        &["logs", "r"],
        &["events", "r"],
        &["events", "r", "-f"],
        &["events"],
        &["pause", "r"],
        &["resume", "r"],
        &["retry", "r"],
        &["cancel", "r"],
    ] {
        let (code, out, err) = world.ask(Some(&brain), args);
        // As if there were none; all events are of all projects.
        let expected = if args == ["events"] { (5, "is for project brain") } else { (3, "\"r\" in project brain") };
        assert!(code == expected.0 && err.contains(expected.1), "{args:?}: {code} {out} {err}");
        assert!(out.is_empty() && !err.contains("thorax"), "{args:?}: {out} {err}");
    }
    // What comes after another's run would tell how that ends.
    let after = |token: &str, project: &str| {
        let name = format!("after-{project}");
        let scheduling = ["--project", project, "--set", "scheduling.after=[r]"];
        let args = ["train", EXPERIMENT, "--detach", "--name", &name, "--set", &set];
        world.ask(Some(token), &[&args[..], &scheduling].concat())
    };
    let (code, _, err) = after(&brain, "brain");
    assert!(code == 3 && err.contains("scheduling.after") && !err.contains("thorax"), "{code} {err}");
    let (code, _, err) = after(&thorax, "thorax");
    assert_eq!(code, 0, "{err}");
    assert_eq!(world.ask(Some(&thorax), &["cancel", "r"]).0, 0);
}

#[test]
fn a_token_is_for_a_project_that_there_is() {
    let world = World::new();
    let create = |home: &Path, project: &str| {
        run(world.command(home, None, &["token", "create", "--name", "x", "--scope", "read", "--project", project]))
    };
    for project in ["../x", "a b", "-", "ä", &"x".repeat(64)] {
        let (code, _, err) = create(world.home.path(), project);
        assert!(code == 2 && err.contains("is no name"), "{project}: {code} {err}");
    }
    let home = tempfile::tempdir().unwrap();
    let cluster =
        serde_json::from_str(r#"{"kind": "cluster", "name": "c", "projects": {"thorax": {}, "brain": {}}}"#).unwrap();
    let options = Options { home: home.path().to_owned(), cluster: Some(cluster), ..Options::default() };
    let handle = world.runtime.block_on(morph_coordinator::start(options)).unwrap();
    let (code, _, err) = create(home.path(), "thorrax");
    assert!(code == 2 && err.contains("no project \"thorrax\"") && err.contains("brain, thorax"), "{code} {err}");
    assert_eq!(create(home.path(), "thorax").0, 0);
    world.runtime.block_on(handle.stop());
}

#[test]
fn a_submitter_cannot_send_the_coordinator_where_only_it_can_go() {
    let world = World::new();
    let ci = world.token("ci", "submit", &[]);
    let urls = ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/latest", "https://u:secret@169.254.1.2/x"];
    let fields = ["dataset.url", "model.weights", "trainer.loss.perceptual.weights", "evaluation.truth"];
    let part = "healthy: {split: test}, pathology: {split: val}";
    let sets = urls.into_iter().flat_map(|url| {
        let sets = format!("{{dataset: '{url}', {part}}}");
        let compared = [format!("evaluation.comparisons={{a: {sets}}}"), format!("evaluation.calibration={sets}")];
        fields.map(|field| format!("{field}={url}")).into_iter().chain(compared)
    });
    for set in sets {
        let (code, _, err) = world.ask(Some(&ci), &["train", EXPERIMENT, "--detach", "--name", "r", "--set", &set]);
        // A password is refused before anything is sent, and not shown again.
        let why = if set.contains('@') { "its URL names a user" } else { "metadata" };
        assert!(code == 2 && err.contains(why) && !err.contains("secret"), "{set}: {code} {err}");
    }
    let home = tempfile::tempdir().unwrap();
    let listen = "0.0.0.0:0".parse().unwrap();
    let options = Options { home: home.path().to_owned(), listen, insecure: true, ..Options::default() };
    let open = world.runtime.block_on(morph_coordinator::start(options)).unwrap();
    let url = format!("http://127.0.0.1:{}", open.address().port());
    let elsewhere = world.elsewhere.path();
    let data = dataset(&world, elsewhere);
    for (named, word) in [(data.as_str(), "--allow-files"), ("http://127.0.0.1:1/x", "own machine")] {
        let set = format!("dataset.url={named}");
        let args = ["--coordinator", &url, "train", EXPERIMENT, "--detach", "--name", "r", "--set", &set];
        let (code, _, err) = run(world.command(elsewhere, None, &args));
        assert!(code == 2 && err.contains(word), "{named}: {code} {err}");
    }
    // Nor agents.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/datasets/rsna-phantom.yaml");
    let elsewhere_too = format!("output={}", elsewhere.join("datasets/again").display());
    let args = ["--coordinator", &url, "data", "prepare", file, "--workers", "2", "--set", &elsewhere_too];
    let (code, _, err) = run(world.command(elsewhere, None, &args));
    assert!(code == 2 && err.contains("source.root") && err.contains("--allow-files"), "{code} {err}");
    world.runtime.block_on(open.stop());
}

//! A cluster as one would set it up on a network: TLS, certificates, tokens; and no secret where others could see it.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Process, free_address, ranks_of},
    expect, job, program, wait_for,
};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_run_succeeds_under_tls_and_its_secrets_are_seen_nowhere() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 60, 8)?;
    let experiment = job::experiment(&home, 60)?;
    let port = free_address()?.port();
    let at = |name: &str| home.path().join(name);
    for args in [
        &["init", "ca"][..],
        &["issue", "--ca", "ca", "--kind", "coordinator", "--name", "head", "--out", "ca"],
        &["issue", "--ca", "ca", "--kind", "agent", "--name", "node", "--out", "ca"],
    ] {
        expect(home.morphctl()?.current_dir(home.path()).arg("certs").args(args), 0)?;
    }
    let mut coordinator = Process::start(
        Command::new(program("morph-coordinator")?)
            .args(["--listen", &format!("0.0.0.0:{port}"), "--heartbeat", "300ms", "--home"])
            .arg(home.path())
            .arg("--allow-files")
            .arg(home.path())
            .arg("--tls-cert")
            .arg(at("ca/head.crt"))
            .arg("--tls-key")
            .arg(at("ca/head.key"))
            .arg("--tls-ca")
            .arg(at("ca/ca.crt"))
            .env("MORPH_HOME", home.path()),
        &at("coordinator.log"),
    )?;
    wait_for("the coordinator to listen", LIMIT, || {
        ensure!(coordinator.alive()?, "the coordinator ended:\n{}", coordinator.printed());
        Ok(at("coordinator.json").exists())
    })?;
    let url = format!("https://127.0.0.1:{port}");
    let agent = |cert: &str, coordinator: &str, log: &str| -> Result<Process> {
        fs::create_dir_all(at(log))?;
        Process::start(
            Command::new(program("morph-worker")?)
                .args(["agent", "--slots", "2", "--coordinator", coordinator, "--home"])
                .arg(at(log))
                .arg("--ca")
                .arg(at("ca/ca.crt"))
                .arg("--cert")
                .arg(at(&format!("ca/{cert}.crt")))
                .arg("--key")
                .arg(at(&format!("ca/{cert}.key")))
                // An agent's ranks must not inherit it.
                .env("MORPH_TOKEN", "morph_0123456789abcdef_not-for-ranks"),
            &at(&format!("{log}.log")),
        )
    };
    let mut wrong = agent("head", &url, "wrong")?;
    let agent = agent("node", &url, "agent")?;

    let ca = at("ca/ca.crt");
    let ca = ca.to_str().context("a path is text")?;
    let elsewhere = at("elsewhere");
    fs::create_dir_all(&elsewhere)?;
    let token = at("ci.token");
    let owner = ["--ca", ca, "token", "create", "--name", "ci", "--scope", "submit", "--out"];
    expect(home.morphctl()?.args(owner).arg(&token), 0)?;
    let secret = fs::read_to_string(&token)?.trim().to_owned();
    let person = || -> Result<Command> {
        let mut command = Command::new(program("morphctl")?);
        command.args(["--coordinator", &url, "--ca", ca, "--home"]).arg(&elsewhere).arg("--token-file").arg(&token);
        command.env_remove("MORPH_HOME").env_remove("MORPH_TOKEN");
        Ok(command)
    };
    let data = format!("dataset.url={}", at("datasets/tiny").display());
    expect(person()?.arg("train").arg(&experiment).args(["--detach", "--name", "x", "--set", &data]), 0)?;
    let mut seen = Vec::new();
    wait_for("two ranks", LIMIT, || {
        let ranks = ranks_of(agent.pid())?;
        if ranks.len() == 2 {
            seen = ranks.iter().map(|pid| fs::read(format!("/proc/{pid}/environ"))).collect::<Result<_, _>>()?;
        }
        Ok(ranks.len() == 2)
    })?;
    for environment in seen {
        let text = String::from_utf8_lossy(&environment).into_owned();
        ensure!(!text.contains("not-for-ranks") && !text.contains("MORPH_KEY"), "{text}");
    }
    wait_for("x to succeed", LIMIT, || {
        let out = expect(person()?.args(["get", "runs", "-o", "json"]), 0)?;
        ensure!(!out.contains("\"failed\""), "{out}");
        Ok(out.contains("\"succeeded\""))
    })?;
    ensure!(wrong.alive()?, "an agent that is not let in tries again:\n{}", wrong.printed());
    let workers = expect(person()?.args(["get", "workers", "-o", "name"]), 0)?;
    ensure!(workers.lines().count() == 1, "only one was let in: {workers}");

    let key = fs::read_to_string(at("ca/node.key"))?;
    let key = key.lines().nth(1).context("a key in PEM has lines")?;
    let mut todo = vec![home.path().to_owned()];
    while let Some(path) = todo.pop() {
        if path.is_dir() && !path.ends_with("ca") {
            todo.extend(fs::read_dir(&path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?);
        } else if path.is_file() && path != token {
            let bytes = fs::read(&path)?;
            for secret in [&secret[24..], "not-for-ranks", key] {
                let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
                ensure!(!found, "{} holds a secret", path.display());
            }
        }
    }
    Ok(())
}

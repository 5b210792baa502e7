//! The main job as a user runs it: synth, prepare, sweep --local, then looking at what it left.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, cluster::Process, expect, job, program, run, wait_for};
use morph_spec::evaluation::{MEASURES, PLAIN};

const SWEEP: &str = "kind: sweep\nname: tiny\nexperiment: experiment.yaml\nmethod: grid\n\
    metric: {name: opacity/auroc, goal: maximize}\nparameters:\n  trainer.optimizer.lr: {values: [1e-3, 2e-3]}\n";

#[test]
fn a_sweep_trains_scores_and_is_reused() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 8)?;
    let experiment = fs::read_to_string(job::experiment(&home, 2)?)?;
    home.write("experiment.yaml", &format!("{experiment}evaluation: {{truth: '${{MORPH_HOME}}/raw/truth'}}\n"))?;
    let sweep = home.write("sweep.yaml", SWEEP)?;
    let said = expect(home.morphctl()?.args(["sweep", "--local", "--slots", "2"]).arg(&sweep), 0)?;
    ensure!(said.contains("2 ok"), "{said}");
    ensure!(said.contains("say nothing about patients"), "phantom numbers carry their warning: {said}");

    let runs = job::runs(&home, &[])?;
    ensure!(runs.len() == 2, "{runs:#?}");
    for run in &runs {
        ensure!(run["state"] == "succeeded", "{run:#}");
        for name in ["opacity/auroc", "opacity/auroc_view", "opacity/auroc_intensity", "healthy/ssim", "healthy/l1"] {
            let value = run["summary"][name].as_f64().with_context(|| format!("no {name}: {run:#}"))?;
            ensure!((0.0..=1.0).contains(&value), "{name} = {value}");
        }
        // A sweep may be by any of these, so each must be there.
        let plain = PLAIN.iter().filter(|m| !m.starts_with("mean/")).map(|m| (*m).to_owned());
        for name in MEASURES.iter().map(|m| format!("opacity/{m}")).chain(plain) {
            ensure!(run["summary"][&name].is_f64(), "no {name}: {:#}", run["summary"]);
        }
        let panel =
            home.path().join("objects/runs").join(run["id"].as_str().context("id")?).join("artifacts/panel.png");
        ensure!(fs::read(&panel)?.starts_with(b"\x89PNG"), "{}", panel.display());
    }
    let name = runs[0]["name"].as_str().context("name")?;
    ensure!(expect(home.morphctl()?.args(["describe", "run", name]), 0)?.contains("opacity/auroc"));
    ensure!(!expect(home.morphctl()?.args(["logs", name]), 0)?.is_empty());
    expect(home.morphctl()?.args(["get", "runs", "nothing-like-it"]), 3)?;

    let again = expect(home.morphctl()?.args(["sweep", "--local"]).arg(&sweep), 0)?;
    ensure!(again.contains("reus") || again.contains("already"), "it says what it reuses: {again}");
    ensure!(job::runs(&home, &[])?.len() == 2, "nothing was trained again");
    evaluated(&home, runs[0]["id"].as_str().context("id")?)
}

/// What a run leaves of its scores, and how its checkpoint is scored again without a coordinator.
fn evaluated(home: &Home, id: &str) -> Result<()> {
    let folder = home.path().join("objects/runs").join(id);
    let left = |name: &str| fs::read(folder.join("artifacts").join(name)).context(name.to_owned());
    let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).context("an evaluation");
    let written = read(&left("evaluation.json")?)?;
    ensure!(left("cases.csv")?.starts_with(b"dataset,set,role,id") && left("cases.parquet")?.starts_with(b"PAR1"));
    let checkpoint = written["model"]["checkpoint"].as_str().context("its checkpoint")?.to_owned();

    let evaluate = || -> Result<Command> {
        let mut command = home.morphctl()?;
        command.args(["evaluate", &checkpoint, "-o", "json"]);
        Ok(command)
    };
    let again = read(&run(&mut evaluate()?)?.stdout)?;
    ensure!(again == written, "one rank scores as two did: {again:#}");

    // A run that is named is known to the coordinator, which counts; a checkpoint by its URL is not.
    let dataset = || {
        Ok::<_, anyhow::Error>(read(&run(home.morphctl()?.args(["get", "datasets", "-o", "json"]))?.stdout)?[0].take())
    };
    let tests = || Ok::<_, anyhow::Error>(dataset()?["tests"][0].take());
    ensure!(tests()?["rescored"] == 0 && tests()?["scored"] == 2, "{:#}", tests()?);
    let out = run(&mut evaluate()?)?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(said.contains("does not count this evaluation: no coordinator was asked"), "{said}");
    let named = run(home.morphctl()?.args(["evaluate", id, "-o", "json"]))?;
    ensure!(read(&named.stdout)? == written, "the same scores by the run's name");
    ensure!(tests()?["rescored"] == 1 && tests()?["scored"] == 2, "{:#}", tests()?);
    let name = dataset()?["name"].as_str().context("its name")?.to_owned();
    let told = expect(home.morphctl()?.args(["describe", "dataset", &name]), 0)?;
    ensure!(told.contains("with 1 evaluation by hand besides"), "{told}");

    // Split in another way, images that were trained on are tested on.
    let yaml = fs::read_to_string(home.path().join("dataset.yaml"))?;
    let other = yaml.replace("datasets/tiny", "datasets/other").replace("split: {", "split: {seed: 8, ");
    expect(home.morphctl()?.args(["data", "prepare"]).arg(home.write("other.yaml", &other)?), 0)?;
    let on = home.path().join("datasets/other");
    let said = expect(evaluate()?.arg("--on").arg(&on), 4)?;
    ensure!(said.contains("had a part in training") && said.contains("the same file"), "{said}");
    let allowed = read(&run(evaluate()?.arg("--allow-leakage").arg("--on").arg(&on))?.stdout)?;
    ensure!(allowed["leakage"]["allowed"] == true && allowed["leakage"]["images"].as_u64() > Some(0), "{allowed:#}");
    Ok(())
}

#[test]
fn ctrl_c_checkpoints_and_the_same_command_goes_on() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 60, 8)?;
    let experiment = job::experiment(&home, 40)?;
    let log = home.path().join("train.log");
    let mut first = Process::start(home.morphctl()?.args(["train", "--local", "--slots", "2"]).arg(&experiment), &log)?;
    let checkpoints = home.path().join("objects/runs");
    wait_for("a checkpoint", Duration::from_secs(60), || {
        ensure!(first.alive()?, "it ended too early:\n{}", first.printed());
        let Ok(runs) = fs::read_dir(&checkpoints) else { return Ok(false) };
        Ok(runs.flatten().any(|r| fs::read_dir(r.path().join("checkpoints")).is_ok_and(|mut c| c.any(|_| true))))
    })?;
    ensure!(Command::new("kill").args(["-INT", &first.pid().to_string()]).status()?.success());
    wait_for("it to stop", Duration::from_secs(30), || Ok(!first.alive()?))?;
    ensure!(first.printed().contains("same command"), "it says how to go on:\n{}", first.printed());
    let stopped = job::runs(&home, &[])?;
    ensure!(stopped[0]["state"] == "queued", "{:#}", stopped[0]);

    expect(home.morphctl()?.args(["train", "--local", "--slots", "2"]).arg(&experiment), 0)?;
    let runs = job::runs(&home, &[])?;
    ensure!(runs.len() == 1 && runs[0]["state"] == "succeeded", "{runs:#?}");
    ensure!(runs[0]["attempt"].as_u64() == Some(2), "it went on as a second attempt: {:#}", runs[0]);
    Ok(())
}

#[test]
fn no_libtorch_is_linked_into_the_control_plane() -> Result<()> {
    for name in ["morphctl", "morph-coordinator"] {
        let out = run(Command::new("ldd").arg(program(name)?))?;
        let printed = String::from_utf8_lossy(&out.stdout);
        // Only the names: the load addresses behind them are random hexadecimal, and hold "c10" now and then.
        let libraries: Vec<&str> = printed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        ensure!(out.status.success() && libraries.contains(&"libc.so.6"), "{printed}");
        let torch = libraries.iter().find(|name| name.contains("torch") || name.contains("c10"));
        ensure!(torch.is_none(), "{name} links {printed}");
    }
    Ok(())
}

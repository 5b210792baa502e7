//! `morphctl reproduce`: a run trained again from its record is the same to the bit, or where it is not is found.

use std::fs;

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, expect, job};
use serde_json::Value;

fn reproduce(home: &Home, code: i32, more: &[&str]) -> Result<String> {
    expect(home.morphctl()?.args(["reproduce", "tiny-1", "--local", "--slots", "2"]).args(more), code)
}

#[test]
fn a_run_is_reproduced_to_the_bit_and_what_was_changed_is_found() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 8)?;
    let experiment = job::experiment(&home, 2)?;
    let train = ["train", "--local", "--slots", "2", "--set", "evaluation.resamples=100"];
    expect(home.morphctl()?.args(train).arg(&experiment), 0)?;

    let said = reproduce(&home, 0, &["-q", "-o", "json"])?;
    let json: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(json["equal"] == true && json["again"] == "tiny-1-again", "{json:#}");
    ensure!(json["weights"]["then"]["blake3"] == json["weights"]["now"]["blake3"], "{json:#}");
    ensure!(
        json["metrics"]["compared"].as_u64() > Some(6) && json["scores"]["compared"].as_u64() > Some(6),
        "{json:#}"
    );
    let version = json["versions"]["now"].as_str().context("a version")?;
    ensure!(!version.is_empty() && json["versions"]["then"] == version, "{json:#}");
    let runs = job::runs(&home, &[])?;
    let id = |n: usize| runs[n]["id"].as_str().context("an id");
    ensure!(job::final_weights(&home, id(0)?)? == job::final_weights(&home, id(1)?)?, "it says the truth");

    // A byte of the final checkpoint is changed: nothing is trained, since there is nothing to compare with.
    let checkpoints = home.path().join("objects/runs").join(id(0)?).join("checkpoints");
    let mut newest: Vec<_> = fs::read_dir(&checkpoints)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    newest.sort();
    let tensors = newest.last().context("a checkpoint")?.join("tensors.safetensors");
    let sound = fs::read(&tensors)?;
    let mut damaged = sound.clone();
    *damaged.last_mut().context("bytes")? ^= 1;
    fs::write(&tensors, &damaged)?;
    let said = reproduce(&home, 4, &[])?;
    ensure!(said.contains("tensors.safetensors") && said.contains("not what was recorded"), "{said}");
    fs::write(&tensors, &sound)?;

    // The record says another seed than was used.
    let db = rusqlite::Connection::open(home.path().join("state.db"))?;
    let change =
        "UPDATE events SET json = replace(json, '\"seed\":2109', '\"seed\":2110') WHERE kind = 'run_submitted'";
    ensure!(db.execute(change, [])? == 2, "both runs are recorded");
    drop(db);
    fs::remove_file(home.path().join("snapshot.jsonl")).ok();
    let said = reproduce(&home, 101, &[])?;
    ensure!(said.contains("tiny-1-again-2 is not equal to tiny-1"), "{said}");
    ensure!(said.contains("the first difference is at step 1: train/loss was "), "{said}");
    ensure!(said.contains("the final weights differ"), "{said}");

    // The dataset is prepared anew, with another split.
    let prepare = ["data", "prepare", "--overwrite", "--set", "split.seed=5"];
    expect(home.morphctl()?.args(prepare).arg(home.path().join("dataset.yaml")), 0)?;
    let said = reproduce(&home, 4, &[])?;
    ensure!(said.contains("is not the one that was asked for: its digest is"), "{said}");
    ensure!(job::runs(&home, &[])?.len() == 3, "nothing was trained");
    Ok(())
}

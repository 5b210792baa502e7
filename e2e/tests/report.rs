//! `compare` and `report` on a small sweep of two methods: the table in all its formats, the ledger, and the page in a browser.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, expect, job, run};
use serde_json::Value;

const SWEEP: &str = "kind: sweep\nname: pair\nmethod: grid\nmetric: {name: opacity/auroc, goal: maximize}\n\
    experiment:\n- experiment.yaml\n\
    - {name: flat, dataset: {url: '${MORPH_HOME}/datasets/tiny'}, model: {method: vae, image_size: 32, channels: [4, 8, 8], latent: 8}, \
       trainer: {epochs: 1, batch_size: 8, world_size: 2}}\n";

/// The one number of `text` between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Result<&'a str> {
    let from = text.find(before).with_context(|| format!("{before:?} is missing"))? + before.len();
    let rest = &text[from..];
    Ok(&rest[..rest.find(after).with_context(|| format!("{after:?} is missing after {before:?}"))?])
}

/// The page as the browser has it after its scripts; `None` where there is no browser. Anything on its console is an error.
fn browser(page: &Path) -> Result<Option<String>> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let there = |name: &&str| run(Command::new(name).arg("--version")).is_ok_and(|out| out.status.success());
    let Some(name) = names.into_iter().find(there) else {
        eprintln!("left out: there is no chromium here (apt-get install chromium)");
        return Ok(None);
    };
    let profile = tempfile::tempdir()?;
    let quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
    let out = run(Command::new(name)
        .args(["--headless", "--no-sandbox", "--disable-component-update", "--disable-sync"])
        .args(quiet)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("file://{}", page.display())))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name}: {said}");
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    ensure!(complaints.is_empty(), "the page complains: {complaints:#?}");
    Ok(Some(String::from_utf8_lossy(&out.stdout).into_owned()))
}

/// The methods of the page's first table, top first, with the AUROC that is shown and the one that is sorted by.
fn rows(dom: &str) -> Result<Vec<(String, String, String)>> {
    let table = between(dom, "<section id=\"table\"", "</section>")?;
    let body = between(table, "<tbody>", "</tbody>")?;
    body.split("<tr>")
        .skip(1)
        .map(|row| {
            let method = between(row, "<th scope=\"row\">", "</th>")?;
            let auroc = between(row, "data-value=\"", "</td>")?;
            let (value, shown) = auroc.split_once("\">").context("a cell")?;
            let shown: String = shown.replace("<strong>", "").chars().take(5).collect();
            let plain = method.replace("<span class=\"baseline\">", "").replace("</span>", "");
            Ok((plain, shown, value.to_owned()))
        })
        .collect()
}

#[test]
fn methods_are_compared_and_reported() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 60, 12)?;
    job::experiment(&home, 1)?;
    let sweep = home.write("sweep.yaml", SWEEP)?;
    let train = ["sweep", "--local", "--slots", "2", "--set", "evaluation.resamples=100"];
    expect(home.morphctl()?.args(train).arg(&sweep), 0)?;
    let runs = job::runs(&home, &[])?;
    let names: Vec<&str> = runs.iter().filter_map(|r| r["params"]["experiment"].as_str()).collect();
    ensure!(names == ["tiny", "flat"], "one run of each experiment: {names:?}");

    let ask = |args: &[&str]| -> Result<Value> {
        let text = expect(home.morphctl()?.args(["-q", "-o", "json"]).args(args), 0)?;
        serde_json::from_str(&text).with_context(|| text)
    };
    let table = ask(&["compare", "pair"])?;
    let comparison = &table["comparisons"][0];
    let methods = comparison["rows"].as_array().context("rows")?;
    let labels: Vec<&str> = methods.iter().filter_map(|r| r["method"].as_str()).collect();
    ensure!(labels == ["morphaeus", "vae", "view alone", "mean intensity"], "{labels:?}");
    for (row, run) in methods.iter().zip(&runs) {
        let (auroc, own) = (&row["auroc"], &run["summary"]);
        ensure!(auroc["value"] == own["opacity/auroc"] && row["runs"][0] == run["name"], "{row:#}");
        ensure!(
            row["ssim"]["value"] == own["healthy/ssim"] && row["fpr95"]["value"] == own["opacity/fpr95"],
            "{row:#}"
        );
    }
    let single = ask(&["compare", "pair-2"])?;
    ensure!(single["comparisons"][0]["rows"][0]["auroc"] != methods[0]["auroc"], "{single:#}");
    ensure!(single["comparisons"][0]["rows"][0]["auroc"]["value"] == methods[1]["auroc"]["value"], "{single:#}");

    // The sweep chose by its test set, and everybody says so.
    ensure!(table["tests"][0]["scored"] == 2 && table["tests"][0]["choices"][0]["runs"] == 2, "{:#}", table["tests"]);
    let text = expect(home.morphctl()?.args(["compare", "pair"]), 0)?;
    ensure!(text.contains("WARNING: the test set of tiny-phantom was used to choose (pair by opacity/auroc"), "{text}");
    ensure!(text.contains("say nothing about patients"), "{text}");
    let described = expect(home.morphctl()?.args(["describe", "sweep", "pair"]), 0)?;
    ensure!(described.contains("2 runs were scored on it, 1 sweep chose by it"), "{described}");
    ensure!(ask(&["get", "datasets"])?[0]["tests"][0]["scored"] == 2);
    for (format, wanted) in [("csv", "comparison,datasets"), ("latex", "\\toprule"), ("markdown", "| Method |")] {
        let printed = expect(home.morphctl()?.args(["compare", "pair", "-o", format]), 0)?;
        ensure!(printed.contains(wanted), "{printed}");
        expect(home.morphctl()?.args(["get", "runs", "-o", format]), 2)?;
    }
    expect(home.morphctl()?.args(["compare", "nobody"]), 3)?;

    // A table of cases that has one less than was scored is not compared with.
    let id = runs[1]["id"].as_str().context("an id")?;
    let cases = home.path().join("objects/runs").join(id).join("artifacts/cases.csv");
    let whole = fs::read_to_string(&cases)?;
    let last = whole.lines().last().context("a case")?;
    fs::write(&cases, whole.replace(&format!("{last}\n"), ""))?;
    let said = expect(home.morphctl()?.args(["compare", "pair"]), 4)?;
    ensure!(
        said.contains("is not the table that run pair-2 was scored by: opacity has 14 healthy and 11 sick"),
        "{said}"
    );
    expect(home.morphctl()?.args(["report", "pair", "--out"]).arg(home.path().join("none")), 4)?;
    fs::write(&cases, whole)?;

    let out = home.path().join("report");
    expect(home.morphctl()?.args(["report", "pair", "--out"]).arg(&out), 0)?;
    let page = out.join("index.html");
    let text = fs::read_to_string(&page)?;
    ensure!(text.contains("data:image/png;base64,iVBOR"), "examples are in it");
    let Some(dom) = browser(&page)? else { return Ok(()) };
    ensure!(dom.contains("<html lang=\"en\" class=\"js\">"), "its own script runs, and its policy lets it");
    for (row, (method, shown, value)) in methods.iter().zip(rows(&dom)?) {
        let wanted = row["auroc"]["value"].as_f64().context("a number")?;
        ensure!(row["method"] == method.as_str(), "{method}");
        ensure!(
            value.parse::<f64>()? == wanted && shown == format!("{wanted:.3}"),
            "{method}: {shown} {value} {wanted}"
        );
    }
    // A click on AUROC brings the highest to the top. The page's own policy would not let this script run.
    let policy = between(&text, "<meta http-equiv=\"Content-Security-Policy\"", ">")?;
    let click = "<script>document.querySelectorAll('#table th[aria-sort] button')[0].click()</script></body>";
    let clicked =
        text.replace(&format!("<meta http-equiv=\"Content-Security-Policy\"{policy}>"), "").replace("</body>", click);
    let copy = home.write("clicked.html", &clicked)?;
    let dom = browser(&copy)?.context("the browser was there")?;
    let values: Vec<f64> = rows(&dom)?.iter().map(|(.., value)| Ok(value.parse()?)).collect::<Result<_>>()?;
    ensure!(values.len() == 5 && values.is_sorted_by(|a, b| a >= b), "{values:?}");
    ensure!(dom.contains("aria-sort=\"descending\""));
    Ok(())
}

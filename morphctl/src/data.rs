//! `data synth|prepare|inspect|verify|diff` and `validate`.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use morph_data::{Progress, diff, inspect, prepare, synth};
use morph_spec::load::{self, Document};
use serde_json::{Value, json};

use crate::{
    cli::{Data, Format, Global, Set},
    connect, describe,
    fail::{ERROR, USAGE, coded},
    print, text,
};

/// How files are read: with `--set`, and with MORPH_HOME as it was resolved.
///
/// # Errors
/// When the home cannot be found.
pub fn options(global: &Global, set: &Set) -> Result<load::Options> {
    let home = connect::home(global)?.display().to_string();
    Ok(load::Options { set: set.set.clone(), vars: [("MORPH_HOME".to_owned(), home)].into() })
}

/// Reads a file, or standard input when its name is `-`; then relative paths in it start at the working folder.
///
/// # Errors
/// All that is wrong with it.
pub fn document(file: &Path, options: &load::Options) -> Result<Document> {
    if file != Path::new("-") {
        return Ok(load::file(file, options)?);
    }
    let text = std::io::read_to_string(std::io::stdin().lock()).context("read standard input")?;
    Ok(load::text(&text, "standard input", Path::new(""), options)?)
}

/// Runs a `data` verb.
///
/// # Errors
/// What went wrong, with the file or URL.
pub async fn run(global: &Global, command: Data) -> Result<()> {
    match command {
        Data::Synth { root, healthy, opacity, other, seed, size } => {
            write(global, &synth::Options { root, seed, healthy, opacity, other, size })
        }
        Data::Prepare { file, set, overwrite, jobs, memory } => {
            let options = prepare::Options { jobs, overwrite, memory: u64::from(memory) << 20 };
            prepare(global, &file, &set, &options).await
        }
        Data::Verify { dataset } => verify(global, &url_of(global, &dataset)?).await,
        Data::Diff { a, b } => diff(global, &url_of(global, &a)?, &url_of(global, &b)?).await,
        Data::Inspect { dataset, verify, sheet, split, number } => {
            let sheet = sheet.map(|path| (path, split, number as usize));
            look(global, &dataset, verify, sheet).await
        }
    }
}

fn write(global: &Global, options: &synth::Options) -> Result<()> {
    let bars = Bars::new(global);
    let written = synth::write(options, &bars)?;
    bars.done();
    let n = written.images;
    let root = written.root.display();
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::to_value(&written)?),
        Format::Name => print::line(&root.to_string()),
        Format::Table if written.reused => {
            print::line(&format!("{root}: reused, these {n} phantoms are there already"))
        }
        Format::Table => {
            print::line(&format!("{root}: {n} phantoms in RSNA's layout (their numbers say nothing about patients)"))
        }
    }
}

async fn prepare(global: &Global, file: &Path, set: &Set, options: &prepare::Options) -> Result<()> {
    let Document::Dataset(spec) = document(file, &self::options(global, set)?)? else {
        return Err(coded(USAGE, format!("{}: only a file of kind: dataset can be prepared", file.display())));
    };
    let bars = Bars::new(global);
    let report = prepare::prepare(&spec, options, &bars).await?;
    bars.done();
    if !report.skipped.is_empty() && !global.quiet {
        let n = report.skipped.len();
        say!("{n} file{} skipped; {}/skipped.csv says why", if n == 1 { "" } else { "s" }, report.url);
    }
    if report.resumed > 0 && !global.quiet {
        let n = report.resumed;
        say!("{n} shard{} taken over from an interrupted job", if n == 1 { " was" } else { "s were" });
    }
    if report.manifest.patient_ids == morph_spec::manifest::PatientIds::Image && !global.quiet && !report.reused {
        say!(
            "note: ids name images, not persons, so a person may be in two splits; source.patient_map would prevent it"
        );
    }
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::to_value(&report)?),
        Format::Name => print::line(&format!("dataset/{}", report.manifest.name)),
        Format::Table => {
            let what = if report.reused { "reused, it is there already" } else { "prepared" };
            let m = &report.manifest;
            print::line(&format!(
                "{}: {what}: {} samples in {} shards, {}",
                report.url,
                m.samples(),
                m.shards.len(),
                text::bytes(m.bytes())
            ))?;
            print::line(&print::table(&["SPLIT", "LABEL", "SAMPLES"], describe::counts(m)))
        }
    }
}

/// The dataset that is meant: a URL, or what the YAML of one says.
fn url_of(global: &Global, dataset: &str) -> Result<String> {
    if !dataset.ends_with(".yaml") && !dataset.ends_with(".yml") {
        return Ok(dataset.to_owned());
    }
    match load::file(Path::new(dataset), &options(global, &Set::default())?)? {
        Document::Dataset(spec) => Ok(spec.output),
        other => Err(coded(USAGE, format!("{dataset}: is of kind {}, not dataset", other.kind()))),
    }
}

/// Fails when a shard is not as its manifest says.
async fn whole(url: &str) -> Result<()> {
    let damage = inspect::verify(url).await?;
    for d in &damage {
        say!("{}/{}: {}", url.trim_end_matches('/'), d.file, d.why);
    }
    match damage.len() {
        0 => Ok(()),
        n => Err(coded(
            ERROR,
            format!("{n} shard{} damaged: prepare the dataset again", if n == 1 { " is" } else { "s are" }),
        )),
    }
}

async fn verify(global: &Global, url: &str) -> Result<()> {
    whole(url).await?;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &json!({ "url": url, "whole": true })),
        Format::Name | Format::Table => print::line(&format!("{url}: all checksums right")),
    }
}

async fn diff(global: &Global, a: &str, b: &str) -> Result<()> {
    let found = diff::diff(a, b).await?;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::to_value(&found)?)?,
        Format::Name | Format::Table => {
            for line in found.lines() {
                print::line(&line)?;
            }
        }
    }
    if found.is_empty() { Ok(()) } else { Err(coded(ERROR, format!("{a} and {b} differ"))) }
}

async fn look(global: &Global, dataset: &str, verify: bool, sheet: Option<(PathBuf, String, usize)>) -> Result<()> {
    let url = url_of(global, dataset)?;
    if verify {
        whole(&url).await?;
    }
    let summary = inspect::inspect(&url).await?;
    if let Some((path, split, n)) = sheet {
        let png = inspect::contact_sheet(&url, &split, n).await?;
        std::fs::write(&path, png).with_context(|| format!("write {}", path.display()))?;
    }
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::to_value(&summary)?),
        Format::Name => print::line(&format!("dataset/{}", summary.manifest.name)),
        Format::Table => {
            let m = &summary.manifest;
            let [height, width] = m.image_size;
            print::line(&format!("Dataset:  {}\nUrl:      {}\nDigest:   {}", m.name, summary.url, summary.digest))?;
            print::line(&format!(
                "Images:   {} of {height}x{width}, {} shards, {}{}",
                m.samples(),
                m.shards.len(),
                text::bytes(m.bytes()),
                if verify { ", all checksums right" } else { "" }
            ))?;
            if m.synthetic {
                print::line("Note:     phantoms; their numbers say nothing about patients")?;
            }
            print::line(&format!("\n{}", print::table(&["SPLIT", "LABEL", "SAMPLES"], describe::counts(m))))?;
            let mut rows = Vec::new();
            for (split, groups) in &summary.groups {
                for (group, values) in groups {
                    rows.extend(
                        values.iter().map(|(v, n)| vec![split.clone(), group.clone(), v.clone(), n.to_string()]),
                    );
                }
            }
            print::line(&format!("\n{}", print::table(&["SPLIT", "BY", "VALUE", "SAMPLES"], rows)))
        }
    }
}

/// Checks files; all problems of all files are shown.
///
/// # Errors
/// Exit code 2 when one is wrong.
pub fn validate(global: &Global, files: &[PathBuf], set: &Set) -> Result<()> {
    let options = options(global, set)?;
    let mut wrong = 0;
    let mut documents: Vec<Value> = Vec::new();
    for file in files {
        let read = document(file, &options).map_err(|e| e.downcast::<load::Problems>());
        match read {
            Ok(document) => {
                let name = file.display().to_string();
                match global.output {
                    Format::Table => {
                        print::line(&format!("{name}: {} {:?} is valid", document.kind(), document.name()))?;
                    }
                    Format::Yaml => print::line(&format!("# {name}\n{}", document.to_yaml().trim_end()))?,
                    Format::Json => documents.push(json!({
                        "file": name, "kind": document.kind(), "name": document.name(), "valid": true,
                    })),
                    Format::Name => print::line(&format!("{}/{}", document.kind(), document.name()))?,
                }
            }
            Err(Err(e)) => return Err(e),
            Err(Ok(problems)) => {
                wrong += 1;
                if global.output == Format::Json {
                    let list = |p: &load::Problem| json!({ "file": p.file, "line": p.line, "column": p.column, "field": p.field, "message": p.message, "expected": p.expected, "help": p.help });
                    let list: Vec<Value> = problems.0.iter().map(list).collect();
                    documents.push(json!({ "file": file.display().to_string(), "valid": false, "problems": list }));
                } else {
                    say!("{problems}");
                }
            }
        }
    }
    if global.output == Format::Json {
        print::value(global, &Value::Array(documents))?;
    }
    if wrong > 0 { Err(coded(USAGE, format!("{wrong} of {} files are invalid", files.len()))) } else { Ok(()) }
}

/// Progress on the terminal: a bar, or a line now and then.
struct Bars {
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { state: Mutex<Stage>, total: AtomicU64, done: AtomicU64 },
}

/// What is done at the moment.
struct Stage {
    name: String,
    began: Instant,
    said: Instant,
}

impl Stage {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        Self { name: name.to_owned(), began: now, said: now }
    }
}

/// How often a line is said when there is no terminal.
const PACE: Duration = Duration::from_secs(10);

impl Bars {
    fn new(global: &Global) -> Self {
        let shown = if global.quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{msg:18} {bar:32} {pos}/{len} {per_sec} {eta} left");
            Shown::Bar(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        } else {
            Shown::Lines { state: Mutex::new(Stage::new("")), total: AtomicU64::new(0), done: AtomicU64::new(0) }
        };
        Self { shown }
    }

    fn done(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.reset();
                bar.set_length(total);
                bar.set_message(name.to_owned());
            }
            Shown::Lines { state, total: all, done } => {
                all.store(total, Ordering::Relaxed);
                done.store(0, Ordering::Relaxed);
                *state.lock().unwrap_or_else(PoisonError::into_inner) = Stage::new(name);
            }
        }
    }

    fn advance(&self, n: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(n),
            Shown::Lines { state, total, done } => {
                let now = done.fetch_add(n, Ordering::Relaxed) + n;
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.said.elapsed() >= PACE {
                    state.said = Instant::now();
                    let (total, rate) =
                        (total.load(Ordering::Relaxed), now as f64 / state.began.elapsed().as_secs_f64());
                    let left = Duration::from_secs((total.saturating_sub(now) as f64 / rate.max(f64::EPSILON)) as u64);
                    say!(
                        "{}: {now} of {total}, {rate:.1} a second, {} left",
                        state.name,
                        indicatif::HumanDuration(left)
                    );
                }
            }
        }
    }

    fn warn(&self, line: &str) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.suspend(|| say!("{line}")),
            Shown::Lines { .. } => say!("{line}"),
        }
    }
}

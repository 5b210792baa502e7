//! `data synth|prepare|inspect|verify|diff` and `validate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use morph_data::{diff, inspect, prepare::Options, synth};
use morph_spec::load::{self, Document};
use serde_json::{Value, json};

use crate::{
    bars::Bars,
    cli::{Data, Format, Global, Set},
    connect, describe,
    fail::{ERROR, OK, USAGE, coded},
    prepare, print, text,
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

/// Runs a `data` verb; the exit code.
///
/// # Errors
/// What went wrong, with the file or URL.
pub async fn run(global: &Global, command: Data) -> Result<u8> {
    match command {
        Data::Synth { root, healthy, opacity, other, seed, size } => {
            write(global, &synth::Options { root, seed, healthy, opacity, other, size })
        }
        Data::Prepare { file, set, overwrite, jobs, memory, workers } => {
            let options = Options { jobs, overwrite, memory: u64::from(memory) << 20 };
            return prepare::prepare(global, &file, &set, &options, workers).await;
        }
        Data::Verify { dataset } => verify(global, &url_of(global, &dataset)?).await,
        Data::Diff { a, b } => diff(global, &url_of(global, &a)?, &url_of(global, &b)?).await,
        Data::Inspect { dataset, verify, sheet, split, number } => {
            let sheet = sheet.map(|path| (path, split, number as usize));
            look(global, &dataset, verify, sheet).await
        }
    }
    .map(|()| OK)
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

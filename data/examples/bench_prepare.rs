//! What preparing an image costs: `scripts/bench data` runs this and the peers on the same files. Prints one JSON object a line.
//!
//!     bench_prepare FOLDER     FOLDER/*.dcm and FOLDER/*.png

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use morph_data::{
    Silent,
    prepare::{self, Options},
    readers::{Kind, grey},
    resize::pillow_bilinear,
};
use morph_spec::dataset::{Dataset, Filter, Layout, Preprocess, Privacy, Source, Split, Table};

/// Seconds of processor time that this process has had.
fn processor() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let own = text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    // Of all threads: what has ended is only in the sum, in hundredths.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let all = ticks.get(10).zip(ticks.get(11)).map_or(0.0, |(user, system)| (user + system) / 100.0);
    all.max(own)
}

fn say(what: &str, kind: &str, figures: &[(&str, f64)]) {
    let figures: BTreeMap<&str, f64> = figures.iter().copied().collect();
    let line = serde_json::json!({ "peer": "morph", "what": what, "files": kind, "figures": figures });
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn main() -> Result<(), String> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: bench_prepare FOLDER")?);
    for (end, kind) in [("dcm", Kind::Dicom), ("png", Kind::Png)] {
        let files = files(&folder, end)?;
        let preprocess = Preprocess::default();
        let rounds = 3;
        for (what, whole) in [("decode only", false), ("decode, 8 bit, resize to 128", true)] {
            let began = processor();
            for _ in 0..rounds {
                for file in &files {
                    let bytes = fs::read(file).map_err(|e| e.to_string())?;
                    let (image, _) = black_box(kind.read(&bytes, None)?);
                    if whole {
                        let small = pillow_bilinear(&grey(&image, &preprocess)?, 128, 128);
                        assert_eq!(small.pixels.len(), 128 * 128);
                    }
                }
            }
            let each = (processor() - began) * 1e3 / (rounds * files.len()) as f64;
            say(what, end, &[("cpu_ms", each)]);
        }
        let mut walls = Vec::new();
        for jobs in [1, 2, 1, 2, 1, 2] {
            let (began, cpu) = (Instant::now(), processor());
            let n = prepared(&folder, end, jobs)?;
            let (wall, cpu) = (began.elapsed().as_secs_f64(), processor() - cpu);
            walls.push(wall);
            say(
                "prepare to shards",
                end,
                &[("jobs", jobs as f64), ("wall_ms", wall * 1e3 / n), ("cpu_ms", cpu * 1e3 / n)],
            );
        }
        let best = |jobs: usize| walls.iter().skip(jobs - 1).step_by(2).fold(f64::INFINITY, |a, b| a.min(*b));
        let scaling = best(1) / best(2);
        say("one core to two", end, &[("times", scaling)]);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    say("peak memory", "all", &[("mib", peak.unwrap_or(0.0) / 1024.0)]);
    Ok(())
}

fn files(folder: &Path, end: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == end));
    files.sort();
    if files.is_empty() { Err(format!("no .{end} in {}", folder.display())) } else { Ok(files) }
}

/// The whole job; how many images it was.
fn prepared(folder: &Path, end: &str, jobs: usize) -> Result<f64, String> {
    let out = folder.join(format!("out-{end}"));
    drop(fs::remove_dir_all(&out));
    let names = files(folder, end)?;
    let names = names.iter().filter_map(|p| p.file_name()?.to_str());
    let table: String = std::iter::once("filename").chain(names).map(|n| format!("{n}\n")).collect();
    fs::write(folder.join("table.csv"), table).map_err(|e| e.to_string())?;
    let mut source = Source::new(Layout::Csv, folder.display().to_string());
    source.tables = vec![Table { file: "table.csv".into(), label: Some("Normal".into()), split: Some("train".into()) }];
    let spec = Dataset {
        kind: morph_spec::dataset::Kind::Dataset,
        name: "bench".into(),
        source,
        output: out.display().to_string(),
        preprocess: Preprocess::default(),
        filter: Filter::default(),
        classes: Vec::new(),
        split: Split::default(),
        labels: BTreeMap::new(),
        only_labels: Vec::new(),
        privacy: Privacy::default(),
        shard_samples: 1024,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let options = Options { jobs, ..Options::default() };
    let report = runtime.block_on(prepare::prepare(&spec, &options, &Silent)).map_err(|e| e.to_string())?;
    Ok(report.manifest.samples() as f64)
}

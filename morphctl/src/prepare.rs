//! `data prepare`: here, or spread over a coordinator's agents. Then this process plans the shards, has agents make them, looks at what
//! they have made, and commits the dataset: what no agent made, or made badly, it makes itself.

use std::{cell::Cell, collections::BTreeSet, path::Path};

use anyhow::{Context, Result};
use morph_data::{
    Progress,
    prepare::{self, Begun, Options, Plan, Remark, Report},
};
use morph_proto::v1;
use morph_spec::{Dataset, load::Document};
use tonic::Status;

use crate::{
    bars::Bars,
    cli::{Format, Global, Set},
    connect::{self, Client, Connection, is_away},
    data, describe,
    fail::{ERROR, OK, UNREACHABLE, USAGE, coded, status},
    print,
    submit::{Signals, typed},
    text,
};

/// Prepares the dataset of `file`, here or, with `workers`, spread over a coordinator's agents; the exit code.
///
/// # Errors
/// What went wrong.
pub async fn prepare(global: &Global, file: &Path, set: &Set, options: &Options, workers: Option<u32>) -> Result<u8> {
    let Document::Dataset(spec) = data::document(file, &data::options(global, set)?)? else {
        return Err(coded(USAGE, format!("{}: only a file of kind: dataset can be prepared", file.display())));
    };
    let bars = Bars::new(global);
    let report = match workers {
        None => prepare::prepare(&spec, options, &bars).await?,
        Some(workers) => {
            let spread = Spread { global, spec: &spec, options, workers, bars: &bars };
            let client = spread.coordinator().await?;
            // Until here Ctrl-C ends this process at once, as it does when the dataset is prepared here.
            match prepare::begin(&spec, options.overwrite, &bars).await? {
                Begun::Whole(report) => *report,
                Begun::Plan(plan) => {
                    let mut signals = Signals::new()?;
                    tokio::select! {
                        report = spread.run(client, *plan) => report?,
                        // Who does not listen any more is not worked for: agents are told to stop.
                        code = signals.next() => {
                            bars.done();
                            say!(
                                "stopped; the shards that are made are kept. The same command goes on from there: {}",
                                typed()
                            );
                            return Ok(code);
                        }
                    }
                }
            }
        }
    };
    bars.done();
    tell(global, &report).map(|()| OK)
}

fn tell(global: &Global, report: &Report) -> Result<()> {
    if !report.skipped.is_empty() && !global.quiet {
        let n = report.skipped.len();
        say!("{n} file{} skipped; {}/skipped.csv says why", if n == 1 { "" } else { "s" }, report.url);
    }
    for Remark { what, images, example } in report.remarks.iter().filter(|_| !global.quiet) {
        say!("note: {images} image{}: {what} (one is {example})", if *images == 1 { "" } else { "s" });
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
        Format::Json | Format::Yaml => print::value(global, &serde_json::to_value(report)?),
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

/// A preparation that agents help with.
struct Spread<'a> {
    global: &'a Global,
    spec: &'a Dataset,
    options: &'a Options,
    workers: u32,
    bars: &'a Bars,
}

/// Said while nobody serves.
const AWAY: &str = "the coordinator is away; waiting for it (shards in work are finished meanwhile)";

impl Spread<'_> {
    async fn coordinator(&self) -> Result<Client> {
        let Some(client) = Connection::live(self.global).await? else {
            let why = format!(
                "nobody serves {}: --workers spreads the work over a coordinator's agents, so name one with --coordinator URL; \
                 without --workers the dataset is prepared here",
                connect::home(self.global)?.display()
            );
            return Err(coded(UNREACHABLE, why));
        };
        Ok(client)
    }

    async fn run(&self, client: Client, plan: Plan<'_>) -> Result<Report> {
        let made = self.made_by_agents(client, &plan).await?;
        let plan = match plan.gather(self.bars).await? {
            Begun::Whole(report) => return Ok(*report),
            Begun::Plan(plan) => plan,
        };
        let missing: Vec<String> = plan.missing().into_iter().map(|chunk| chunk.name).collect();
        let lost = missing.iter().filter(|name| made.contains(*name)).count();
        if lost > 0 && lost == made.len() {
            let why = format!(
                "agents made {lost} shards, and none of them is at {}: the output must be a place that this machine and all agents see, \
                 a shared file system or a bucket",
                self.spec.output
            );
            return Err(coded(ERROR, why));
        }
        if lost > 0 {
            self.bars.warn(&format!("{lost} shards of agents are missing or damaged, and are made here"));
        }
        Ok(plan.finish(self.options, self.bars).await?)
    }

    /// Has agents make what is missing of `plan`; the names of what they made. A coordinator that goes away is waited for.
    async fn made_by_agents(&self, mut client: Client, plan: &Plan<'_>) -> Result<BTreeSet<String>> {
        let here = std::env::current_dir().context("find the working folder")?;
        let dataset_json = serde_json::to_string(self.spec).context("write the dataset as JSON")?;
        let mut missing = plan.missing();
        let total = plan.work().images();
        self.bars.stage("decode and resize", total);
        let (mut made, mut shown, mut away, mut waiting) = (BTreeSet::new(), 0, false, String::new());
        while !missing.is_empty() {
            let left: u64 = missing.iter().map(|chunk| chunk.images).sum();
            let shards = missing.iter().map(|c| v1::Shard { name: c.name.clone(), images: c.images }).collect();
            let request = v1::PrepareRequest {
                key: plan.work().key().to_string(),
                dataset_json: dataset_json.clone(),
                folder: here.display().to_string(),
                shards,
                workers: self.workers,
                jobs: u32::try_from(self.options.jobs).unwrap_or(u32::MAX),
                memory: self.options.memory,
            };
            let heard = Cell::new(false);
            let done = self.follow(&mut client, request, |news| {
                heard.set(true);
                // What is taken away from an agent counts once, when another one has made it.
                let images = total - left + news.images.min(left);
                if images > shown {
                    self.bars.advance(images - shown);
                    shown = images;
                }
                news.notes.iter().for_each(|line| self.bars.warn(line));
                if news.waiting != waiting && !news.waiting.is_empty() {
                    self.bars.warn(&news.waiting);
                }
                waiting.clone_from(&news.waiting);
                made.extend(news.made);
            });
            let ended = done.await;
            missing.retain(|chunk| !made.contains(&chunk.name));
            match ended {
                Ok(()) => {}
                Err(s) if is_away(&s) => {
                    if !std::mem::replace(&mut away, true) || heard.get() {
                        self.bars.warn(AWAY);
                    }
                    client = Connection::again(self.global).await?;
                }
                Err(s) => return Err(status(&s)),
            }
        }
        Ok(made)
    }

    async fn follow(
        &self,
        client: &mut Client,
        request: v1::PrepareRequest,
        mut heard: impl FnMut(v1::PrepareResponse),
    ) -> Result<(), Status> {
        let mut stream = client.prepare(request).await?.into_inner();
        while let Some(news) = stream.message().await? {
            let over = news.over;
            heard(news);
            if over {
                return Ok(());
            }
        }
        Err(Status::unavailable("the coordinator ended the stream"))
    }
}

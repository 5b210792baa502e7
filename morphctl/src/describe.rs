//! `describe`: all of one thing.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use morph_proto::v1;
use morph_spec::Manifest;
use serde_json::Value;

use crate::{
    cli::{Format, Global, Thing},
    compare::{gather::test_sets, ledger::Use},
    connect::{self, Client, Connection, Purpose},
    events::pages,
    fail::{NOT_FOUND, coded, status},
    get, json, print, text, watch,
};

/// Events shown to people; programs get all.
const EVENTS: usize = 20;

/// Shows the `what` that `id` means.
///
/// # Errors
/// When nobody answers, or there is no such thing.
pub async fn describe(global: &Global, what: Thing, id: &str) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let found = find(&mut connection.client, what, id).await;
    connection.close().await;
    let (json, text, name) = found?;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &json),
        Format::Name => print::line(&name),
        Format::Table => print::line(text.trim_end()),
    }
}

async fn find(client: &mut Client, what: Thing, id: &str) -> Result<(Value, String, String)> {
    match what {
        Thing::Run => {
            let run = connect::run(client, id).await?;
            let events = events(client, &run.id).await?;
            let mut json = json::run(&run);
            json["events"] = events.iter().map(json::event).collect();
            Ok((json, run_text(&run, &events), format!("run/{}", run.name)))
        }
        Thing::Sweep => {
            let request = v1::GetSweepRequest { sweep: id.to_owned() };
            let found = client.get_sweep(request).await.map_err(|s| status(&s))?.into_inner();
            let sweep = found.sweep.unwrap_or_default();
            let datasets: BTreeSet<String> = found.runs.iter().map(|r| r.dataset.clone()).collect();
            let tests = test_sets(client, datasets.into_iter().collect()).await?;
            let mut json = json::sweep(&sweep);
            json["runs"] = found.runs.iter().map(json::run).collect();
            json["tests"] = tests.iter().map(json::test_set).collect();
            Ok((json, sweep_text(&sweep, &found.runs, &tests), format!("sweep/{}", sweep.name)))
        }
        Thing::Worker => {
            let all =
                client.list_workers(v1::ListWorkersRequest {}).await.map_err(|s| status(&s))?.into_inner().workers;
            let upper = id.to_uppercase();
            let found =
                all.into_iter().find(|w| w.id == upper || w.host == id || (id.len() >= 4 && w.id.starts_with(&upper)));
            let worker = found.ok_or_else(|| coded(NOT_FOUND, format!("there is no worker {id:?}")))?;
            Ok((json::worker(&worker), worker_text(&worker), format!("worker/{}", worker.id)))
        }
        Thing::Dataset => {
            let all =
                client.list_datasets(v1::ListDatasetsRequest {}).await.map_err(|s| status(&s))?.into_inner().datasets;
            let found =
                all.into_iter().find(|d| d.name == id || d.url == id || (id.len() >= 4 && d.digest.starts_with(id)));
            let known = found.ok_or_else(|| coded(NOT_FOUND, format!("there is no dataset {id:?}")))?;
            // Registering what is registered only returns it, with its manifest.
            let request = v1::RegisterDatasetRequest { url: known.url.clone() };
            let whole =
                client.register_dataset(request).await.ok().and_then(|r| r.into_inner().dataset).unwrap_or(known);
            let name = format!("dataset/{}", whole.name);
            let tests = test_sets(client, vec![whole.digest.clone()]).await?;
            let mut json = json::dataset(&whole);
            json["tests"] = tests.iter().map(json::test_set).collect();
            Ok((json, dataset_text(&whole, &tests), name))
        }
    }
}

async fn events(client: &mut Client, id: &str) -> Result<Vec<v1::Event>> {
    let mut all = Vec::new();
    let request = v1::EventsRequest { id: id.to_owned(), ..v1::EventsRequest::default() };
    pages(client, request, |mut events| {
        all.append(&mut events);
        Ok(())
    })
    .await?;
    Ok(all)
}

/// Lines of `name: value`.
#[derive(Default)]
struct Page(String);

impl Page {
    fn field(&mut self, name: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            self.0.push_str(&format!("{:<14}{}\n", format!("{name}:"), value.as_ref()));
        }
    }

    /// How often test sets were used, with a warning where one chose.
    fn test_sets(&mut self, tests: &[v1::TestSet]) {
        for used in tests.iter().map(Use::new) {
            self.field("Test set", format!("{}: {}", used.name(), used.text()));
            self.field("Warning", used.warning().unwrap_or_default());
        }
    }

    fn section(&mut self, name: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        if !rows.is_empty() {
            self.0.push_str(&format!("\n{name}:\n"));
            for line in print::table(columns, rows).lines() {
                self.0.push_str(&format!("  {line}\n"));
            }
        }
    }
}

fn instant(micros: u64) -> String {
    if micros == 0 { String::new() } else { text::instant(micros) }
}

fn run_text(run: &v1::Run, events: &[v1::Event]) -> String {
    let mut page = Page::default();
    page.field("Run", &run.name);
    page.field("Id", &run.id);
    page.field("Sweep", &run.sweep);
    page.field("State", json::run_state(run));
    page.field("Reason", &run.reason);
    page.field("Params", text::params(&run.params_json));
    page.field("Dataset", run.dataset.chars().take(12).collect::<String>());
    page.field(
        "Trained by",
        run.attempts
            .last()
            .filter(|a| !a.version.is_empty())
            .map_or_else(String::new, |a| format!("morph {}", a.version)),
    );
    if run.total_steps > 0 {
        page.field("Step", format!("{} of {} (epoch {})", run.step, run.total_steps, run.epoch));
    }
    if run.images_per_second > 0.0 {
        page.field("Speed", format!("{:.1} images/s", run.images_per_second));
    }
    page.field("Ranks", run.world_size.to_string());
    page.field("Project", &run.project);
    if run.priority != 0 {
        page.field("Priority", run.priority.to_string());
    }
    page.field("Created", instant(run.created_at));
    page.field("Started", instant(run.started_at));
    page.field("Ended", instant(run.ended_at));
    if run.ended_at > run.started_at && run.started_at > 0 {
        page.field("Took", text::duration(Duration::from_micros(run.ended_at - run.started_at)));
    }
    page.field("Error", &run.error);
    page.section("Time", &["CLASS", "TIME", "SHARE"], time(&run.time));
    page.section("Scores", &["NAME", "VALUE"], numbers(&run.summary));
    if run.summary.is_empty() {
        page.section("Latest", &["NAME", "VALUE"], numbers(&run.latest));
    }
    let attempt = |a: &v1::Attempt| {
        let end = if a.ended_at == 0 { "running".into() } else { a.outcome.clone() };
        let took = if a.ended_at == 0 { "-".into() } else { text::ago(a.placed_at, a.ended_at) };
        vec![a.attempt.to_string(), end, instant(a.placed_at), took, a.ranks.len().to_string(), a.error.clone()]
    };
    let columns = ["ATTEMPT", "OUTCOME", "PLACED", "TOOK", "RANKS", "ERROR"];
    page.section("Attempts", &columns, run.attempts.iter().map(attempt).collect());
    let checkpoint = |c: &v1::Checkpoint| {
        let score = c.score.map_or_else(|| "-".into(), text::number);
        let best = if c.best { "best" } else { "" };
        vec![c.step.to_string(), c.epoch.to_string(), score, text::bytes(c.bytes), best.into(), c.url.clone()]
    };
    // Older ones were removed as the experiment asks; the list is the history of all.
    let newest: Vec<_> = run.checkpoints.iter().rev().filter(|c| c.best).chain(run.checkpoints.last()).collect();
    let mut rows: Vec<Vec<String>> = newest.into_iter().map(checkpoint).collect();
    rows.dedup();
    page.section("Checkpoints (best, newest)", &["STEP", "EPOCH", "VAL", "SIZE", "", "URL"], rows);
    page.section("Artifacts", &["URL"], run.artifacts.iter().map(|a| vec![a.clone()]).collect());
    let first = events.len().saturating_sub(EVENTS);
    let row = |e: &v1::Event| vec![instant(e.at), e.text.clone()];
    let title = if first > 0 {
        format!("Events (last {EVENTS} of {}; all: morphctl events {})", events.len(), run.name)
    } else {
        "Events".into()
    };
    page.section(&title, &["AT", "WHAT"], events[first..].iter().map(row).collect());
    page.0
}

fn numbers(map: &std::collections::HashMap<String, f64>) -> Vec<Vec<String>> {
    let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
    sorted.into_iter().map(|(name, value)| vec![name.clone(), text::number(*value)]).collect()
}

/// Rows of where time went, the largest part first.
fn time(seconds: &std::collections::HashMap<String, f64>) -> Vec<Vec<String>> {
    let total: f64 = seconds.values().sum();
    let mut classes: Vec<_> = seconds.iter().collect();
    classes.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
    let row = |(class, s): (&String, &f64)| {
        let took = text::duration(Duration::try_from_secs_f64(*s).unwrap_or_default());
        vec![class.clone(), took, format!("{:.1} %", 100.0 * s / total)]
    };
    classes.into_iter().map(row).collect()
}

fn sweep_text(sweep: &v1::Sweep, runs: &[v1::Run], tests: &[v1::TestSet]) -> String {
    let mut page = Page::default();
    page.field("Sweep", &sweep.name);
    page.field("Id", &sweep.id);
    page.field("State", json::sweep_state(sweep));
    page.field("Reason", &sweep.reason);
    page.field("Metric", format!("{} ({})", sweep.metric, sweep.goal));
    page.field("Runs", format!("{}: {}", sweep.total, watch::counts(sweep)));
    if let (Some(value), Some(best)) = (sweep.best_value, runs.iter().find(|r| r.id == sweep.best_run)) {
        page.field("Best", format!("{} with {}", best.name, text::number(value)));
    }
    page.field("Created", instant(sweep.created_at));
    page.field("Ended", instant(sweep.ended_at));
    page.test_sets(tests);
    page.section("Time (of all runs)", &["CLASS", "TIME", "SHARE"], time(&sweep.time));
    let list = get::runs(runs);
    page.section("Runs", &list.columns, list.rows);
    page.0
}

fn worker_text(worker: &v1::Worker) -> String {
    let mut page = Page::default();
    page.field("Worker", &worker.id);
    page.field("State", &worker.state);
    page.field("Cordoned", &worker.cordoned);
    page.field("Host", &worker.host);
    page.field("Slots", format!("{} of {} used", worker.used, worker.slots));
    if worker.memory > 0 {
        page.field("Memory", text::bytes(worker.memory));
    }
    let labels: BTreeSet<String> = worker.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    page.field("Labels", labels.into_iter().collect::<Vec<_>>().join(", "));
    page.field("Version", &worker.version);
    page.field("Joined", instant(worker.joined_at));
    page.field("Heard", instant(worker.last_seen));
    page.section("Runs", &["ID"], worker.runs.iter().map(|r| vec![r.clone()]).collect());
    page.section("Datasets in its cache", &["DIGEST"], worker.cached.iter().map(|d| vec![d.clone()]).collect());
    page.0
}

fn dataset_text(dataset: &v1::Dataset, tests: &[v1::TestSet]) -> String {
    let mut page = Page::default();
    page.field("Dataset", &dataset.name);
    page.field("Url", &dataset.url);
    page.field("Digest", &dataset.digest);
    page.field("Samples", dataset.samples.to_string());
    page.field("Size", text::bytes(dataset.bytes));
    page.field("Registered", instant(dataset.registered_at));
    page.test_sets(tests);
    if let Ok(manifest) = serde_json::from_str::<Manifest>(&dataset.manifest_json) {
        page.section("Samples", &["SPLIT", "LABEL", "N"], counts(&manifest));
    }
    page.0
}

/// Rows of split, label and number.
pub fn counts(manifest: &Manifest) -> Vec<Vec<String>> {
    let labels = |(split, labels): (&String, &std::collections::BTreeMap<String, u64>)| {
        labels.iter().map(|(label, n)| vec![split.clone(), label.clone(), n.to_string()]).collect::<Vec<_>>()
    };
    manifest.counts.iter().flat_map(labels).collect()
}

//! `get`: lists.

use std::collections::BTreeMap;

use anyhow::Result;
use morph_proto::v1;

use crate::{
    cli::{Global, Things},
    compare::gather::test_sets,
    connect::{Client, Connection, Purpose},
    fail::{NOT_FOUND, coded, status},
    json,
    print::{self, Listing},
    text,
};

/// Lists `what`; only `id` of it when one is given.
///
/// # Errors
/// When nobody answers, or there is no such thing.
pub async fn get(global: &Global, what: Things, id: Option<&str>) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let list = listing(&mut connection.client, what, id).await;
    connection.close().await;
    print::list(global, list?)
}

async fn listing(client: &mut Client, what: Things, id: Option<&str>) -> Result<Listing> {
    match what {
        Things::Runs => Ok(runs(&find_runs(client, id).await?)),
        Things::Sweeps => {
            let all = client.list_sweeps(v1::ListSweepsRequest {}).await.map_err(|s| status(&s))?.into_inner().sweeps;
            Ok(sweeps(&only(all, id, "sweep", |s| (&s.id, &s.name))?))
        }
        Things::Workers => {
            let all =
                client.list_workers(v1::ListWorkersRequest {}).await.map_err(|s| status(&s))?.into_inner().workers;
            Ok(workers(&only(all, id, "worker", |w| (&w.id, &w.host))?))
        }
        Things::Datasets => {
            let all =
                client.list_datasets(v1::ListDatasetsRequest {}).await.map_err(|s| status(&s))?.into_inner().datasets;
            let found = only(all, id, "dataset", |d| (&d.url, &d.name))?;
            // Without a name, those that were only scored on, too: all that there are.
            let asked = if id.is_some() { found.iter().map(|d| d.digest.clone()).collect() } else { Vec::new() };
            let tests = test_sets(client, asked).await?;
            Ok(datasets(&found, &tests))
        }
    }
}

/// All runs, or the one, or those of the sweep that `id` means.
async fn find_runs(client: &mut Client, id: Option<&str>) -> Result<Vec<v1::Run>> {
    let Some(id) = id else {
        return pages(client, v1::ListRunsRequest::default()).await.map_err(|s| status(&s));
    };
    match client.get_run(v1::GetRunRequest { run: id.to_owned() }).await {
        Ok(found) => Ok(found.into_inner().run.into_iter().collect()),
        Err(not_found) => {
            let of_sweep = v1::ListRunsRequest { sweep: id.to_owned(), ..Default::default() };
            pages(client, of_sweep).await.map_err(|_| status(&not_found))
        }
    }
}

/// All runs that `request` asks for, page after page.
///
/// # Errors
/// When a page is refused, or nobody answers.
pub async fn pages(client: &mut Client, mut request: v1::ListRunsRequest) -> Result<Vec<v1::Run>, tonic::Status> {
    let mut runs = Vec::new();
    loop {
        let page = client.list_runs(request.clone()).await?.into_inner();
        runs.extend(page.runs);
        if page.next_page_token.is_empty() {
            return Ok(runs);
        }
        request.page_token = page.next_page_token;
    }
}

/// The things that `id` names: exactly, or by the beginning of their id.
fn only<T>(all: Vec<T>, id: Option<&str>, kind: &str, names: impl Fn(&T) -> (&str, &str)) -> Result<Vec<T>> {
    let Some(wanted) = id else { return Ok(all) };
    let upper = wanted.to_uppercase();
    let fits = |t: &T| {
        let (id, name) = names(t);
        id == wanted || name == wanted || (wanted.len() >= 4 && id.starts_with(&upper))
    };
    let found: Vec<T> = all.into_iter().filter(fits).collect();
    if found.is_empty() { Err(coded(NOT_FOUND, format!("there is no {kind} {wanted:?}"))) } else { Ok(found) }
}

fn metric(run: &v1::Run, name: &str) -> String {
    run.summary.get(name).or_else(|| run.latest.get(name)).map_or_else(|| "-".into(), |v| text::number(*v))
}

/// Runs as a list.
pub fn runs(runs: &[v1::Run]) -> Listing {
    let now = text::now();
    let row = |r: &v1::Run| {
        let progress = if r.total_steps == 0 { "-".into() } else { format!("{}/{}", r.step, r.total_steps) };
        vec![
            r.name.clone(),
            json::run_state(r),
            r.attempt.to_string(),
            progress,
            metric(r, "train/loss"),
            metric(r, "val/score"),
            text::params(&r.params_json),
            text::ago(r.created_at, now),
            r.reason.clone(),
        ]
    };
    Listing {
        kind: "run",
        columns: vec!["NAME", "STATE", "ATTEMPT", "STEP", "LOSS", "VAL", "PARAMS", "AGE", "REASON"],
        rows: runs.iter().map(row).collect(),
        json: runs.iter().map(json::run).collect(),
        names: runs.iter().map(|r| r.name.clone()).collect(),
    }
}

/// Sweeps as a list.
pub fn sweeps(sweeps: &[v1::Sweep]) -> Listing {
    let now = text::now();
    let row = |s: &v1::Sweep| {
        vec![
            s.name.clone(),
            json::sweep_state(s),
            s.total.to_string(),
            s.succeeded.to_string(),
            s.running.to_string(),
            s.queued.to_string(),
            s.failed.to_string(),
            s.metric.clone(),
            s.best_value.map_or_else(|| "-".into(), text::number),
            text::ago(s.created_at, now),
        ]
    };
    Listing {
        kind: "sweep",
        columns: vec!["NAME", "STATE", "RUNS", "OK", "RUNNING", "QUEUED", "FAILED", "METRIC", "BEST", "AGE"],
        rows: sweeps.iter().map(row).collect(),
        json: sweeps.iter().map(json::sweep).collect(),
        names: sweeps.iter().map(|s| s.name.clone()).collect(),
    }
}

/// Workers as a list.
pub fn workers(workers: &[v1::Worker]) -> Listing {
    let now = text::now();
    let row = |w: &v1::Worker| {
        vec![
            w.id.clone(),
            if w.cordoned.is_empty() { w.state.clone() } else { format!("{},cordoned", w.state) },
            w.host.clone(),
            format!("{}/{}", w.used, w.slots),
            w.version.clone(),
            text::ago(w.last_seen, now),
            text::ago(w.joined_at, now),
        ]
    };
    Listing {
        kind: "worker",
        columns: vec!["ID", "STATE", "HOST", "SLOTS", "VERSION", "HEARD", "AGE"],
        rows: workers.iter().map(row).collect(),
        json: workers.iter().map(json::worker).collect(),
        names: workers.iter().map(|w| w.id.clone()).collect(),
    }
}

/// How often the test sets of one dataset were scored, scored by hand, and chose: of each the most.
fn most<'a>(tests: impl Iterator<Item = &'a v1::TestSet>) -> [String; 3] {
    let uses = |t: &v1::TestSet| [t.scored as usize, t.rescored as usize, t.choices.len()];
    let all = tests.map(uses).fold([0; 3], |most, of| std::array::from_fn(|i| most[i].max(of[i])));
    all.map(|n| n.to_string())
}

/// Datasets as a list; `tests` is how often they were scored, and chose.
pub fn datasets(datasets: &[v1::Dataset], tests: &[v1::TestSet]) -> Listing {
    let now = text::now();
    let row = |d: &v1::Dataset| {
        let digest = d.digest.chars().take(12).collect();
        let age = text::ago(d.registered_at, now);
        let [scored, by_hand, chose] = most(tests.iter().filter(|t| t.dataset == d.digest));
        let name = d.name.clone();
        vec![name, d.samples.to_string(), text::bytes(d.bytes), scored, by_hand, chose, digest, age, d.url.clone()]
    };
    let json = |d: &v1::Dataset| {
        let mut value = json::dataset(d);
        value["tests"] = tests.iter().filter(|t| t.dataset == d.digest).map(json::test_set).collect();
        value
    };
    // Nothing was trained on these: of them there is only what they were used for.
    let mut elsewhere: BTreeMap<&str, Vec<&v1::TestSet>> = BTreeMap::new();
    for t in tests.iter().filter(|t| !datasets.iter().any(|d| d.digest == t.dataset)) {
        elsewhere.entry(&t.url).or_default().push(t);
    }
    let scored_only = elsewhere.iter().map(|(url, tests)| {
        let [scored, by_hand, chose] = most(tests.iter().copied());
        let nothing = || "-".to_owned();
        vec![nothing(), nothing(), nothing(), scored, by_hand, chose, nothing(), nothing(), (*url).to_owned()]
    });
    let used = elsewhere.iter().map(|(url, tests)| {
        let tests = tests.iter().map(|t| json::test_set(t)).collect::<Vec<_>>();
        serde_json::json!({ "name": null, "url": url, "digest": null, "tests": tests })
    });
    Listing {
        kind: "dataset",
        columns: vec!["NAME", "SAMPLES", "SIZE", "SCORED", "BY HAND", "CHOSE", "DIGEST", "AGE", "URL"],
        rows: datasets.iter().map(row).chain(scored_only).collect(),
        json: datasets.iter().map(json).chain(used).collect(),
        names: datasets.iter().map(|d| d.name.clone()).chain(elsewhere.keys().map(|url| (*url).to_owned())).collect(),
    }
}

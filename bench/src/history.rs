//! A coordinator with a long past.

use std::{collections::BTreeSet, path::Path, time::Instant};

use anyhow::{Context, Result};
use morph_control::{Cluster, Command, Exit, Hello, Policy, Report, Submission, apply};
use morph_coordinator::store::{self, Batch, Writer};
use morph_proto::v1::{ListRunsRequest, ListWorkersRequest};
use morph_spec::{Digest, Experiment, Fence, Rng, RunId, Timestamp};

use crate::{
    Bar, Cli, Figure, agents,
    control::{percentile, submit},
    server::{self, Server},
};

const URL: &str = "file:///bench";
/// Agents that had worked.
const WORKERS: usize = 100;

struct Past {
    cluster: Cluster,
    now: Timestamp,
    rng: Rng,
    store: Box<dyn Writer>,
    batch: Batch,
    events: u64,
}

impl Past {
    fn tell(&mut self, command: Command) -> Result<()> {
        self.now = Timestamp(self.now.0 + 1000);
        let events =
            apply(&mut self.cluster, self.now, &mut self.rng, command).map_err(|r| anyhow::anyhow!("{r:?}"))?;
        self.events += events.len() as u64;
        self.batch.events.extend(events);
        if self.batch.events.len() >= 10_000 {
            self.store.commit(&std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    fn submit(&mut self, key: &str, url: &str) -> Result<RunId> {
        let experiment: Experiment = serde_json::from_value(server::experiment(url))?;
        let command = Command::SubmitRun {
            key: key.into(),
            name: key.into(),
            experiment: Box::new(experiment),
            dataset: Digest::of(b"bench"),
        };
        self.tell(command)?;
        match self.cluster.keys.get(key) {
            Some(Submission::Run(id)) => Ok(*id),
            _ => anyhow::bail!("no run was submitted"),
        }
    }

    /// A run from its submission to its end.
    fn life(&mut self, n: u64, url: &str) -> Result<()> {
        let run = self.submit(&format!("past-{n}"), url)?;
        let known = self.cluster.runs.get(&run).context("a run")?;
        let fence: Fence = known.fence();
        let worker = known.attempt().context("it was placed")?.ranks[0].worker;
        for report in [
            Report::StoreReady { address: "127.0.0.1:1".into() },
            Report::RankReady { rank: 0, step: 0, total_steps: 100, cached: BTreeSet::new() },
            Report::RankExited { rank: 0, exit: Exit::Succeeded, error: String::new() },
        ] {
            self.tell(Command::Report { worker, fence, report })?;
        }
        Ok(())
    }
}

/// Writes a past of `events` events and a queue of `queue` runs to `home`.
fn write(home: &Path, events: u64, queue: usize) -> Result<u64> {
    let mut past = Past {
        cluster: Cluster::new(Policy::default()),
        now: Timestamp(1_700_000_000_000_000),
        rng: Rng::keyed(1, "bench", 0),
        store: store::open(&home.join("state.db"))?,
        batch: Batch::default(),
        events: 0,
    };
    past.tell(Command::Start)?;
    let manifest = Box::new(serde_json::from_value(server::manifest())?);
    past.tell(Command::RegisterDataset { url: URL.into(), digest: Digest::of(b"bench"), manifest })?;
    for n in 0..WORKERS {
        let hello = Hello {
            worker: agents::worker(n),
            incarnation: "past".into(),
            process: "past".into(),
            before: Vec::new(),
            host: "127.0.0.1".into(),
            slots: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            live: Vec::new(),
            cached: BTreeSet::new(),
            labels: Default::default(),
            memory: 0,
            certificate: String::new(),
        };
        past.tell(Command::Hello(Box::new(hello)))?;
    }
    let mut n = 0;
    while past.events < events {
        past.life(n, URL)?;
        n += 1;
    }
    for n in 0..queue {
        past.submit(&format!("queued-{n}"), URL)?;
    }
    let rest = std::mem::take(&mut past.batch);
    past.store.commit(&rest)?;
    Ok(n)
}

pub async fn measure(cli: &Cli) -> Result<Vec<Figure>> {
    let home = tempfile::tempdir()?;
    let start = Instant::now();
    let runs = write(home.path(), cli.events, 0)?;
    let each = start.elapsed().as_secs_f64() * 1e6 / cli.events as f64;
    let mut figures = vec![Figure::new("one event decided, folded and written (in process)", each, "µs")];
    let size = std::fs::metadata(home.path().join("state.db"))?.len();
    figures.push(Figure::new(format!("database of {} events, {runs} runs", cli.events), size as f64 / 1e6, "MB"));
    let copy = home.path().join("snapshot.jsonl");
    for _ in 0..2 {
        let which = if copy.exists() { "from a snapshot" } else { "from all events" };
        let (server, took) = Server::start(&cli.coordinator, home.path(), None)?;
        let what = format!("a start with {} events, {which}", cli.events);
        figures.push(Figure::new(what, took.as_secs_f64(), "s").bar(Bar::AtMost(5.0)));
        figures.push(Figure::new("  memory then", server.memory()?, "MB"));
        let mut client = server.client().await?;
        let start = Instant::now();
        client.list_workers(ListWorkersRequest {}).await?;
        figures.push(Figure::new("  first answer", start.elapsed().as_secs_f64() * 1e3, "ms"));
        // It is taken beside the work, when there are enough events for one.
        while !copy.exists() && start.elapsed().as_secs() < 60 && cli.events >= 100_000 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    if let Ok(copy) = std::fs::metadata(&copy) {
        figures.push(Figure::new("  that snapshot", copy.len() as f64 / 1e6, "MB"));
    }
    figures.extend(queued(cli).await?);
    Ok(figures)
}

/// A queue that nobody will ever empty, and then somebody does.
async fn queued(cli: &Cli) -> Result<Vec<Figure>> {
    let home = tempfile::tempdir()?;
    write(home.path(), 0, cli.queue)?;
    let (server, took) = Server::start(&cli.coordinator, home.path(), None)?;
    let mut figures = vec![Figure::new(format!("start with {} runs in the queue", cli.queue), took.as_secs_f64(), "s")];
    let experiment = server::experiment(&server::dataset(home.path())?).to_string();
    let mut client = server.client().await?;
    let mut took = Vec::new();
    for n in 0..100 {
        let start = Instant::now();
        submit(&mut client, &experiment, format!("new-{n}")).await?;
        took.push(start.elapsed());
    }
    figures.push(Figure::new("  submit one more, p99", percentile(&mut took, 0.99), "ms"));
    let mut reader = server.client().await?;
    let listing = tokio::spawn(async move {
        let start = Instant::now();
        let (mut request, mut runs) = (ListRunsRequest::default(), 0);
        loop {
            let page = reader.list_runs(request.clone()).await?.into_inner();
            runs += page.runs.len();
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return anyhow::Ok((runs, start.elapsed()));
            }
        }
    });
    let mut took = Vec::new();
    while !listing.is_finished() {
        let start = Instant::now();
        submit(&mut client, &experiment, format!("beside-{}", took.len())).await?;
        took.push(start.elapsed());
    }
    let (runs, all) = listing.await??;
    figures.push(Figure::new(format!("  a list of all {runs}"), all.as_secs_f64(), "s"));
    figures.push(Figure::new("  submit one more meanwhile, p99", percentile(&mut took, 0.99), "ms"));
    let cpu = server.cpu()?;
    let start = Instant::now();
    let floor = agents::gather(&server, 100, 1).await?;
    while floor.seen().ended < 1000 && start.elapsed().as_secs() < 120 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let ended = floor.seen().ended.max(1) as f64;
    figures.push(Figure::new("  a run's life then, wall", start.elapsed().as_secs_f64() * 1e3 / ended, "ms"));
    let cpu = (server.cpu()? - cpu).as_secs_f64() * 1e3 / ended;
    figures.push(Figure::new("  a run's life then, the coordinator's processor time", cpu, "ms"));
    figures.push(Figure::new("  memory then", server.memory()?, "MB"));
    Ok(figures)
}

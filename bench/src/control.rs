//! A cluster at work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use morph_proto::v1::{
    self, Fence, Hello, Report, SessionRequest, agents_client::AgentsClient, coordinator_client::CoordinatorClient,
    session_request::Message, session_response::Message as Order,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    Bar, Cli, Figure,
    agents::{self, Conduct, Floor, gather, points},
    server::{self, Server},
};

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// Clients that submit at a time.
const CLIENTS: usize = 16;

/// Percentile `p` of `all`, in milliseconds.
pub fn percentile(all: &mut [Duration], p: f64) -> f64 {
    all.sort_unstable();
    let at = ((all.len() as f64 * p).ceil() as usize).clamp(1, all.len().max(1)) - 1;
    all.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

pub async fn submit(client: &mut CoordinatorClient<Channel>, experiment: &str, key: String) -> Result<String> {
    let request = v1::SubmitRunRequest {
        name: key.clone(),
        key,
        experiment_json: experiment.to_owned(),
        ..v1::SubmitRunRequest::default()
    };
    Ok(client.submit_run(request).await?.into_inner().run.context("a run")?.id)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < PATIENCE, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

pub async fn measure(cli: &Cli) -> Result<Vec<Figure>> {
    let home = tempfile::tempdir()?;
    let experiment = server::experiment(&server::dataset(home.path())?).to_string();
    let (server, _) = Server::start(&cli.coordinator, home.path(), cli.database.as_deref())?;
    let floor = gather(&server, cli.agents, 1).await?;
    let mut client = server.client().await?;
    // The dataset is registered by the first.
    submit(&mut client, &experiment, "first".into()).await?;
    until("the first run", || floor.seen().ended == 1).await?;

    let mut figures = vec![idle(cli, &server).await?];
    figures.extend(placed(cli, &mut client, &experiment, &floor).await?);
    figures.extend(lives(cli, &server, &experiment, &floor).await?);
    figures.push(stops(&mut client, &experiment, &floor).await?);
    figures.push(metrics(cli, &server, &mut client, &experiment, &floor).await?);
    if cli.database.is_none() {
        let database = std::fs::metadata(home.path().join("state.db"))?.len();
        figures.push(Figure::new("database after all this", database as f64 / 1e6, "MB"));
    }
    Ok(figures)
}

async fn idle(cli: &Cli, server: &Server) -> Result<Figure> {
    let (before, start) = (server.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let share = (server.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    Ok(Figure::new(format!("one core, {} agents that only live", cli.agents), share, "%"))
}

/// From the submission to the start order at the agent, one run at a time and then many.
async fn placed(
    cli: &Cli,
    client: &mut CoordinatorClient<Channel>,
    experiment: &str,
    floor: &Floor,
) -> Result<Vec<Figure>> {
    let mut took = Vec::new();
    for n in 0..300 {
        let start = Instant::now();
        let run = submit(client, experiment, format!("placed-{n}")).await?;
        until("a run to be placed", || floor.seen().started.contains_key(&run)).await?;
        let at = floor.seen().started[&run];
        took.push(at - start);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let (p50, p99) = (percentile(&mut took, 0.5), percentile(&mut took, 0.99));
    let what = |p| format!("submit to placed, {} agents, {p}", cli.agents);
    Ok(vec![Figure::new(what("p50"), p50, "ms"), Figure::new(what("p99"), p99, "ms").bar(Bar::AtMost(50.0))])
}

/// Whole trivial lives, as many at a time as there are agents.
async fn lives(cli: &Cli, server: &Server, experiment: &str, floor: &Arc<Floor>) -> Result<Vec<Figure>> {
    let (ended, cpu, start) = (floor.seen().ended, server.cpu()?, Instant::now());
    let mut clients = JoinSet::new();
    for c in 0..CLIENTS {
        let (mut client, experiment, runs) = (server.client().await?, experiment.to_owned(), cli.runs);
        clients.spawn(async move {
            for n in (c..runs).step_by(CLIENTS) {
                submit(&mut client, &experiment, format!("life-{n}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    until("all runs to end", || floor.seen().ended >= ended + cli.runs).await?;
    let (wall, cpu) = (start.elapsed(), server.cpu()? - cpu);
    let each = |d: Duration| d.as_secs_f64() * 1e3 / cli.runs as f64;
    Ok(vec![
        Figure::new("the coordinator's processor time for a run's life", each(cpu), "ms").bar(Bar::AtMost(1.0)),
        Figure::new(format!("{} runs' lives, {CLIENTS} clients, each", cli.runs), each(wall), "ms"),
        Figure::new(format!("memory after {} runs", cli.runs + 301), server.memory()?, "MB").bar(Bar::AtMost(200.0)),
    ])
}

/// From the wish to cancel to the stop order at the agent.
async fn stops(client: &mut CoordinatorClient<Channel>, experiment: &str, floor: &Floor) -> Result<Figure> {
    floor.conduct(Conduct::Hold);
    let mut took = Vec::new();
    for n in 0..200 {
        let run = submit(client, experiment, format!("stopped-{n}")).await?;
        until("a run to start", || floor.seen().started.contains_key(&run)).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        client.cancel(v1::CancelRequest { id: run.clone() }).await?;
        until("a run to be stopped", || floor.seen().stopped.contains_key(&run)).await?;
        took.push(floor.seen().stopped[&run] - start);
    }
    Ok(Figure::new("a stop order at the agent, p99", percentile(&mut took, 0.99), "ms").bar(Bar::AtMost(100.0)))
}

/// Points of metrics that are durable, from one agent with one run.
async fn metrics(
    cli: &Cli,
    server: &Server,
    client: &mut CoordinatorClient<Channel>,
    experiment: &str,
    floor: &Floor,
) -> Result<Figure> {
    const AT_ONCE: u64 = 512;
    const SECONDS: u64 = 5;
    // Nobody else has a slot with this label.
    let mut picky: serde_json::Value = serde_json::from_str(experiment)?;
    picky["scheduling"] = serde_json::json!({"nodes": {"bench": "metrics"}});
    let (requests, outgoing) = mpsc::channel::<SessionRequest>(64);
    let hello = Hello {
        worker: agents::worker(cli.agents + 1).to_string(),
        incarnation: "bench".into(),
        host: "127.0.0.1".into(),
        slots: 1,
        version: env!("CARGO_PKG_VERSION").into(),
        labels: [("bench".to_owned(), "metrics".to_owned())].into(),
        ..Hello::default()
    };
    requests.send(SessionRequest { message: Some(Message::Hello(hello)) }).await?;
    let mut orders =
        AgentsClient::new(server.connect().await?).session(ReceiverStream::new(outgoing)).await?.into_inner();
    let run = submit(client, &picky.to_string(), "metrics".into()).await?;
    let fence = loop {
        let order = orders.message().await?.context("the session ended")?.message;
        if let Some(Order::Start(start)) = order {
            break start.fence.context("a fence")?;
        }
    };
    ensure!(fence.run == run && floor.seen().started.len() > 1, "another run was started");
    let sender = tokio::spawn(async move {
        let mut seq = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(SECONDS) {
            let fence = Fence { run: fence.run.clone(), attempt: fence.attempt };
            let report = Report { seq: seq + 1, report: Some(points(&fence, seq * AT_ONCE, AT_ONCE)) };
            if requests.send(SessionRequest { message: Some(Message::Report(report)) }).await.is_err() {
                break;
            }
            seq += 1;
        }
        // The session stays until all is acknowledged.
        (seq, requests)
    });
    let start = Instant::now();
    let (mut acked, mut last) = (0, None);
    let wall = loop {
        if let Some(Order::Ack(ack)) = orders.message().await?.context("the session ended")?.message {
            acked = ack.seq;
        }
        if last.is_none() && sender.is_finished() {
            last = Some(acked);
        }
        if start.elapsed() > Duration::from_secs(SECONDS) {
            break start.elapsed();
        }
    };
    drop(sender);
    let rate = (acked * AT_ONCE) as f64 / wall.as_secs_f64();
    Ok(Figure::new("points of metrics that are durable", rate, "/s").bar(Bar::AtLeast(20_000.0)))
}

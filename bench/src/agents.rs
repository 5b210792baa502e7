//! Agents that do all but train.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use morph_proto::v1::{
    self, Fence, Heartbeat, Hello, Report, SessionRequest, agents_client::AgentsClient, report::Report as Said,
    session_request::Message, session_response::Message as Order,
};
use morph_spec::{Rng, Timestamp, WorkerId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What agents do with a rank that they are told to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// All that a run says in its life, and at once.
    Finish,
    /// It runs until it is told to stop.
    Hold,
}

/// What happened, and when.
#[derive(Debug, Default)]
pub struct Seen {
    /// Runs whose start was ordered.
    pub started: HashMap<String, Instant>,
    /// Runs whose stop was ordered.
    pub stopped: HashMap<String, Instant>,
    /// Runs of which all that was said is durable.
    pub ended: usize,
}

/// Shared by all agents.
#[derive(Debug)]
pub struct Floor {
    seen: Mutex<Seen>,
    conduct: Mutex<Conduct>,
}

impl Floor {
    /// What was seen, to look at or change.
    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on agents do this.
    pub fn conduct(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap_or_else(PoisonError::into_inner) = conduct;
    }
}

struct Agent {
    requests: mpsc::Sender<SessionRequest>,
    seq: u64,
    floor: Arc<Floor>,
    /// Numbers of the last reports of runs, until they are acknowledged.
    last: Vec<u64>,
}

/// An agent's id.
pub fn worker(n: usize) -> WorkerId {
    WorkerId::new(Timestamp(n as u64), &mut Rng::keyed(n as u64, "bench", 0))
}

/// `count` agents with `slots` slots each, all connected when this returns, a few to a connection.
///
/// # Errors
/// When one is not let in.
pub async fn gather(server: &super::server::Server, count: usize, slots: u32) -> Result<Arc<Floor>> {
    let floor = Arc::new(Floor { seen: Mutex::default(), conduct: Mutex::new(Conduct::Finish) });
    let mut channel = server.connect().await?;
    for n in 0..count {
        if n % 16 == 15 {
            channel = server.connect().await?;
        }
        connect(channel.clone(), n, slots, floor.clone()).await?;
    }
    Ok(floor)
}

async fn connect(channel: Channel, n: usize, slots: u32, floor: Arc<Floor>) -> Result<()> {
    let (requests, outgoing) = mpsc::channel(256);
    let hello = Hello {
        worker: worker(n).to_string(),
        incarnation: "bench".into(),
        host: "127.0.0.1".into(),
        slots,
        version: env!("CARGO_PKG_VERSION").into(),
        ..Hello::default()
    };
    requests.send(SessionRequest { message: Some(Message::Hello(hello)) }).await?;
    let mut client = AgentsClient::new(channel);
    let mut orders = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    let welcome = orders.message().await?.context("the session ended")?;
    anyhow::ensure!(matches!(welcome.message, Some(Order::Welcome(_))), "not welcome: {welcome:?}");
    let beats = requests.clone();
    tokio::spawn(async move {
        // As real agents: twice in the time that they are asked for. Not all at the same moment.
        tokio::time::sleep(Duration::from_millis(n as u64 * 7 % 2500)).await;
        let beat = || SessionRequest { message: Some(Message::Heartbeat(Heartbeat { at: 0 })) };
        while beats.send(beat()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
    });
    tokio::spawn(async move {
        let mut agent = Agent { requests, seq: 0, floor, last: Vec::new() };
        while let Ok(Some(order)) = orders.message().await {
            if agent.obey(order.message).await.is_none() {
                break;
            }
        }
    });
    Ok(())
}

impl Agent {
    async fn say(&mut self, report: Said) -> Option<()> {
        self.seq += 1;
        let report = Report { seq: self.seq, report: Some(report) };
        self.requests.send(SessionRequest { message: Some(Message::Report(report)) }).await.ok()
    }

    async fn obey(&mut self, order: Option<Order>) -> Option<()> {
        match order? {
            Order::Ack(ack) => {
                let before = self.last.len();
                self.last.retain(|seq| *seq > ack.seq);
                self.floor.seen().ended += before - self.last.len();
            }
            Order::Start(start) => {
                let fence = start.fence?;
                self.floor.seen().started.insert(fence.run.clone(), Instant::now());
                let conduct = *self.floor.conduct.lock().unwrap_or_else(PoisonError::into_inner);
                self.begin(&fence).await?;
                if conduct == Conduct::Finish {
                    self.finish(&fence).await?;
                }
            }
            Order::Stop(stop) => {
                let fence = stop.fence?;
                self.floor.seen().stopped.insert(fence.run.clone(), Instant::now());
                self.end(&fence, v1::Exit::Stopped).await?;
            }
            _ => {}
        }
        Some(())
    }

    async fn begin(&mut self, fence: &Fence) -> Option<()> {
        let fence = Some(fence.clone());
        self.say(Said::Store(v1::StoreReady { fence: fence.clone(), address: "127.0.0.1:1".into() })).await?;
        self.say(Said::Ready(v1::RankReady { fence, rank: 0, step: 0, total_steps: 100, cached: Vec::new() })).await
    }

    async fn finish(&mut self, fence: &Fence) -> Option<()> {
        self.say(points(fence, 0, 50)).await?;
        let scores = v1::Evaluated {
            fence: Some(fence.clone()),
            summary: [("opacity/auroc".to_owned(), 0.8)].into(),
            summary_json: "{}".into(),
            artifacts: Vec::new(),
        };
        self.say(Said::Evaluated(scores)).await?;
        self.end(fence, v1::Exit::Succeeded).await
    }

    async fn end(&mut self, fence: &Fence, exit: v1::Exit) -> Option<()> {
        let exited = v1::RankExited { fence: Some(fence.clone()), exit: exit.into(), ..v1::RankExited::default() };
        self.last.push(self.seq + 1);
        self.say(Said::Exited(exited)).await
    }
}

/// `count` values of one metric, from `step` on.
pub fn points(fence: &Fence, step: u64, count: u64) -> Said {
    let point = |step| v1::MetricPoint { step, at: 1, name: "train/loss".into(), value: 0.5 };
    Said::Metrics(v1::Metrics { fence: Some(fence.clone()), points: (step..step + count).map(point).collect() })
}

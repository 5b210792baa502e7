//! The story of a run, of a sweep or of all, from the event log.

use std::collections::BTreeMap;

use morph_control::Target;
use morph_proto::v1;
use morph_spec::{RunId, SweepId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answer, Coordinator, Feed};
use crate::{
    auth::Principal,
    store::{Page, Recorded},
    view::View,
};

/// Events sent at a time to who follows.
const SOME: u32 = 1000;
/// Events of a page, at most.
const MOST: u32 = 10_000;
/// Bytes that the events of a page have, about: an event is no larger than what was submitted.
const LARGEST: u32 = 4 << 20;

/// Names of what events are about.
#[derive(Default)]
struct Names {
    runs: BTreeMap<RunId, String>,
    sweeps: BTreeMap<SweepId, String>,
}

impl Coordinator {
    /// Answers `Events`.
    pub(super) async fn history(&self, request: Request<v1::EventsRequest>) -> Answer<v1::EventsResponse> {
        let who = Principal::of(&request)?;
        let v1::EventsRequest { id, after, since, limit } = request.into_inner();
        let of = self.whose(&who, id).await?;
        let limit = if limit == 0 { MOST } else { limit.min(MOST) };
        let events = self.page(of, Page { after, since, limit, bytes: LARGEST }).await?;
        Ok(Response::new(v1::EventsResponse { events }))
    }

    /// Answers `FollowEvents`.
    pub(super) async fn follow(
        &self,
        request: Request<v1::FollowEventsRequest>,
    ) -> Answer<Feed<v1::FollowEventsResponse>> {
        let who = Principal::of(&request)?;
        let v1::FollowEventsRequest { id, after, since } = request.into_inner();
        let of = self.whose(&who, id).await?;
        let (sender, stream) = mpsc::channel(4);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this.tell(of, Page { after, since, limit: SOME, bytes: LARGEST }, &sender).await {
                // Whoever followed may have gone away.
                sender.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    /// Sends events as they come, until `of` has ended or nobody listens.
    async fn tell(
        &self,
        of: Option<Target>,
        mut page: Page,
        to: &mpsc::Sender<Result<v1::FollowEventsResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changes = self.core.changes();
        loop {
            changes.mark_unchanged();
            // Asked before the events are read, so that none that came before the end is missed.
            let over = self.core.ask(move |v| is_over(v, of)).await?;
            loop {
                let events = self.page(of, page).await?;
                let Some(last) = events.last() else { break };
                page.after = last.seq;
                if to.send(Ok(v1::FollowEventsResponse { events })).await.is_err() {
                    return Ok(());
                }
            }
            if over {
                return Ok(());
            }
            if !self.changed(&mut changes, to).await? {
                return Ok(());
            }
        }
    }

    /// What `text` means, if it is something that `who` may see; empty: all.
    async fn whose(&self, who: &Principal, text: String) -> Result<Option<Target>, Status> {
        match (text.is_empty(), &who.project) {
            (false, _) => Ok(Some(self.theirs(who, text).await?)),
            (true, None) => Ok(None),
            (true, Some(project)) => {
                let why = format!("the token {} is for project {project}: name a run or sweep of it", who.name);
                Err(Status::permission_denied(why))
            }
        }
    }

    async fn page(&self, of: Option<Target>, page: Page) -> Result<Vec<v1::Event>, Status> {
        if !self.database.exists() {
            // A home where nothing has run.
            return Ok(Vec::new());
        }
        let recorded = self.read(move |s| s.history(of, page)).await?;
        let runs: Vec<RunId> = recorded.iter().filter_map(|r| r.event.run()).collect();
        let sweeps: Vec<SweepId> = recorded.iter().filter_map(|r| r.event.sweep()).collect();
        let names = self.core.ask(move |v| names(v, &runs, &sweeps)).await?;
        Ok(recorded.into_iter().map(|r| event(r, &names)).collect())
    }
}

/// Whether nothing more will happen to `of`. Where nobody serves nothing happens at all.
fn is_over(view: &View<'_>, of: Option<Target>) -> bool {
    let ended = match of {
        None => false,
        // A run that failed or was cancelled may be tried again; who follows it has seen its end.
        Some(Target::Run(id)) => view.cluster.runs.get(&id).is_none_or(morph_control::Run::is_over),
        Some(Target::Sweep(id)) => view.cluster.sweeps.get(&id).is_none_or(|s| s.end.is_some()),
    };
    ended || view.read_only
}

fn names(view: &View<'_>, runs: &[RunId], sweeps: &[SweepId]) -> Names {
    let run = |id: &RunId| Some((*id, view.cluster.runs.get(id)?.name.clone()));
    let sweep = |id: &SweepId| Some((*id, view.cluster.sweeps.get(id)?.name.clone()));
    Names { runs: runs.iter().filter_map(run).collect(), sweeps: sweeps.iter().filter_map(sweep).collect() }
}

fn event(recorded: Recorded, names: &Names) -> v1::Event {
    let Recorded { seq, event } = recorded;
    let run = event.run().and_then(|id| names.runs.get(&id));
    let name = run.or_else(|| event.sweep().and_then(|id| names.sweeps.get(&id)));
    v1::Event {
        seq,
        at: event.at.0,
        kind: event.kind().into(),
        text: event.text(),
        name: name.cloned().unwrap_or_default(),
        json: serde_json::to_string(&event).expect("invariant: documents are JSON"),
    }
}

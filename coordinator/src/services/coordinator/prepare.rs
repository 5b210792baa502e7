//! Datasets that agents prepare while somebody listens.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use morph_control::leases::{Cursor, News, Request};
use morph_proto::v1;
use morph_spec::{Dataset, Digest};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Answer, Coordinator, Feed, PACE, document, stopping};
use crate::core::{
    Message,
    preparing::{Preparing, What},
    status,
};

/// Most shards of a request: a thousand million images.
const MOST_SHARDS: usize = 1 << 20;
/// Longest name of a shard, in bytes.
const LONGEST_NAME: usize = 64;
/// How often something is said although nothing has changed.
const BEAT: Duration = Duration::from_secs(1);

static FOLLOWERS: AtomicU64 = AtomicU64::new(1);

type Sender = mpsc::Sender<Result<v1::PrepareResponse, Status>>;

impl Coordinator {
    /// Has shards made as long as the caller listens.
    pub(super) async fn prepared(&self, asked: v1::PrepareRequest) -> Answer<Feed<v1::PrepareResponse>> {
        let request = parsed(asked)?;
        let dataset: Dataset = document("dataset", &request.what.dataset_json)?;
        dataset.validate().map_err(|problems| {
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Status::invalid_argument(format!("dataset: {}", said.join("; ")))
        })?;
        for (field, place) in dataset.places(&request.what.folder) {
            let refused = |e| Status::invalid_argument(format!("{field}: {e}"));
            self.urls.check(&place).await.map_err(refused)?;
        }
        let (sender, stream) = mpsc::channel(4);
        let this = self.clone();
        // In a task of its own from the first word on: who joins also leaves, whatever becomes of the caller.
        tokio::spawn(async move {
            let (follower, key) = (FOLLOWERS.fetch_add(1, Ordering::Relaxed), request.key);
            if let Err(status) = this.follow_preparation(follower, request, &sender).await {
                // Whoever listened may have gone away.
                sender.send(Err(status)).await.ok();
            }
            // Without a loop there is nobody to tell.
            this.core.send(Message::Preparing(Box::new(Preparing::Leave { follower, key }))).await.ok();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    /// Tells what becomes of it, until it is over or nobody listens.
    async fn follow_preparation(&self, follower: u64, request: Request<What>, to: &Sender) -> Result<(), Status> {
        let (key, (reply, answer)) = (request.key, oneshot::channel());
        self.core.send(Message::Preparing(Box::new(Preparing::Join { follower, request, reply }))).await?;
        answer.await.map_err(|_| stopping())?.map_err(status)?;
        let mut changes = self.core.changes();
        let mut cursor = Cursor::default();
        loop {
            changes.mark_unchanged();
            let news = self.core.ask(move |v| v.leases.news(&key, cursor)).await?;
            let news = news.ok_or_else(|| Status::internal("a preparation was forgotten; this is a bug of morph"))?;
            cursor = news.cursor;
            let end = news.end.clone();
            if to.send(Ok(response(news))).await.is_err() {
                return Ok(());
            }
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err(cause)) => return Err(Status::failed_precondition(cause)),
                None => {}
            }
            tokio::select! {
                // The loop has ended: the next question says so.
                _ = changes.changed() => {}
                () = tokio::time::sleep(BEAT) => {}
                () = to.closed() => return Ok(()),
                () = self.stop.cancelled() => return Err(stopping()),
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn parsed(asked: v1::PrepareRequest) -> Result<Request<What>, Status> {
    let bad = |why: String| Status::invalid_argument(why);
    let v1::PrepareRequest { key, dataset_json, folder, shards, workers, jobs, memory } = asked;
    let key: Digest = key.parse().map_err(|e| bad(format!("key: {e}")))?;
    if !Path::new(&folder).is_absolute() {
        return Err(bad(format!("folder: {folder:?} is no absolute path")));
    }
    if workers == 0 {
        return Err(bad("workers: at least one must make shards".into()));
    }
    if shards.is_empty() || shards.len() > MOST_SHARDS {
        return Err(bad(format!("shards: {}, there must be 1 to {MOST_SHARDS}", shards.len())));
    }
    let mut names = BTreeSet::new();
    for shard in &shards {
        if shard.name.is_empty() || shard.name.len() > LONGEST_NAME || !names.insert(&shard.name) {
            return Err(bad(format!("shards: {:?} is no name, or comes twice", shard.name)));
        }
    }
    let shards = shards.into_iter().map(|shard| (shard.name, shard.images)).collect();
    Ok(Request { key, what: What { dataset_json, folder, jobs, memory }, shards, workers })
}

fn response(news: News) -> v1::PrepareResponse {
    let News { cursor: _, done, notes, images, working, waiting, end } = news;
    v1::PrepareResponse { images, made: done, notes, working: working as u32, waiting, over: end == Some(Ok(())) }
}

//! Datasets that are being prepared, beside runs: [`morph_control::leases`] decides, and this turns its orders into messages. Nothing
//! of it is recorded.

use std::collections::BTreeMap;

use morph_control::{
    Refusal, WorkerState,
    leases::{Order, Request, Said},
};
use morph_proto::v1::{self, session_response};
use morph_spec::{Digest, WorkerId};
use tokio::sync::oneshot;

use super::Loop;

/// What agents have to know of a preparation.
#[derive(Debug, Clone)]
pub struct What {
    /// The dataset.
    pub dataset_json: String,
    /// Where relative paths in it start.
    pub folder: String,
    /// Images decoded at a time.
    pub jobs: u32,
    /// Bytes that this may take.
    pub memory: u64,
}

impl PartialEq for What {
    /// How it is made is not what is made: who joins in takes it as it is.
    fn eq(&self, other: &Self) -> bool {
        (&self.dataset_json, &self.folder) == (&other.dataset_json, &other.folder)
    }
}

/// What comes in about preparations.
#[derive(Debug)]
pub enum Preparing {
    /// Somebody wants one, and follows it.
    Join {
        /// Who.
        follower: u64,
        /// What.
        request: Request<What>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Somebody follows no longer.
    Leave {
        /// Who.
        follower: u64,
        /// What.
        key: Digest,
    },
    /// An agent reports.
    Said {
        /// Who.
        worker: WorkerId,
        /// In which session.
        session: u64,
        /// Of which preparation.
        key: Digest,
        /// Of which shard.
        shard: String,
        /// What.
        said: Said,
        /// Lines for people.
        notes: Vec<String>,
    },
}

impl Loop {
    /// Takes in what is said about preparations.
    pub(super) fn preparing(&mut self, message: Preparing) {
        self.is_changed = true;
        let orders = match message {
            Preparing::Join { follower, request, reply } => {
                let joined = self.may_decide().and_then(|()| self.leases.join(follower, request));
                // Whoever asked may have gone away; then it leaves, too.
                drop(reply.send(joined));
                Vec::new()
            }
            Preparing::Leave { follower, key } => self.leases.leave(key, follower),
            Preparing::Said { worker, session, key, shard, said, notes } => {
                if self.sessions.get(&worker).is_none_or(|s| s.id != session) {
                    return;
                }
                self.last_seen.insert(worker, self.now);
                let host = self.cluster.workers.get(&worker).map(|w| w.host.clone()).unwrap_or_default();
                self.leases.said(worker, &host, (key, &shard), said, notes, self.now)
            }
        };
        self.pass(orders);
    }

    /// Leases shards to agents that may get new work.
    pub(super) fn lease(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let workers = self.sessions.keys().filter_map(|id| self.cluster.workers.get(id));
        let able = workers.filter(|w| w.state == WorkerState::Ready && !w.leaving && w.cordoned.is_none());
        let able: BTreeMap<WorkerId, u32> =
            able.map(|w| (w.id, w.slots.saturating_sub(self.cluster.idle(w.id)))).collect();
        let orders = self.leases.turn(&able, self.now);
        self.is_changed |= !orders.is_empty();
        self.pass(orders);
    }

    fn pass(&mut self, orders: Vec<Order>) {
        for order in orders {
            let (worker, message) = match order {
                Order::Make { worker, key, shard } => {
                    let Some(What { dataset_json, folder, jobs, memory }) = self.leases.what(&key).cloned() else {
                        continue;
                    };
                    tracing::info!(%worker, %key, shard, "a shard is to be made");
                    let key = key.to_string();
                    let make = v1::MakeShard { key, dataset_json, folder, shard, jobs, memory };
                    (worker, session_response::Message::MakeShard(make))
                }
                Order::Stop { worker, key, reason } => {
                    tracing::info!(%worker, %key, reason, "a preparation stops");
                    let stop = v1::StopShards { key: key.to_string(), reason };
                    (worker, session_response::Message::StopShards(stop))
                }
            };
            self.say(worker, message);
        }
    }
}

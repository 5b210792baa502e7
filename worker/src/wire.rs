//! What an agent and its ranks say to each other: one JSON object a line, orders on the rank's stdin, events on its
//! stdout. A rank speaks to nobody else, so that it needs no connection to the coordinator and no retries of its own.

use std::collections::BTreeMap;

use morph_proto::v1;
use morph_spec::Digest;
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// Agent → rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The first order, once: what to train. `start_rank` is the protobuf message `morph.v1.StartRank` in hex.
    Start {
        /// See [`Order::start`].
        start_rank: String,
    },
    /// Where rank 0 serves the process group's store, `host:port`.
    Rendezvous {
        /// `host:port`.
        address: String,
    },
    /// Finish the step, save a checkpoint and exit.
    Stop {
        /// For the log.
        reason: String,
    },
    /// The coordinator has recorded the checkpoint of `step`.
    CheckpointAck {
        /// Optimizer steps of that checkpoint.
        step: u64,
    },
}

impl Order {
    /// The start order for `start`.
    pub fn start(start: &v1::StartRank) -> Self {
        Self::Start { start_rank: hex::encode(start.encode_to_vec()) }
    }
}

/// Reads what [`Order::start`] wrote.
///
/// # Errors
/// When it is not hex or not a `StartRank`.
pub fn decode_start(start_rank: &str) -> Result<v1::StartRank, String> {
    let bytes = hex::decode(start_rank).map_err(|e| format!("read the start order: {e}"))?;
    v1::StartRank::decode(bytes.as_slice()).map_err(|e| format!("read the start order: {e}"))
}

/// Why a rank ends; `morph.v1.Exit` without its unspecified value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Trained to its end and evaluated.
    Succeeded,
    /// Saved and stopped as ordered.
    Stopped,
    /// A collective failed: another rank is to blame.
    PeerLost,
    /// Wrong configuration or data: trying again is no use.
    User,
    /// Storage, disk or network: trying again may help.
    Infra,
    /// Memory, device: trying again may help, but hardly for ever.
    Crashed,
    /// The checkpoint to go on from is not there, or damaged: the one before may be good.
    NoCheckpoint,
}

/// One value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Optimizer steps taken.
    pub step: u64,
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// `train/loss`, `val/score`, …
    pub name: String,
    /// Finite.
    pub value: f64,
}

/// A checkpoint that is complete in the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// URL of its manifest.
    pub url: String,
    /// BLAKE3 of the manifest, hex.
    pub digest: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u32,
    /// Size of all its files.
    pub bytes: u64,
    /// Validation score of the last finished epoch, when this was saved at the end of one.
    pub score: Option<f64>,
    /// Whether that score is the best so far.
    pub best: bool,
    /// When it was complete, microseconds since the Unix epoch.
    pub at: u64,
}

/// Rank → agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Rank 0 serves the store at `address`.
    StoreReady {
        /// `host:port`.
        address: String,
    },
    /// The rank joined the process group and begins at `step`.
    Ready {
        /// Optimizer steps taken before.
        step: u64,
        /// Steps of the whole training, should it not stop early.
        total_steps: u64,
        /// Datasets in the node's cache, its own among them.
        cached: Vec<Digest>,
    },
    /// How far training is.
    Progress {
        /// Optimizer steps taken.
        step: u64,
        /// Epochs finished.
        epoch: u32,
        /// As in `Ready`.
        total_steps: u64,
        /// Over all ranks, since the last progress.
        images_per_second: f64,
    },
    /// Values of metrics.
    Metrics {
        /// In the order in which they came to be.
        points: Vec<Point>,
    },
    /// A checkpoint is complete.
    Checkpoint(Committed),
    /// The scores.
    Evaluated {
        /// `opacity/auroc`, `val/score`, …
        summary: BTreeMap<String, f64>,
        /// The whole report as JSON.
        report: String,
        /// URLs of what was written.
        artifacts: Vec<String>,
    },
    /// The last event: how the process is about to end.
    Exiting {
        /// The verdict.
        exit: Exit,
        /// One line; empty when all is well.
        error: String,
    },
}

impl Event {
    /// The report that tells the coordinator.
    ///
    /// # Errors
    /// The verdict of an exit: that is for the agent, who reports what the kernel says beside it.
    pub fn report(self, fence: &v1::Fence, rank: u32) -> Result<v1::report::Report, (Exit, String)> {
        use v1::report::Report;
        let fence = Some(fence.clone());
        Ok(match self {
            Self::StoreReady { address } => Report::Store(v1::StoreReady { fence, address }),
            Self::Ready { step, total_steps, cached } => {
                let cached = cached.iter().map(ToString::to_string).collect();
                Report::Ready(v1::RankReady { fence, rank, step, total_steps, cached })
            }
            Self::Progress { step, epoch, total_steps, images_per_second } => {
                Report::Progress(v1::Progress { fence, step, epoch, total_steps, images_per_second })
            }
            Self::Metrics { points } => Report::Metrics(v1::Metrics {
                fence,
                points: points
                    .into_iter()
                    .map(|p| v1::MetricPoint { step: p.step, at: p.at, name: p.name, value: p.value })
                    .collect(),
            }),
            Self::Checkpoint(c) => {
                let attempt = fence.as_ref().map_or(0, |f| f.attempt);
                Report::Checkpoint(v1::CheckpointCommitted {
                    fence,
                    checkpoint: Some(v1::Checkpoint {
                        url: c.url,
                        digest: c.digest,
                        step: c.step,
                        epoch: c.epoch,
                        attempt,
                        bytes: c.bytes,
                        score: c.score,
                        best: c.best,
                        at: c.at,
                    }),
                })
            }
            Self::Evaluated { summary, report, artifacts } => Report::Evaluated(v1::Evaluated {
                fence,
                summary: summary.into_iter().collect(),
                summary_json: report,
                artifacts,
            }),
            Self::Exiting { exit, error } => return Err((exit, error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_order_survives_the_line() {
        let start = v1::StartRank { rank: 3, world_size: 4, run_name: "a\nb".into(), ..v1::StartRank::default() };
        let line = serde_json::to_string(&Order::start(&start)).unwrap();
        assert!(!line.contains('\n'));
        let Order::Start { start_rank } = serde_json::from_str(&line).unwrap() else { panic!("another order: {line}") };
        assert_eq!(decode_start(&start_rank).unwrap(), start);
        assert!(decode_start("zz").unwrap_err().contains("start order"));
    }

    #[test]
    fn metric_values_keep_their_bits() {
        for bits in [0x3fb9_9999_9999_999a_u64, 0x3fe5_5555_5555_5555, 1, 0x7fef_ffff_ffff_ffff] {
            let value = f64::from_bits(bits);
            let event = Event::Metrics { points: vec![Point { step: 1, at: 2, name: "train/loss".into(), value }] };
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
        }
    }
}

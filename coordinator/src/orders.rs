//! The core's orders in the words of the wire.

use morph_control::{Cluster, Effect};
use morph_proto::v1::{self, session_response::Message};
use morph_spec::Fence;

use crate::view;

fn fence(fence: Fence) -> Option<v1::Fence> {
    Some(v1::Fence { run: fence.run.to_string(), attempt: fence.attempt })
}

/// `effect` as a message to its agent; `None` when what it is about is gone. `outputs`: URL of the folder of run outputs.
pub fn message(cluster: &Cluster, outputs: &str, effect: &Effect) -> Option<Message> {
    Some(match effect {
        Effect::StartRank { fence: of, rank, local_rank, device, .. } => {
            Message::Start(start(cluster, outputs, *of, *rank, *local_rank, *device)?)
        }
        Effect::Rendezvous { fence: of, address, .. } => {
            Message::Rendezvous(v1::Rendezvous { fence: fence(*of), address: address.clone() })
        }
        Effect::Stop { fence: of, checkpoint, now, reason, .. } => {
            let (checkpoint, now, reason) = (*checkpoint, *now, reason.clone());
            Message::Stop(v1::StopAttempt { fence: fence(*of), checkpoint, now, reason })
        }
        Effect::CheckpointAck { fence: of, step, .. } => {
            Message::CheckpointAck(v1::CheckpointAck { fence: fence(*of), step: *step })
        }
    })
}

fn start(
    cluster: &Cluster,
    outputs: &str,
    of: Fence,
    rank: u32,
    local_rank: u32,
    device: u32,
) -> Option<v1::StartRank> {
    let run = cluster.runs.get(&of.run)?;
    let world_size = run.attempt()?.ranks.len() as u32;
    let dataset = cluster.datasets.get(&run.dataset)?;
    Some(v1::StartRank {
        fence: fence(of),
        rank,
        world_size,
        local_rank,
        device,
        run_name: run.name.clone(),
        experiment_json: serde_json::to_string(&*run.experiment).expect("invariant: documents are JSON"),
        dataset: Some(view::dataset(dataset, true)),
        resume: run.start_of(of.attempt).map(view::checkpoint),
        output_url: format!("{outputs}/{}", run.id),
        older: run.earlier(of.attempt).map(view::checkpoint).collect(),
        // Traces are not the core's: the loop fills it in.
        traceparent: String::new(),
    })
}

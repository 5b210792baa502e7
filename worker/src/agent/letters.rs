//! Between the wire's messages and the plain values of the protocol. The coordinator's transport tests speak by it, too.

use morph_control::{
    Exit as Verdict,
    agent::{Ended, Heard, Key, Letter, Line},
};
use morph_proto::v1::{self, report::Report, session_response::Message};
use morph_spec::Fence;
use prost::Message as _;

/// A report that has not been sent yet grows to at most this many points or lines.
const MERGE: usize = 512;

/// A report to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub struct Post(pub Report);

/// The attempt, as the wire names it.
pub fn fence(fence: Fence) -> v1::Fence {
    v1::Fence { run: fence.run.to_string(), attempt: fence.attempt }
}

/// The attempt that `fence` names, if it does.
pub fn parsed(fence: Option<&v1::Fence>) -> Option<Fence> {
    let fence = fence?;
    Some(Fence { run: fence.run.parse().ok()?, attempt: fence.attempt })
}

/// What the coordinator said; `None` when it names no attempt, or is about none.
pub fn heard(message: Message) -> Option<Heard<Box<v1::StartRank>>> {
    Some(match message {
        Message::Welcome(v1::Welcome { acked, .. }) => Heard::Welcome { acked },
        Message::Ack(v1::Ack { seq }) => Heard::Ack { seq },
        Message::Start(start) => {
            let key = Key { fence: parsed(start.fence.as_ref())?, rank: start.rank };
            // What makes no sense here, the rank will say with more words.
            let experiment = serde_json::from_str::<morph_spec::Experiment>(&start.experiment_json);
            let patience = experiment.map_or(0, |e| u64::from(e.trainer.stall_timeout_s) * 1_000_000);
            Heard::Start { key, world_size: start.world_size, patience, start: Box::new(start) }
        }
        Message::Rendezvous(v1::Rendezvous { fence, address }) => {
            Heard::Rendezvous { fence: parsed(fence.as_ref())?, address }
        }
        Message::CheckpointAck(v1::CheckpointAck { fence, step }) => {
            Heard::CheckpointAck { fence: parsed(fence.as_ref())?, step }
        }
        Message::Stop(v1::StopAttempt { fence, checkpoint, now, reason }) => {
            Heard::Stop { fence: parsed(fence.as_ref())?, checkpoint, now, reason }
        }
        Message::Drain(v1::Drain { reason, leave: true }) => Heard::Leave { reason },
        Message::Drain(_) => Heard::Drain,
        // No part of this protocol.
        Message::MakeShard(_) | Message::StopShards(_) => return None,
    })
}

fn on_the_wire(exit: Verdict) -> v1::Exit {
    match exit {
        Verdict::Succeeded => v1::Exit::Succeeded,
        Verdict::Stopped => v1::Exit::Stopped,
        Verdict::PeerLost => v1::Exit::PeerLost,
        Verdict::User => v1::Exit::User,
        Verdict::Crashed => v1::Exit::Crashed,
        Verdict::NoCheckpoint => v1::Exit::NoCheckpoint,
        // Only the coordinator says that a worker is lost.
        Verdict::Infra | Verdict::Lost => v1::Exit::Infra,
    }
}

impl Letter for Post {
    fn ended(Ended { key, exit, status, error }: Ended) -> Self {
        Self(Report::Exited(v1::RankExited {
            fence: Some(fence(key.fence)),
            rank: key.rank,
            exit: on_the_wire(exit).into(),
            code: status.code,
            signal: status.signal,
            error,
        }))
    }

    fn leaving() -> Self {
        Self(Report::Leaving(v1::Leaving {}))
    }

    fn not_here(of: Fence) -> Self {
        Self(Report::NotHere(v1::AttemptNotHere { fence: Some(fence(of)) }))
    }

    fn line(Line { key, seq, at, stream, text }: Line) -> Self {
        let v1::Fence { run, attempt } = fence(key.fence);
        let line = v1::LogLine { run, attempt, rank: key.rank, seq, at, stream: stream.to_owned(), text };
        Self(Report::Logs(v1::Logs { lines: vec![line] }))
    }

    fn size(&self) -> usize {
        self.0.encoded_len()
    }

    fn merge(&mut self, newer: &Self) -> Option<usize> {
        match (&mut self.0, &newer.0) {
            (Report::Logs(a), Report::Logs(b)) if a.lines.len() + b.lines.len() <= MERGE => {
                a.lines.extend(b.lines.iter().cloned());
                Some(b.encoded_len())
            }
            (Report::Metrics(a), Report::Metrics(b))
                if a.fence == b.fence && a.points.len() + b.points.len() <= MERGE =>
            {
                a.points.extend(b.points.iter().cloned());
                Some(b.encoded_len())
            }
            (Report::Progress(a), Report::Progress(b)) if a.fence == b.fence => {
                *a = b.clone();
                Some(0)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(run: &str, step: u64) -> Post {
        let fence = Some(v1::Fence { run: run.into(), attempt: 1 });
        let point = v1::MetricPoint { step, at: 0, name: "train/loss".into(), value: 1.0 };
        Post(Report::Metrics(v1::Metrics { fence, points: vec![point] }))
    }

    #[test]
    fn reports_grow_only_by_their_own_kind_and_not_for_ever() {
        let mut post = metric("a", 1);
        assert!(post.merge(&metric("a", 2)).is_some());
        assert_eq!(post.merge(&metric("b", 3)), None, "another run's");
        for step in 3..=MERGE as u64 {
            assert!(post.merge(&metric("a", step)).is_some());
        }
        assert_eq!(post.merge(&metric("a", 0)), None, "full");
        let Report::Metrics(metrics) = &post.0 else { panic!("metrics") };
        assert_eq!(metrics.points.len(), MERGE);
    }

    #[test]
    fn what_names_no_attempt_is_not_heard() {
        let start =
            v1::StartRank { fence: Some(v1::Fence { run: "x".into(), attempt: 1 }), ..v1::StartRank::default() };
        assert_eq!(heard(Message::Start(start)), None);
        assert_eq!(heard(Message::Stop(v1::StopAttempt::default())), None);
        let leave = v1::Drain { reason: "r".into(), leave: true };
        assert_eq!(heard(Message::Drain(leave)), Some(Heard::Leave { reason: "r".into() }));
    }
}

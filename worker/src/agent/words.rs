//! Between the ranks' words and the plain values of the protocol.

use morph_control::{
    Exit as Verdict,
    agent::{Key, Said, Tell},
};

use crate::{
    agent::letters::{Post, fence},
    wire::{Event, Exit, Order},
};

/// What a rank said.
pub fn said(key: &Key, event: Event) -> Said<Post> {
    match event.report(&fence(key.fence), key.rank) {
        Ok(report) => Said::Report(Post(report)),
        Err((exit, error)) => Said::Exiting { exit: exit.into(), error },
    }
}

impl From<Tell> for Order {
    fn from(tell: Tell) -> Self {
        match tell {
            Tell::Rendezvous { address } => Self::Rendezvous { address },
            Tell::CheckpointAck { step } => Self::CheckpointAck { step },
            Tell::Stop { reason } => Self::Stop { reason },
        }
    }
}

impl From<Exit> for Verdict {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Succeeded => Self::Succeeded,
            Exit::Stopped => Self::Stopped,
            Exit::PeerLost => Self::PeerLost,
            Exit::User => Self::User,
            Exit::Infra => Self::Infra,
            Exit::Crashed => Self::Crashed,
            Exit::NoCheckpoint => Self::NoCheckpoint,
        }
    }
}

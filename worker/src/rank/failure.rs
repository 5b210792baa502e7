//! Why a rank cannot go on, sorted by who is to blame: that decides whether the run is tried again.

use crate::wire::Exit;

/// The end of a rank that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The configuration or the data is wrong: trying again is no use.
    #[error("{0}")]
    User(String),
    /// What was asked would say nothing true: test images had a part in training.
    #[error("{0}")]
    Refused(String),
    /// Storage, disk, network.
    #[error("{0}")]
    Infra(String),
    /// Memory, device.
    #[error("{0}")]
    Crashed(String),
    /// The checkpoint to go on from is not there, or damaged.
    #[error("{0}")]
    NoCheckpoint(String),
    /// A collective failed since another rank is gone.
    #[error("{0}")]
    PeerLost(String),
    /// Ordered to stop before there was anything to save.
    #[error("stopped as ordered")]
    Stopped,
}

impl Failure {
    /// How the rank reports it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::User(_) | Self::Refused(_) => Exit::User,
            Self::Infra(_) => Exit::Infra,
            Self::Crashed(_) => Exit::Crashed,
            Self::NoCheckpoint(_) => Exit::NoCheckpoint,
            Self::PeerLost(_) => Exit::PeerLost,
            Self::Stopped => Exit::Stopped,
        }
    }
}

impl From<morph_collective::Error> for Failure {
    fn from(e: morph_collective::Error) -> Self {
        if e.is_peers_fault() { Self::PeerLost(e.to_string()) } else { Self::Infra(e.to_string()) }
    }
}

impl From<morph_objects::Error> for Failure {
    fn from(e: morph_objects::Error) -> Self {
        use morph_objects::Error as E;
        match e {
            E::NotFound { .. }
            | E::Denied { .. }
            | E::Corrupt { .. }
            | E::TooLarge { .. }
            | E::Conflict { .. }
            | E::ReadOnly { .. }
            | E::BadUrl { .. } => Self::User(e.to_string()),
            _ => Self::Infra(e.to_string()),
        }
    }
}

impl From<morph_checkpoint::Error> for Failure {
    fn from(e: morph_checkpoint::Error) -> Self {
        match e {
            morph_checkpoint::Error::Objects(e) => e.into(),
            other => Self::User(other.to_string()),
        }
    }
}

impl From<morph_data::Error> for Failure {
    fn from(e: morph_data::Error) -> Self {
        match e {
            morph_data::Error::Objects(e) => e.into(),
            other => Self::User(other.to_string()),
        }
    }
}

impl From<morph_model::Error> for Failure {
    fn from(e: morph_model::Error) -> Self {
        match e {
            // The statistics of batch norm travel through the group: a lost peer shows inside the network.
            morph_model::Error::Collective(e) => match e.downcast::<morph_collective::Error>() {
                Ok(e) => (*e).into(),
                Err(e) => Self::Infra(e.to_string()),
            },
            e @ morph_model::Error::Torch(_) => Self::Crashed(e.to_string()),
            e => Self::User(e.to_string()),
        }
    }
}

impl From<morph_scores::Error> for Failure {
    fn from(e: morph_scores::Error) -> Self {
        Self::User(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrupt_data_is_not_tried_again_but_a_full_disk_is() {
        let digest = morph_spec::Digest::of(b"");
        let corrupt = morph_objects::Error::Corrupt {
            url: "file:///a".into(),
            expected: digest,
            bytes: 1,
            found: digest,
            found_bytes: 0,
        };
        assert_eq!(Failure::from(corrupt).exit(), Exit::User);
        let full = morph_objects::Error::DiskFull { action: "write", url: "file:///a".into() };
        assert_eq!(Failure::from(full).exit(), Exit::Infra);
        let memory = morph_model::Error::Torch("CUDA out of memory".into());
        assert_eq!(Failure::from(memory).exit(), Exit::Crashed);
    }
}

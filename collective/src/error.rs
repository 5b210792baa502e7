//! c10d's errors, sorted by what the caller can do about them.

use tch::{TchError, Tensor};

/// A collective, or the store behind it, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another rank is gone: start again from a checkpoint.
    #[error("{what}: a peer is gone: {why}")]
    PeerLost {
        /// What was attempted.
        what: &'static str,
        /// c10d's words.
        why: String,
    },
    /// Another rank did not take part in time: start again from a checkpoint.
    #[error("{what}: timed out: {why}")]
    TimedOut {
        /// What was attempted.
        what: &'static str,
        /// c10d's words.
        why: String,
    },
    /// Trying again would fail again.
    #[error("{what}: {why}")]
    Fatal {
        /// What was attempted.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Parts of c10d's, Gloo's and NCCL's messages (libtorch 2.11), which are all that tells their errors apart.
const LOST: &[&str] = &[
    "connection closed",
    "connection reset",
    "broken pipe",
    "connection refused",
    "socket closed",
    "connection was likely closed",
    "failed to recv",
    "failed to send",
    "sendbytes failed",
    "recvvalue failed",
    "connection abort",
    "remote peer",
    // NCCL's own, as c10d passes it on: "remote process exited or there was a network error", "… exiting prematurely".
    "remote process exit",
];
const LATE: &[&str] = &["timed out", "timeout", "timedout"];

impl Error {
    pub(crate) fn of(what: &'static str, text: &str) -> Self {
        // The rest is a stack of C++ frames, whose names would be taken for words.
        let text = text.split("Exception raised from").next().unwrap_or_default();
        let low = text.to_lowercase();
        let why = text.lines().next().unwrap_or_default().to_owned();
        let has = |words: &[&str]| words.iter().any(|w| low.contains(w));
        if has(LOST) {
            Self::PeerLost { what, why }
        } else if has(LATE) {
            Self::TimedOut { what, why }
        } else {
            Self::Fatal { what, why }
        }
    }

    /// Whether a new attempt can help.
    pub fn is_peers_fault(&self) -> bool {
        matches!(self, Self::PeerLost { .. } | Self::TimedOut { .. })
    }
}

/// `loss.backward()`. With a [`crate::Ddp`] armed, gradients are summed over the ranks on the way, so a peer's death shows
/// here.
///
/// # Errors
/// c10d's, sorted; [`Error::Fatal`] for autograd's own.
pub fn backward(loss: &Tensor) -> Result<(), Error> {
    loss.f_backward().map_err(|e| match e {
        TchError::Torch(text) => Error::of("backward", &text),
        other => Error::Fatal { what: "backward", why: other.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn messages_seen_in_the_wild_are_sorted() {
        let of = |text| Error::of("x", text);
        assert!(matches!(
            of("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
            Error::PeerLost { .. }
        ));
        assert!(matches!(of("Read error [127.0.0.1]:31389: Connection reset by peer"), Error::PeerLost { .. }));
        assert!(matches!(
            of("[unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation"),
            Error::TimedOut { .. }
        ));
        assert!(matches!(
            of("The client socket has timed out after 1000ms while trying to connect"),
            Error::TimedOut { .. }
        ));
        assert!(matches!(
            of("NCCL error in: x.cpp:1, remote process exited or there was a network error, NCCL version 2.28.9"),
            Error::PeerLost { .. }
        ));
        assert!(matches!(
            of("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE) ran for 60000 ms"),
            Error::TimedOut { .. }
        ));
        assert!(matches!(of("recv: Software caused connection abort"), Error::PeerLost { .. }));
        assert!(matches!(of("The size of tensor a (3) must match"), Error::Fatal { .. }));
    }

    #[test]
    fn names_of_frames_are_not_the_message() {
        let text = "The size of tensor a (3) must match\nException raised from wait at ../Timeout.cpp:7\n\
                    frame #0: c10d::TCPStore::connection_reset(std::chrono::timeout)";
        assert_eq!(Error::of("add", text).to_string(), "add: The size of tensor a (3) must match");
    }
}

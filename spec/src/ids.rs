//! Identities. All are made from a given [`Rng`] and time, never from the operating system, so that a simulation can
//! be repeated.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{Rng, Timestamp};

/// What is wrong with a text that should have been an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {hint}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    hint: &'static str,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Ulid);

        impl $name {
            /// No identity sorts after it.
            pub const LAST: Self = Self(Ulid(u128::MAX));

            /// A new identity: 48 bits of time, 80 bits of `rng`; sorts by age.
            pub fn new(now: Timestamp, rng: &mut Rng) -> Self {
                let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
                Self(Ulid::from_parts(now.millis(), random))
            }

            /// The identity as a number.
            pub fn as_u128(self) -> u128 {
                self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Ulid::from_string(text).map(Self).map_err(|_| ParseIdError {
                    what: $what,
                    text: text.chars().take(64).collect(),
                    hint: "expected 26 letters and digits (a ULID)",
                })
            }
        }
    };
}

ulid_id!(
    /// One training of an experiment with one set of hyper-parameters.
    RunId, "run id"
);
ulid_id!(
    /// One search over hyper-parameters.
    SweepId, "sweep id"
);
ulid_id!(
    /// One agent: the long-lived process on a node. Kept over restarts in the agent's home folder.
    WorkerId, "worker id"
);

/// Names one placement of a run. Everything a running attempt says carries it, and only the newest attempt is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The run.
    pub run: RunId,
    /// Which placement of it, from 1.
    pub attempt: u32,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.attempt)
    }
}

/// A BLAKE3 hash, 32 bytes; in text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes)).map_err(|_| ParseIdError {
            what: "digest",
            text: text.chars().take(80).collect(),
            hint: "expected 64 hex digits (BLAKE3)",
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

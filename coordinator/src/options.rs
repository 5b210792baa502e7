//! How a coordinator is set up.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// What [`crate::start`] needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of `state.db`, `coordinator.json` and, by default, of run outputs. Made when it is not there (unless
    /// `read_only`).
    pub home: PathBuf,
    /// Where to listen; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Root of run outputs, a URL or path; `None`: `<home>/objects`. A run's lie below `runs/<id>/`.
    pub objects: Option<String>,
    /// Answer queries only: nothing is recorded, scheduled or locked, and no agent is let in.
    pub read_only: bool,
    /// How often agents are asked to say something.
    pub heartbeat: Duration,
    /// How long an agent may be silent or away before its ranks count as lost. Agents come back with pauses of up to 5 s,
    /// so less than 10 s makes little sense outside tests.
    pub grace: Duration,
    /// How long ranks may take to save a checkpoint and stop before they are killed.
    pub stop_timeout: Duration,
    /// Projects and the rules of scheduling; `None`: any project is welcome, and the rules are the defaults.
    pub cluster: Option<Box<morph_spec::Cluster>>,
    /// Allow `listen` on other addresses than loopback, without authentication.
    pub insecure: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            home: PathBuf::from("morph-home"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            objects: None,
            read_only: false,
            heartbeat: Duration::from_secs(5),
            grace: Duration::from_secs(15),
            stop_timeout: Duration::from_secs(120),
            cluster: None,
            insecure: false,
        }
    }
}

//! How a coordinator is set up.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use morph_objects::Policy as UrlPolicy;

use crate::auth::layer::Limits;

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
    /// The database; `None`: an SQLite file in `home`.
    pub postgres: Option<Postgres>,
    /// Answer queries only: nothing is recorded, scheduled or locked, and no agent is let in.
    pub read_only: bool,
    /// How often agents are asked to say something.
    pub heartbeat: Duration,
    /// How long an agent may be silent or away before its ranks count as lost. Agents come back with pauses of up to 5 s,
    /// so less than 10 s makes little sense outside tests.
    pub grace: Duration,
    /// How long ranks may take to save a checkpoint and stop before they are killed.
    pub stop_timeout: Duration,
    /// After so many events a copy of the state is written beside the database, from which the next start begins.
    pub snapshot_every: u64,
    /// Projects and the rules of scheduling; `None`: any project is welcome, and the rules are the defaults.
    pub cluster: Option<Box<morph_spec::Cluster>>,
    /// Ask nobody who they are, and allow `listen` on any address without TLS.
    pub insecure: bool,
    /// Encrypts connections and asks agents for certificates; needed to listen on other addresses than loopback.
    pub tls: Option<Tls>,
    /// Read from this machine and from link-local addresses for others.
    pub allow_private_urls: bool,
    /// Folders below which files may be read for others, unless `listen` is loopback: then anywhere.
    pub allow_files: Vec<PathBuf>,
    /// What one principal may use.
    pub limits: Limits,
    /// Connections at a time, whoever they are of.
    pub connections: usize,
}

/// A PostgreSQL database that several coordinators share. One of them serves, the others stand by.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Which.
    pub server: crate::store::postgres::Server,
    /// What others are told of who serves.
    pub name: String,
    /// A coordinator that was not heard of for so long may be replaced.
    pub lease: Duration,
}

/// Files in PEM, read when the coordinator starts.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The coordinator's certificate, and those between it and the authority if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities whose agents are let in; several while one replaces another.
    pub ca: PathBuf,
}

impl Options {
    /// Which locations named by others may be opened. Who reaches loopback is on this machine already.
    pub(crate) fn urls(&self) -> UrlPolicy {
        let here = self.listen.ip().is_loopback();
        UrlPolicy {
            link_local: self.allow_private_urls,
            loopback: here || self.allow_private_urls,
            files: (!here).then(|| self.allow_files.clone()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            home: PathBuf::from("morph-home"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            objects: None,
            postgres: None,
            read_only: false,
            heartbeat: Duration::from_secs(5),
            grace: Duration::from_secs(15),
            stop_timeout: Duration::from_secs(120),
            snapshot_every: 100_000,
            cluster: None,
            insecure: false,
            tls: None,
            allow_private_urls: false,
            allow_files: Vec::new(),
            limits: Limits::default(),
            connections: 20_000,
        }
    }
}

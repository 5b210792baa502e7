//! Whom to ask: a coordinator elsewhere, one that serves the home now, or one in this process.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use morph_coordinator::{Handle, Options};
use morph_proto::v1::coordinator_client::CoordinatorClient;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cli::Global,
    fail::{NOT_FOUND, UNREACHABLE, USAGE, coded},
};

/// The client of a coordinator.
pub type Client = CoordinatorClient<Channel>;

/// Largest answer taken.
const LARGEST: usize = 256 << 20;

/// A connection, and the coordinator itself when it lives in this process.
pub struct Connection {
    /// To ask.
    pub client: Client,
    embedded: Option<Handle>,
}

/// What the embedded coordinator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Answer questions about what is recorded.
    Ask,
    /// Change what is recorded.
    Change,
}

/// The home folder, absolute.
///
/// # Errors
/// When there is no working folder, or the home is no folder.
pub fn home(global: &Global) -> Result<PathBuf> {
    let home = match &global.home {
        Some(home) => home.clone(),
        None if !Path::new("morph-home").exists() && Path::new("morph-demo").exists() => PathBuf::from("morph-demo"),
        None => PathBuf::from("morph-home"),
    };
    if home.exists() && !home.is_dir() {
        return Err(coded(USAGE, format!("--home {}: that is a file, not a folder", home.display())));
    }
    std::path::absolute(&home).with_context(|| format!("find {}", home.display()))
}

/// Connects to `url`.
///
/// # Errors
/// Exit code 6 when nobody answers, 2 when it is no URL.
pub async fn to(url: &str) -> Result<Client> {
    if !url.contains("://") {
        return Err(coded(USAGE, format!("{url:?} is no coordinator's URL; it looks like http://host:7070")));
    }
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| coded(USAGE, format!("{url:?} is no coordinator's URL ({e}); it looks like http://host:7070")))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|e| {
        let mut cause: &dyn std::error::Error = &e;
        while let Some(source) = cause.source() {
            cause = source;
        }
        coded(UNREACHABLE, format!("no coordinator answers at {url}: {cause}"))
    })?;
    Ok(CoordinatorClient::new(channel).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST))
}

impl Connection {
    /// Connects to whoever knows about the home.
    ///
    /// # Errors
    /// When nobody answers, or the home cannot be read.
    pub async fn open(global: &Global, purpose: Purpose) -> Result<Self> {
        if let Some(client) = Self::live(global).await? {
            return Ok(Self { client, embedded: None });
        }
        let home = home(global)?;
        let read_only = purpose == Purpose::Ask;
        if !home.join("state.db").exists() {
            let nothing = format!("nothing has run yet in {}", home.display());
            if purpose == Purpose::Change {
                return Err(coded(NOT_FOUND, nothing));
            }
            if !global.quiet {
                say!("{nothing}");
            }
        }
        let handle = morph_coordinator::start(Options { home, read_only, ..Options::default() }).await?;
        Ok(Self { client: to(&handle.url()).await?, embedded: Some(handle) })
    }

    /// A coordinator that runs now: the one that was named, or the home's.
    ///
    /// # Errors
    /// When the one that was named does not answer.
    pub async fn live(global: &Global) -> Result<Option<Client>> {
        if let Some(url) = &global.coordinator {
            return to(url).await.map(Some);
        }
        match morph_coordinator::serving(&home(global)?) {
            Some(serving) => to(&serving.url()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Ends the coordinator in this process, if there is one.
    pub async fn close(self) {
        drop(self.client);
        if let Some(handle) = self.embedded {
            handle.stop().await;
        }
    }
}

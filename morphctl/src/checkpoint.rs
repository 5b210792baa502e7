//! Which checkpoint is meant: one at a place, or a run's.

use std::path::Path;

use anyhow::Result;
use morph_checkpoint::{MANIFEST, manifest_url};
use morph_objects::split_url;

use crate::{
    cli::Global,
    connect::{self, Connection, Purpose},
    fail::{REFUSED, coded},
};

/// A checkpoint that is there.
#[derive(Debug, Clone)]
pub struct Found {
    /// URL of its manifest.
    pub url: String,
    /// What people call it: `run/NAME`, or its URL.
    pub name: String,
    /// Id of the run that it is of, where that was named.
    pub run: Option<String>,
}

/// What `what` means: the URL or path of a checkpoint, or of its manifest; or a run by name or id, of which it is the best
/// checkpoint if there is one, else (and if `newest`) the newest.
///
/// # Errors
/// When there is no such run, or it has none; when nothing lies at that place.
pub async fn find(global: &Global, what: &str, newest: bool) -> Result<Found> {
    if is_place(what) {
        let url = manifest_url(what)?;
        let (folder, name) = split_url(&url)?;
        folder.get(&name).await?;
        return Ok(Found { name: url.clone(), url, run: None });
    }
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let run = connect::run(&mut connection.client, what).await;
    connection.close().await;
    let run = run?;
    let best = run.checkpoints.iter().rev().find(|c| c.best && !newest);
    let checkpoint = best
        .or_else(|| run.checkpoints.iter().max_by_key(|c| c.step))
        .ok_or_else(|| coded(REFUSED, format!("run {} has no checkpoint yet", run.name)))?;
    Ok(Found { url: checkpoint.url.clone(), name: format!("run/{}", run.name), run: Some(run.id) })
}

/// Whether it is a place and not a run's name, which holds no slash.
fn is_place(what: &str) -> bool {
    what.contains('/') || what.ends_with(MANIFEST) || Path::new(what).join(MANIFEST).is_file()
}

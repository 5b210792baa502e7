//! `report`: one HTML page on runs, that needs nothing beside it.

mod cards;
mod html;
mod material;
mod page;
mod plots;
mod scores;
mod svg;
#[cfg(test)]
mod tests;
mod trained;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use morph_checkpoint::file;

use crate::{
    cli::{Format, Global},
    compare::How,
    connect::{Connection, Purpose},
    print,
};

/// The page's name in its folder.
const FILE: &str = "index.html";

/// Writes the report on the runs that `ids` mean into the folder `out`.
///
/// # Errors
/// When runs cannot be compared, or the page cannot be written; then what was there before still is.
pub async fn report(global: &Global, ids: &[String], out: &Path, how: &How) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let material = material::material(&mut connection.client, ids, how).await;
    connection.close().await;
    let material = material?;
    let path = out.join(FILE);
    write(out, &page::render(&material))?;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::json!({ "report": path }))?,
        Format::Table | Format::Name => print::line(&path.display().to_string())?,
    }
    Ok(())
}

/// Writes the page whole or not at all.
fn write(folder: &Path, page: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(FILE);
    file::write(&path, page.as_bytes(), true).with_context(|| format!("write {}", path.display()))
}

//! `logs` and `cancel`.

use anyhow::Result;
use morph_proto::v1;

use crate::{
    cli::{Format, Global},
    connect::{Client, Connection, Purpose},
    fail::status,
    json, print, text,
};

/// Prints the lines that `request` asks for.
///
/// # Errors
/// When nobody answers, or there is no such run.
pub async fn logs(global: &Global, request: v1::LogsRequest) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let done = stream(global, &mut connection.client, request).await;
    connection.close().await;
    done
}

async fn stream(global: &Global, client: &mut Client, request: v1::LogsRequest) -> Result<()> {
    let mut lines = client.logs(request).await.map_err(|s| status(&s))?.into_inner();
    while let Some(batch) = lines.message().await.map_err(|s| status(&s))? {
        for l in &batch.lines {
            match global.output {
                Format::Json => print::line(&json::line(l).to_string())?,
                _ => print::line(&format!("{} {}.{} {}", text::instant(l.at), l.attempt, l.rank, l.text))?,
            }
        }
    }
    Ok(())
}

/// Cancels the run or sweep that `id` means.
///
/// # Errors
/// When nobody answers, or there is no such thing.
pub async fn cancel(global: &Global, id: &str) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Change).await?;
    let done = connection.client.cancel(v1::CancelRequest { id: id.to_owned() }).await;
    connection.close().await;
    let runs = done.map_err(|s| status(&s))?.into_inner().runs;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &serde_json::json!({ "cancelled": runs })),
        Format::Name => runs.iter().try_for_each(|r| print::line(&format!("run/{r}"))),
        Format::Table if runs.is_empty() => print::line(&format!("{id} was over already: nothing to cancel")),
        Format::Table => print::line(&format!(
            "cancelled {} of {id}",
            if runs.len() == 1 { "1 run".into() } else { format!("{} runs", runs.len()) }
        )),
    }
}

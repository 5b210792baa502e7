//! `logs`.

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
    let v1::LogsRequest { run, rank, attempt, .. } = request.clone();
    let mut lines = client.logs(request).await.map_err(|s| status(&s))?.into_inner();
    let mut any = false;
    while let Some(batch) = lines.message().await.map_err(|s| status(&s))? {
        any |= !batch.lines.is_empty();
        for l in &batch.lines {
            match global.output {
                Format::Json => print::line(&json::line(l).to_string())?,
                Format::Yaml => {
                    print::line("---")?;
                    print::value(global, &json::line(l))?;
                }
                Format::Table | Format::Name => {
                    print::line(&format!("{} {}.{} {}", text::instant(l.at), l.attempt, l.rank, l.text))?;
                }
            }
        }
    }
    if !any && !global.quiet {
        let attempt = attempt.map(|n| format!(", attempt {n}")).unwrap_or_default();
        let rank = rank.map(|n| format!(", rank {n}")).unwrap_or_default();
        say!("run {run}{attempt}{rank} has logged nothing");
    }
    Ok(())
}

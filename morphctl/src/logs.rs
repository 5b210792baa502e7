//! `logs`.

use std::collections::HashSet;

use anyhow::Result;
use morph_proto::v1;
use tonic::Status;

use crate::{
    cli::{Format, Global},
    connect::{AWAY, Client, Connection, Purpose, is_away},
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

async fn stream(global: &Global, client: &mut Client, mut request: v1::LogsRequest) -> Result<()> {
    let mut printed = Printed::default();
    let mut waiting = false;
    loop {
        match printed.lines(global, client, &mut request, &mut waiting).await? {
            Ok(()) => break,
            Err(gone) if request.follow && is_away(&gone) => {}
            Err(gone) => return Err(status(&gone)),
        }
        if !std::mem::replace(&mut waiting, true) && !global.quiet {
            say!("{AWAY}");
        }
        *client = Connection::again(global).await?;
    }
    if !printed.any && !global.quiet {
        let attempt = request.attempt.map(|n| format!(", attempt {n}")).unwrap_or_default();
        let rank = request.rank.map(|n| format!(", rank {n}")).unwrap_or_default();
        say!("run {}{attempt}{rank} has logged nothing", request.run);
    }
    Ok(())
}

/// What has been printed so far.
#[derive(Default)]
struct Printed {
    any: bool,
    /// Attempt, rank and position of lines that a new stream would send again.
    again: HashSet<(u32, u32, u64)>,
}

impl Printed {
    /// Prints lines as they come; `request` asks for the rest afterwards.
    ///
    /// # Errors
    /// Outside: they cannot be printed. Inside: the stream broke.
    async fn lines(
        &mut self,
        global: &Global,
        client: &mut Client,
        request: &mut v1::LogsRequest,
        waiting: &mut bool,
    ) -> Result<Result<(), Status>> {
        let mut lines = match client.logs(request.clone()).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let batch = match lines.message().await {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            *waiting = false;
            for line in &batch.lines {
                if self.again.insert((line.attempt, line.rank, line.seq)) {
                    self.any = true;
                    show(global, line)?;
                }
            }
            if batch.upto > 0 {
                (request.after, request.tail) = (batch.upto, 0);
                self.again.clear();
            }
        }
    }
}

fn show(global: &Global, line: &v1::LogLine) -> Result<()> {
    match global.output {
        Format::Json => print::line(&json::line(line).to_string()),
        Format::Yaml => {
            print::line("---")?;
            print::value(global, &json::line(line))
        }
        Format::Table | Format::Name => {
            print::line(&format!("{} {}.{} {}", text::instant(line.at), line.attempt, line.rank, line.text))
        }
    }
}

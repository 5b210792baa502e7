//! `cancel`, `pause`, `resume`, `retry` of runs and sweeps; `cordon`, `uncordon`, `drain` of workers.

use anyhow::Result;
use morph_proto::v1;
use serde_json::json;

use crate::{
    cli::{Format, Global},
    connect::{Connection, Purpose},
    fail::status,
    print,
};

/// What is asked of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Stop for good.
    Cancel,
    /// Hold back.
    Pause,
    /// Let go on.
    Resume,
    /// Try again.
    Retry,
}

impl Wish {
    /// What was done to them; what there was not.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Cancel => ("cancelled", "was over already: nothing to cancel"),
            Self::Pause => ("paused", "is paused already"),
            Self::Resume => ("resumed", "is not paused"),
            Self::Retry => ("tried again", "has nothing to try again"),
        }
    }
}

/// Asks it of the run or sweep that `id` means.
///
/// # Errors
/// When nobody answers, there is no such thing, or its state does not allow it.
pub async fn ask(global: &Global, wish: Wish, id: &str) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Change).await?;
    let client = &mut connection.client;
    let id = id.to_owned();
    let done = match wish {
        Wish::Cancel => client.cancel(v1::CancelRequest { id: id.clone() }).await.map(|r| r.into_inner().runs),
        Wish::Pause => client.pause(v1::PauseRequest { id: id.clone() }).await.map(|r| r.into_inner().runs),
        Wish::Resume => client.resume(v1::ResumeRequest { id: id.clone() }).await.map(|r| r.into_inner().runs),
        Wish::Retry => client.retry(v1::RetryRequest { id: id.clone() }).await.map(|r| r.into_inner().runs),
    };
    connection.close().await;
    let runs = done.map_err(|s| status(&s))?;
    let (word, nothing) = wish.words();
    match global.output {
        Format::Json | Format::Yaml => {
            let mut value = json!({});
            value[word.replace(' ', "_")] = runs.into();
            print::value(global, &value)
        }
        Format::Name => runs.iter().try_for_each(|r| print::line(&format!("run/{r}"))),
        Format::Table if runs.is_empty() => print::line(&format!("{id} {nothing}")),
        Format::Table => {
            let n = runs.len();
            print::line(&format!("{word}: {n} run{} of {id}", if n == 1 { "" } else { "s" }))
        }
    }
}

/// Gives the worker that `id` means no new work; with `drain` its ranks go elsewhere, too.
///
/// # Errors
/// When nobody answers, or there is no such worker.
pub async fn cordon(global: &Global, id: &str, reason: &str, drain: bool) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Change).await?;
    let request = v1::CordonRequest { worker: id.to_owned(), reason: reason.to_owned(), drain };
    let done = connection.client.cordon(request).await;
    connection.close().await;
    let v1::CordonResponse { worker, runs } = done.map_err(|s| status(&s))?.into_inner();
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &json!({ "worker": worker, "runs": runs })),
        Format::Name => print::line(&format!("worker/{worker}")),
        Format::Table => {
            let what = match (runs.len(), drain) {
                (0, _) => "nothing runs there".to_owned(),
                (n, true) => format!("{n} runs there save a checkpoint and go on elsewhere"),
                (n, false) => format!("{n} runs there go on to their end"),
            };
            print::line(&format!("worker {worker} gets no new work; {what} (morphctl uncordon {worker})"))
        }
    }
}

/// Gives the worker that `id` means work again.
///
/// # Errors
/// When nobody answers, or there is no such worker.
pub async fn uncordon(global: &Global, id: &str) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Change).await?;
    let done = connection.client.uncordon(v1::UncordonRequest { worker: id.to_owned() }).await;
    connection.close().await;
    let worker = done.map_err(|s| status(&s))?.into_inner().worker;
    match global.output {
        Format::Json | Format::Yaml => print::value(global, &json!({ "worker": worker })),
        Format::Name => print::line(&format!("worker/{worker}")),
        Format::Table => print::line(&format!("worker {worker} gets work again")),
    }
}

//! `compare`: the paper's table of runs.

pub mod formats;
pub mod gather;
pub mod groups;
pub mod ledger;
pub mod mean;
mod same;
pub mod table;
#[cfg(test)]
pub mod tests;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use clap::Args;
use morph_proto::v1;
use morph_scores::Plan;

use crate::{
    cli::{Global, Output},
    connect::{Connection, Purpose},
    fail::{REFUSED, coded},
    print,
};
use gather::Gathered;
use table::{Asked, Table};

/// How runs are compared.
#[derive(Debug, Clone, Default, Args)]
pub struct How {
    /// The score to compare by, a column of the cases: l1, prior_l1, top5, … [default: the one that the runs were scored by].
    #[arg(long, value_name = "NAME")]
    pub score: Option<String>,
    /// The run that all others are tested against [default: the one with the highest AUROC].
    #[arg(long, value_name = "RUN")]
    pub baseline: Option<String>,
    /// Only this comparison, by its name in evaluation.pathology; may be said again.
    #[arg(long, value_name = "NAME")]
    pub on: Vec<String>,
}

/// Compares the runs that `ids` mean, those of sweeps one by one.
///
/// # Errors
/// When there are none, they have no scores, or did not score the same cases.
pub async fn compare(global: &Global, ids: &[String], how: &How) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let gathered = gather::gather(&mut connection.client, ids).await;
    connection.close().await;
    let gathered = gathered?;
    let table = table_of(&gathered, how)?;
    match global.asked {
        Output::Table => print::line(formats::text(&table).trim_end()),
        Output::Csv => print::line(&formats::csv(&table)?),
        Output::Latex => print::line(&formats::latex(&table)),
        Output::Markdown => print::line(&formats::markdown(&table)),
        Output::Json | Output::Yaml => {
            print::value(global, &serde_json::to_value(&table).context("write the table as JSON")?)
        }
        Output::Name => gathered.runs.iter().try_for_each(|s| print::line(&format!("run/{}", s.run.name))),
    }
}

/// The table of what was gathered, with how its test sets were used.
///
/// # Errors
/// When runs cannot be compared.
pub fn table_of(gathered: &Gathered, how: &How) -> Result<Table> {
    let groups = groups::groups(&gathered.runs);
    let asked =
        Asked { score: how.score.clone(), baseline: how.baseline.clone(), on: how.on.clone(), plan: Plan::default() };
    let mut table = table::table(&groups, &asked).map_err(|why| coded(REFUSED, why))?;
    let used: BTreeSet<&String> = table.comparisons.iter().flat_map(|c| &c.datasets).collect();
    let compared = |s: &gather::Scored, test: &&v1::TestSet| {
        let own = s.evaluation.datasets.iter().filter(|d| used.contains(&d.name));
        own.into_iter().any(|d| d.digest == test.dataset || d.url == test.url)
    };
    let tests = gathered.tests.iter().filter(|test| gathered.runs.iter().any(|s| compared(s, test)));
    table.tests = tests.map(ledger::Use::new).collect();
    table.notes.extend(gathered.left_out.iter().map(|why| format!("Not in the table: {why}.")));
    Ok(table)
}

//! What a report is made of, gathered before a word of it is written.

use std::collections::BTreeMap;

use anyhow::Result;
use morph_proto::v1;
use morph_spec::Manifest;

use crate::{
    compare::{
        self, How,
        gather::{self, Gathered, Scored},
        table::Table,
    },
    connect::Client,
    fail::status,
    text,
};

/// Points of a training's curve that are kept.
const POINTS: usize = 400;

/// Everything that a report shows.
#[derive(Debug, Clone)]
pub struct Material {
    /// Runs, sweeps, test sets.
    pub gathered: Gathered,
    /// The comparison.
    pub table: Table,
    /// Curves of each run, by its id.
    pub training: BTreeMap<String, Training>,
    /// Pictures of examples of each run (PNG), by its id.
    pub panels: BTreeMap<String, Vec<u8>>,
    /// What the datasets say of themselves, by digest; those that could be read.
    pub manifests: BTreeMap<String, Manifest>,
    /// When, microseconds since the Unix epoch.
    pub at: u64,
}

/// How a run's loss and validation score went, by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Training {
    /// `train/loss`, thinned out by means.
    pub loss: Vec<(f64, f64)>,
    /// `val/score`, of every epoch.
    pub score: Vec<(f64, f64)>,
}

/// All of the runs that `ids` mean.
///
/// # Errors
/// When they cannot be compared, or something cannot be read.
pub async fn material(client: &mut Client, ids: &[String], how: &How) -> Result<Material> {
    let gathered = gather::gather(client, ids).await?;
    let table = compare::table_of(&gathered, how)?;
    let (mut training, mut panels) = (BTreeMap::new(), BTreeMap::new());
    for scored in &gathered.runs {
        let run = &scored.run;
        training.insert(run.id.clone(), curves(client, &run.id).await?);
        if let Some(url) = gather::artifact(run, "panel.png") {
            panels.insert(run.id.clone(), gather::read(url).await?);
        }
    }
    let manifests = manifests(&gathered.runs).await;
    Ok(Material { gathered, table, training, panels, manifests, at: text::now() })
}

async fn curves(client: &mut Client, run: &str) -> Result<Training> {
    let names = ["train/loss", "val/score"].map(ToOwned::to_owned).to_vec();
    let request = v1::MetricsRequest { run: run.to_owned(), names };
    let points = client.metrics(request).await.map_err(|s| status(&s))?.into_inner().points;
    let of = |name: &str| -> Vec<(f64, f64)> {
        points.iter().filter(|p| p.name == name).map(|p| (p.step as f64, p.value)).collect()
    };
    Ok(Training { loss: thinned(&of("train/loss")), score: of("val/score") })
}

/// Means of equally many points each, so that no more than [`POINTS`] are left.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |some: &[(f64, f64)]| {
        let n = some.len() as f64;
        (some.iter().map(|p| p.0).sum::<f64>() / n, some.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(size).map(mean).collect()
}

/// The manifests of the datasets that runs were trained on. A report without them says less, and is still one.
async fn manifests(runs: &[Scored]) -> BTreeMap<String, Manifest> {
    let mut out = BTreeMap::new();
    for scored in runs {
        if out.contains_key(&scored.run.dataset) {
            continue;
        }
        let found = gather::manifest(&scored.run, &scored.experiment).await;
        out.extend(found.map(|m| (scored.run.dataset.clone(), m)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_trainings_are_thinned_by_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0]), (334, (1.0, 1.0 / 3.0)));
        assert_eq!(thinned(&points[..3]), points[..3]);
        assert!(thinned(&[]).is_empty());
    }
}

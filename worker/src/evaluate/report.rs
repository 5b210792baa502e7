//! From per-image scores to what is reported.

use std::collections::BTreeMap;

use morph_data::Samples;
use morph_scores as scores;
use serde::{Deserialize, Serialize};

use crate::{
    evaluate::table::{Column, Row, column},
    rank::failure::Failure,
};

/// Resamples of the bootstrap.
const RESAMPLES: u32 = 1000;
/// Its seed: fixed, so that a report is the same each time.
const SEED: u64 = 2109;

/// How well one score separates a pathology from healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Separation {
    /// Area under the ROC curve.
    pub auroc: f64,
    /// Its 95 % bootstrap interval.
    pub auroc_ci95: [f64; 2],
    /// Area under the precision–recall curve (average precision). Chance level is the prevalence.
    pub auprc: f64,
    /// False positive rate where 95 % of the pathology is found.
    pub fpr95: f64,
    /// The same at 99 %.
    pub fpr99: f64,
}

/// One pathology against healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pathology {
    /// Images of it.
    pub samples: usize,
    /// Its share of all images compared.
    pub prevalence: f64,
    /// By mean |x − x̂|: the paper's score.
    pub residual: Separation,
    /// By mean |x − prior|.
    pub residual_prior: Separation,
    /// By the mean of the highest 5 % of the smoothed |x − x̂|.
    pub residual_top5: Separation,
    /// Baseline: by how the patient was X-rayed (AP against PA); knows no image.
    pub view: Separation,
    /// Baseline: by the image's mean intensity.
    pub intensity: Separation,
}

/// Everything that an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Optimizer steps of the checkpoint that was scored.
    pub step: u64,
    /// Its validation score.
    pub val_score: Option<f64>,
    /// Healthy images.
    pub healthy_samples: usize,
    /// Mean SSIM of x and x̂ over them.
    pub healthy_ssim: f64,
    /// Mean |x − x̂| over them.
    pub healthy_l1: f64,
    /// Each pathology.
    pub pathology: BTreeMap<String, Pathology>,
    /// The residual that the panel shows as white: 99.5 % of the validation set's are below it.
    pub residual_scale: f64,
}

/// The samples of a set and their scores.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// The samples.
    pub samples: &'a Samples,
    /// Their scores.
    pub rows: &'a [Row],
}

fn separation(healthy: &[f64], pathology: &[f64]) -> Result<Separation, Failure> {
    let ci = scores::bootstrap_ci(healthy, pathology, scores::auroc, RESAMPLES, 0.95, SEED)?;
    Ok(Separation {
        auroc: scores::auroc(healthy, pathology)?,
        auroc_ci95: [ci.0, ci.1],
        auprc: scores::average_precision(healthy, pathology)?,
        fpr95: scores::fpr_at_tpr(healthy, pathology, 0.95)?,
        fpr99: scores::fpr_at_tpr(healthy, pathology, 0.99)?,
    })
}

/// 1 for AP (taken of lying, sicker patients), 0 for PA, 1/2 where unknown.
fn views(samples: &Samples) -> Vec<f64> {
    (0..samples.len())
        .map(|i| match samples.meta(i).view.as_deref() {
            Some("AP") => 1.0,
            Some("PA") => 0.0,
            _ => 0.5,
        })
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Compares each of `pathology` with `healthy`.
///
/// # Errors
/// When a set is empty or a score is not a number.
pub fn pathologies<'a>(
    healthy: Scored<'_>,
    pathology: impl IntoIterator<Item = (&'a str, Scored<'a>)>,
) -> Result<BTreeMap<String, Pathology>, Failure> {
    let mut out = BTreeMap::new();
    for (name, sick) in pathology {
        let by = |c: Column| separation(&column(healthy.rows, c), &column(sick.rows, c));
        let samples = sick.rows.len();
        let entry = Pathology {
            samples,
            prevalence: samples as f64 / (samples + healthy.rows.len()) as f64,
            residual: by(Column::Residual)?,
            residual_prior: by(Column::Prior)?,
            residual_top5: by(Column::Top5)?,
            view: separation(&views(healthy.samples), &views(sick.samples))?,
            intensity: by(Column::Intensity)?,
        };
        out.insert(name.to_owned(), entry);
    }
    Ok(out)
}

/// Mean SSIM and mean |x − x̂| of a set.
pub fn fidelity(rows: &[Row]) -> (f64, f64) {
    (mean(&column(rows, Column::Ssim)), mean(&column(rows, Column::Residual)))
}

impl Report {
    /// The numbers by which runs are compared.
    pub fn summary(&self) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::from([
            ("healthy/ssim".to_owned(), self.healthy_ssim),
            ("healthy/l1".to_owned(), self.healthy_l1),
        ]);
        out.extend(self.val_score.map(|score| ("val/score".to_owned(), score)));
        for (name, p) in &self.pathology {
            let values = [
                ("auroc", p.residual.auroc),
                ("auroc_low", p.residual.auroc_ci95[0]),
                ("auroc_high", p.residual.auroc_ci95[1]),
                ("auprc", p.residual.auprc),
                ("fpr95", p.residual.fpr95),
                ("fpr99", p.residual.fpr99),
                ("prevalence", p.prevalence),
                ("auroc_prior", p.residual_prior.auroc),
                ("auroc_top5", p.residual_top5.auroc),
                ("auprc_top5", p.residual_top5.auprc),
                ("auroc_view", p.view.auroc),
                ("auroc_intensity", p.intensity.auroc),
            ];
            out.extend(values.map(|(metric, value)| (format!("{name}/{metric}"), value)));
        }
        out
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "step {}, healthy: {} images, SSIM {:.4}, L1 {:.4}\n",
            self.step, self.healthy_samples, self.healthy_ssim, self.healthy_l1
        );
        for (name, p) in &self.pathology {
            out.push_str(&format!("{name}: {} images, prevalence {:.3}\n", p.samples, p.prevalence));
            let rows = [
                ("mean |x - x'|", &p.residual),
                ("mean |x - prior|", &p.residual_prior),
                ("smoothed top 5 %", &p.residual_top5),
                ("baseline: view", &p.view),
                ("baseline: intensity", &p.intensity),
            ];
            for (by, s) in rows {
                out.push_str(&format!(
                    "  {by:<20} AUROC {:.4} [{:.4}, {:.4}]  AUPRC {:.4}  FPR@95 {:.4}  FPR@99 {:.4}\n",
                    s.auroc, s.auroc_ci95[0], s.auroc_ci95[1], s.auprc, s.fpr95, s.fpr99
                ));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfect_scores_separate_perfectly() {
        let healthy: Vec<f64> = (0..40).map(f64::from).collect();
        let sick: Vec<f64> = (100..120).map(f64::from).collect();
        let s = separation(&healthy, &sick).unwrap();
        assert_eq!((s.auroc, s.auroc_ci95, s.auprc, s.fpr95), (1.0, [1.0, 1.0], 1.0, 0.0));
        assert_eq!(s, separation(&healthy, &sick).unwrap(), "the bootstrap is seeded");
        assert!(separation(&[], &sick).is_err());
    }
}

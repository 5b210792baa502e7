//! The few numbers by which runs are compared: `opacity/auroc`, `healthy/ssim`, … A sweep's metric is one of them.

use std::collections::BTreeMap;

use super::{Comparison, Evaluation};
use crate::columns::VIEW;

/// The set that `healthy/…` is of.
pub const HEALTHY_SET: &str = "healthy";
/// The set that thresholds are of.
pub const VALIDATION_SET: &str = "validation";

impl Evaluation {
    /// The numbers by which runs are compared, all finite. `<comparison>/auroc` and its like are of the primary score,
    /// `mean/…` the mean over all comparisons, where there are several.
    pub fn summary(&self) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::new();
        if let Some(set) = self.sets.get(HEALTHY_SET) {
            let of = |name: &str| set.means.get(name).map(|m| (format!("{HEALTHY_SET}/{name}"), m.estimate.value));
            out.extend(
                ["l1", "mse", "ssim", "psnr", "lpips", "displacement", "folded"].iter().filter_map(|name| of(name)),
            );
            out.extend(set.fid.as_ref().map(|fid| (format!("{HEALTHY_SET}/fid"), fid.value)));
        }
        out.extend(self.model.validation_score.map(|score| ("val/score".to_owned(), score)));
        let mut sums = BTreeMap::<&str, f64>::new();
        for (name, comparison) in &self.comparisons {
            for (measure, value) in self.measures(comparison) {
                if let Some(same) = ["auroc", "auprc"].into_iter().find(|m| *m == measure) {
                    *sums.entry(same).or_default() += value;
                }
                out.insert(format!("{name}/{measure}"), value);
            }
        }
        if self.comparisons.len() > 1 {
            let n = self.comparisons.len() as f64;
            out.extend(sums.into_iter().map(|(measure, sum)| (format!("mean/{measure}"), sum / n)));
        }
        out.retain(|_, value| value.is_finite());
        out
    }

    fn measures(&self, c: &Comparison) -> Vec<(String, f64)> {
        let mut out = vec![("prevalence".to_owned(), c.prevalence)];
        let mut say = |name: &str, value: f64| out.push((name.to_owned(), value));
        if let Some(s) = c.scores.get(&self.design.score) {
            let d = &s.detection;
            say("auroc", d.auroc.value);
            say("auroc_low", d.auroc.low);
            say("auroc_high", d.auroc.high);
            say("auprc", d.average_precision.value);
            say("auprc_low", d.average_precision.low);
            say("auprc_high", d.average_precision.high);
            say("fpr95", d.fpr_at_95_tpr.value);
            say("fpr99", d.fpr_at_99_tpr.value);
            say("sens90", d.sensitivity_at_90_specificity.value);
            say("sens95", d.sensitivity_at_95_specificity.value);
            if let Some(o) = &s.operating {
                say("sensitivity", o.sensitivity.value);
                say("specificity", o.specificity.value);
            }
        }
        for (name, s) in &c.scores {
            // The mean residual of the prior is called by its first name.
            let name = if name == "prior_l1" { "prior" } else { name };
            say(&format!("auroc_{name}"), s.detection.auroc.value);
            if name == "top5" {
                say("auprc_top5", s.detection.average_precision.value);
            }
        }
        for (name, s) in &c.baselines {
            let name = if name == VIEW { "view" } else { name };
            say(&format!("auroc_{name}"), s.detection.auroc.value);
        }
        if let Some(matched) = &c.view_matched_auroc {
            say("auroc_view_matched", matched.value);
        }
        if let Some(l) = &c.localisation {
            say("pixel_auroc", l.pixel_auroc);
            say("pixel_auprc", l.pixel_auprc);
            say("box_ap", l.mean_box_ap.value);
        }
        for (name, fid) in [("healthy_fid", &c.healthy_fid), ("untouched_fid", &c.untouched_fid)] {
            if let Some(fid) = fid {
                say(name, fid.value);
            }
        }
        if let Some(set) = self.sets.get(&c.sets.pathology) {
            for name in ["pointing", "energy_inside", "twin_ssim", "lesion_removed"] {
                if let Some(mean) = set.means.get(name) {
                    say(name, mean.estimate.value);
                }
            }
        }
        out
    }
}

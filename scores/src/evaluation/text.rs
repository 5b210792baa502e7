//! The evaluation for people.

use std::fmt::Write as _;

use super::{Comparison, Evaluation, Judged, Localisation, Predictive, Separation};
use crate::{Estimate, columns, format_interval, format_p};

/// What of a set is printed.
const MEANS: [&str; 15] = [
    "l1",
    "mse",
    "psnr",
    "ssim",
    "lpips",
    "l1_inside",
    "l1_outside",
    "ssim_inside",
    "ssim_outside",
    "twin_ssim",
    "untouched_ssim",
    "lesion_removed",
    "displacement",
    "folded",
    "pixel_auroc",
];

fn shown(e: &Estimate) -> String {
    format_interval(e, 3)
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

impl Evaluation {
    /// Tables of text: sets, then each comparison.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let m = &self.model;
        if !m.experiment.is_empty() {
            let score = m.validation_score.map_or(String::new(), |v| format!(", validation score {v:.6}"));
            line(&mut out, &format!("{} ({}), step {}{score}", m.experiment, m.method, m.step));
        }
        let plan = &self.design.bootstrap;
        let level = plan.level * 100.0;
        line(&mut out, &format!("intervals: {level} % of {} resamples, seed {}", plan.resamples, plan.seed));
        for (name, set) in &self.sets {
            let persons = set.persons.map_or("persons unknown".to_owned(), |n| format!("{n} persons"));
            let of = set.datasets.join(", ");
            line(&mut out, &format!("{name}: {} {} images of {of}, {persons}", set.cases, set.role.name()));
            for column in MEANS {
                if let Some(mean) = set.means.get(column) {
                    let n = if mean.cases == set.cases { String::new() } else { format!("  ({} cases)", mean.cases) };
                    line(&mut out, &format!("  {column:<16} {}{n}", shown(&mean.estimate)));
                }
            }
            if let Some(fid) = &set.fid {
                line(&mut out, &format!("  {:<16} {:.3}  (by {}'s Inception)", "fid", fid.value, fid.network));
            }
        }
        for (name, comparison) in &self.comparisons {
            self.comparison(&mut out, name, comparison);
        }
        if let Some(leakage) = &self.leakage {
            line(&mut out, &leakage.text());
        }
        for note in &self.notes {
            line(&mut out, &format!("note: {note}"));
        }
        out
    }

    fn comparison(&self, out: &mut String, name: &str, c: &Comparison) {
        line(
            out,
            &format!(
                "\n{name}: {} healthy, {} pathological, prevalence {:.3} (chance level of AUPRC)",
                c.healthy_cases, c.pathology_cases, c.prevalence
            ),
        );
        let head = ["AUROC", "AUPRC", "FPR@95TPR", "FPR@99TPR", "Sens@Spec90", "Sens@Spec95"];
        let mut titles = format!("  {:<20}", "");
        head.iter().for_each(|h| write!(titles, " {h:<21}").expect("invariant: writing to a String"));
        line(out, titles.trim_end());
        for (by, s) in c.scores.iter().map(|s| (s, "")).chain(c.baselines.iter().map(|s| (s, "baseline "))).map(
            |((name, s), kind)| {
                let mark = if *name == self.design.score { "*" } else { "" };
                (format!("{kind}{name}{mark}"), s)
            },
        ) {
            let d = &s.detection;
            let all = [
                &d.auroc,
                &d.average_precision,
                &d.fpr_at_95_tpr,
                &d.fpr_at_99_tpr,
                &d.sensitivity_at_90_specificity,
                &d.sensitivity_at_95_specificity,
            ];
            let mut row = format!("  {by:<20}");
            all.iter().for_each(|e| write!(row, " {:<21}", shown(e)).expect("invariant: writing to a String"));
            line(out, row.trim_end());
        }
        if let Some(s) = c.scores.get(&self.design.score) {
            self.threshold(out, s);
        }
        if !c.predictive.is_empty() {
            let value = |e: &Option<Estimate>| e.as_ref().map_or("-".to_owned(), shown);
            let at = |p: &Predictive| format!("{}: PPV {}, NPV {}", p.prevalence, value(&p.ppv), value(&p.npv));
            let all: Vec<String> = c.predictive.iter().map(at).collect();
            line(out, &format!("  there, where this share of images is sick: {}", all.join("; ")));
        }
        if let Some(p) = &c.calibration {
            let judged =
                |j: &Judged| format!("Brier {:.3}, calibration error {:.3}", j.brier, j.expected_calibration_error);
            line(
                out,
                &format!(
                    "  as a probability, fitted to {} healthy and {} sick images beside the test set: Platt {}; isotonic {}; Brier of \
                     their share alone {:.3}",
                    p.healthy_cases,
                    p.pathology_cases,
                    judged(&p.platt),
                    judged(&p.isotonic),
                    p.constant_brier
                ),
            );
        }
        for (division, table) in &c.subgroups {
            let one = table.len() == 1 && matches!(table[0].group.as_str(), "unknown");
            if one || (division == "dataset" && table.len() == 1) {
                continue;
            }
            line(out, &format!("  by {division}:"));
            for row in table {
                let auroc = row.detection.as_ref().map_or("insufficient n".to_owned(), |d| shown(&d.auroc));
                line(
                    out,
                    &format!("    {:<10} n- {:<6} n+ {:<6} AUROC {auroc}", row.group, row.healthy, row.pathology),
                );
            }
        }
        if let Some(matched) = &c.view_matched_auroc {
            line(out, &format!("  within views: AUROC {}", shown(matched)));
        }
        if let Some(l) = &c.localisation {
            self.localisation(out, c, l);
        }
        if let (Some(restored), Some(untouched)) = (&c.healthy_fid, &c.untouched_fid) {
            line(
                out,
                &format!(
                    "  FID against {} healthy images: {:.3} of the {} restored, {:.3} of them as they are",
                    restored.against, restored.value, restored.images, untouched.value
                ),
            );
        }
    }

    fn threshold(&self, out: &mut String, s: &Separation) {
        if let Some(o) = &s.operating {
            let asked = self.design.specificity;
            line(
                out,
                &format!(
                    "  at {:.6}, which spares {:.1} % of {} healthy validation images: specificity {} ({:+.3} against the {asked} \
                     that was asked), sensitivity {}",
                    o.threshold,
                    o.validation_specificity * 100.0,
                    o.validation_cases,
                    shown(&o.specificity),
                    o.specificity.value - asked,
                    shown(&o.sensitivity)
                ),
            );
        }
        if let Some(d) = &s.drift {
            let p = format_p(d.p);
            line(out, &format!("  healthy against validation: Kolmogorov-Smirnov {:.3}, p {p}", d.statistic));
        }
    }

    fn localisation(&self, out: &mut String, c: &Comparison, l: &Localisation) {
        line(out, &format!("  where: {} images with {} boxes", l.images, l.boxes));
        let means = self.sets.get(&c.sets.pathology).map(|s| &s.means);
        let mean = |name: &str| means.and_then(|m| m.get(name)).map_or("-".to_owned(), |m| shown(&m.estimate));
        line(
            out,
            &format!(
                "    pixels: AUROC {:.3}, AUPRC {:.3} (chance {:.3}); by image: AUROC {}, AUPRC {}",
                l.pixel_auroc,
                l.pixel_auprc,
                l.pixel_prevalence,
                mean("pixel_auroc"),
                mean("pixel_auprc")
            ),
        );
        line(
            out,
            &format!(
                "    pointing game {}, energy in boxes {}, chance of both {}",
                mean("pointing"),
                mean("energy_inside"),
                mean("box_share")
            ),
        );
        let ap: Vec<String> = l.box_ap.iter().map(|b| format!("@{} {:.3}", b.iou, b.ap.value)).collect();
        line(
            out,
            &format!(
                "    boxes: AP {}, mean {}; challenge {:.3}; oracle Dice {:.3}, IoU {:.3} (threshold chosen on the test set)",
                ap.join(" "),
                shown(&l.mean_box_ap),
                l.challenge,
                l.oracle.dice,
                l.oracle.iou
            ),
        );
        let point = |p: &crate::FrocPoint| format!("{:.3} at {}", p.sensitivity, p.false_positives_per_image);
        let points: Vec<String> = l.froc.iter().map(point).collect();
        line(
            out,
            &format!(
                "    FROC, sensitivity (IoU 0.1) at false regions an image, healthy ones included: {}; mean {:.3}",
                points.join(", "),
                l.mean_froc
            ),
        );
    }
}

impl super::Leakage {
    /// In one line.
    pub fn text(&self) -> String {
        if !self.unchecked.is_empty() {
            let allowed = if self.allowed { ", ALLOWED" } else { "" };
            return format!("leakage: not checked{allowed}: {}", self.unchecked);
        }
        let persons = if self.persons_known { self.persons.to_string() } else { "not known".to_owned() };
        let mut found = format!(
            "leakage: test images whose person is in training: {persons}; that are in training, or nearly: {}",
            self.images
        );
        if self.namesakes > 0 {
            found.push_str(&format!(
                "; of other datasets with an id of somebody in training: {}, the same persons if both datasets are of one source",
                self.namesakes
            ));
        }
        if self.validation > 0 {
            found.push_str(&format!(
                "; {} healthy validation images have a part in training, or their person has: thresholds and scales from them are too low",
                self.validation
            ));
        }
        if self.allowed && self.persons + self.images > 0 {
            format!("{found}; ALLOWED, numbers flatter the network")
        } else {
            found
        }
    }
}

/// The known columns with what they mean, for a legend.
pub fn legend(names: &[String]) -> Vec<(&str, &'static str)> {
    names.iter().filter_map(|n| columns::known(n).map(|c| (n.as_str(), c.meaning))).collect()
}

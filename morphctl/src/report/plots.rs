//! The plots of a comparison.

use morph_scores::{Ranked, quantile_of};

use super::{
    html::Html,
    svg::{Axis, Plot, figure, series},
};

/// Scores of a run or method, in its colour.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// Its place among the methods.
    pub index: usize,
    /// Scores of the healthy.
    pub healthy: Vec<f64>,
    /// Scores of the pathological.
    pub pathology: Vec<f64>,
}

impl Series {
    fn ranked(&self) -> Option<Ranked> {
        Ranked::new(&self.healthy, &self.pathology).ok()
    }
}

const SIDE: f64 = 420.0;

/// ROC curves.
pub fn roc(all: &[Series], what: &str) -> Html {
    let rate = |label: &str| Axis::between(label, 0.0, 1.0);
    let mut plot = Plot::new(SIDE, SIDE, rate("false positive rate"), rate("true positive rate"));
    plot.line("chance", &[(0.0, 0.0), (1.0, 1.0)]);
    for s in all {
        let Some(ranked) = s.ranked() else { continue };
        let points: Vec<(f64, f64)> = ranked.roc(true).iter().map(|p| (p.fpr, p.tpr)).collect();
        plot.line(&series(s.index), &points);
    }
    let said =
        format!("ROC curves of {} methods, healthy against {what}; the table has the areas under them", all.len());
    figure(plot.finish(&said, true), format!("ROC, healthy against {what}. Dashed: chance."))
}

/// Precision–recall curves; chance is the prevalence.
pub fn precision_recall(all: &[Series], what: &str, prevalence: f64) -> Html {
    let rate = |label: &str| Axis::between(label, 0.0, 1.0);
    let mut plot = Plot::new(SIDE, SIDE, rate("recall"), rate("precision"));
    plot.line("chance", &[(0.0, prevalence), (1.0, prevalence)]);
    for s in all {
        let Some(ranked) = s.ranked() else { continue };
        // Precision where nothing is called sick is 1 by convention only.
        let curve = ranked.precision_recall(true);
        let points = curve.iter().filter(|p| p.recall > 0.0).map(|p| (p.recall, p.precision));
        plot.line(&series(s.index), &points.collect::<Vec<(f64, f64)>>());
    }
    let said = format!("precision-recall curves of {} methods, healthy against {what}", all.len());
    let caption =
        format!("Precision and recall, healthy against {what}. Dashed: chance, the prevalence of {prevalence:.3}.");
    figure(plot.finish(&said, true), caption)
}

/// How scores of both classes are distributed, with the threshold from healthy validation images.
pub fn histogram(s: &Series, score: &str, threshold: Option<f64>) -> Html {
    const BINS: usize = 30;
    let all = || s.healthy.iter().chain(&s.pathology).copied();
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let width = ((high - low) / BINS as f64).max(f64::MIN_POSITIVE);
    let share = |values: &[f64]| {
        let mut bins = [0usize; BINS];
        values.iter().for_each(|v| bins[(((v - low) / width) as usize).min(BINS - 1)] += 1);
        bins.map(|n| n as f64 / values.len().max(1) as f64)
    };
    let (healthy, sick) = (share(&s.healthy), share(&s.pathology));
    let highest = healthy.iter().chain(&sick).copied().fold(0.0, f64::max);
    let x = Axis::between(score, low, high);
    let mut plot = Plot::new(300.0, 190.0, x, Axis::between("share of the class", 0.0, highest * 1.05));
    for (class, bins) in [("healthy", healthy), ("sick", sick)] {
        let at = |i: usize| low + i as f64 * width;
        let steps: Vec<(f64, f64, f64)> = bins.iter().enumerate().map(|(i, n)| (at(i), at(i + 1), *n)).collect();
        plot.steps(class, &steps);
    }
    threshold.into_iter().filter(|t| (low..=high).contains(t)).for_each(|t| plot.upright("threshold", t));
    let said = format!(
        "histogram of {score} of {}: {} healthy and {} pathological images",
        s.label,
        s.healthy.len(),
        s.pathology.len()
    );
    figure(plot.finish(&said, true), s.label.clone())
}

/// Box plots of both classes for every method: 5, 25, 50, 75 and 95 % of the cases.
pub fn boxes(all: &[Series], score: &str, what: &str) -> Html {
    let five = |values: &[f64]| {
        let mut out = [0.0; 5];
        for (slot, q) in out.iter_mut().zip([0.05, 0.25, 0.5, 0.75, 0.95]) {
            *slot = quantile_of(values, q).unwrap_or(f64::NAN);
        }
        out
    };
    let rows: Vec<(&Series, [f64; 5], [f64; 5])> =
        all.iter().map(|s| (s, five(&s.healthy), five(&s.pathology))).collect();
    let x = Axis::around(score, rows.iter().flat_map(|(_, h, p)| h.iter().chain(p).copied().collect::<Vec<f64>>()));
    let n = rows.len() as f64;
    let longest = rows.iter().map(|(s, ..)| s.label.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 6.4 + 22.0).clamp(80.0, 260.0);
    let mut plot = Plot::new(860.0, 52.0 + 34.0 * n, x, Axis::between("", 0.0, n)).with_left(left);
    for (i, (s, healthy, sick)) in rows.iter().enumerate() {
        let y = n - i as f64 - 0.5;
        plot.lying_box("healthy", y + 0.2, 0.3, *healthy);
        plot.lying_box("sick", y - 0.2, 0.3, *sick);
        let short: String = s.label.chars().take(38).collect();
        plot.name(y, &short);
    }
    let said = format!("box plots of {score} of healthy and {what} images for {} methods", rows.len());
    let caption = format!("{score} of healthy (upper) and {what} (lower) images: 5, 25, 50, 75 and 95 % of the cases.");
    figure(plot.finish(&said, false), caption)
}

/// Whether p-values of healthy test images are what they say: on the diagonal, 5 % of them are below 0.05.
pub fn calibration(all: &[(usize, Vec<f64>)], what: &str) -> Html {
    let share = |label: &str| Axis::between(label, 0.0, 1.0);
    let mut plot = Plot::new(SIDE, SIDE, share("p-value"), share("share of healthy test images below"));
    plot.line("chance", &[(0.0, 0.0), (1.0, 1.0)]);
    for (index, values) in all {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let mut points = vec![(0.0, 0.0)];
        for (i, p) in sorted.iter().enumerate() {
            points.extend([(*p, i as f64 / n), (*p, (i + 1) as f64 / n)]);
        }
        points.push((1.0, 1.0));
        plot.line(&series(*index), &points);
    }
    let said =
        format!("distribution of the p-values of healthy images in comparison {what}, for {} methods", all.len());
    let caption = "p-values of healthy test images against healthy validation images. On the dashed line thresholds hold what \
                   they promise; above it more healthy images are called sick.";
    figure(plot.finish(&said, true), caption)
}

/// Loss and validation score over the steps.
pub fn training(label: &str, index: usize, loss: &[(f64, f64)], score: &[(f64, f64)]) -> Html {
    let steps = loss.iter().chain(score).map(|p| p.0).fold(1.0, f64::max);
    let draw = |name: &str, points: &[(f64, f64)], dots: bool| {
        let x = Axis::between("step", 0.0, steps);
        let mut plot = Plot::new(300.0, 170.0, x, Axis::around(name, points.iter().map(|p| p.1)));
        plot.line(&series(index), points);
        if dots && points.len() <= 60 {
            points.iter().for_each(|p| plot.dot(&series(index), *p, 2.2));
        }
        let last = points.last().map_or(String::new(), |p| format!(", at the end {:.4}", p.1));
        let said = format!("{name} of {label} over {steps} steps{last}");
        figure(plot.finish(&said, true), format!("{label}: {name}{last}"))
    };
    let mut parts = Vec::new();
    if !loss.is_empty() {
        parts.push(draw("training loss", loss, false));
    }
    if !score.is_empty() {
        parts.push(draw("validation score", score, true));
    }
    parts.into()
}

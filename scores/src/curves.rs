//! Areas and points of curves, on slices of steps: the bootstrap calls them thousands of times on buffers of its own.

use crate::{
    Error,
    ranked::{Point, PrPoint, Step},
};

pub(crate) fn share(what: &'static str, name: &str, value: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::Shape { what, why: format!("a {name} of {value} cannot be reached; it lies in 0..=1") })
    }
}

pub(crate) fn totals(steps: &[Step]) -> (u64, u64) {
    steps.last().map_or((0, 0), |s| (s.healthy, s.pathology))
}

pub(crate) fn auroc(steps: &[Step]) -> f64 {
    let (mut area, mut last) = (0u128, (0, 0));
    for step in steps {
        // Twice the trapezoid, in whole numbers: exact, for pixels of thousands of images, too.
        area += u128::from(step.healthy - last.0) * u128::from(step.pathology + last.1);
        last = (step.healthy, step.pathology);
    }
    area as f64 / 2.0 / (last.0 as f64 * last.1 as f64)
}

pub(crate) fn average_precision(steps: &[Step]) -> f64 {
    let (mut sum, mut last) = (0.0, 0);
    for step in steps {
        let precision = step.pathology as f64 / (step.pathology + step.healthy) as f64;
        sum += (step.pathology - last) as f64 * precision;
        last = step.pathology;
    }
    sum / last as f64
}

fn point(step: &Step, total: (u64, u64)) -> Point {
    Point {
        fpr: step.healthy as f64 / total.0 as f64,
        tpr: step.pathology as f64 / total.1 as f64,
        threshold: step.threshold,
    }
}

/// Whether the curve of counts bends at step `i`, or ends there.
fn bends(steps: &[Step], i: usize) -> bool {
    let Some(([before], [here, after, ..])) = i.checked_sub(1).map(|b| (&steps[b..i], &steps[i..])) else {
        return true;
    };
    let bend = |f: fn(&Step) -> u64| f(after) + f(before) != 2 * f(here);
    bend(|s| s.healthy) || bend(|s| s.pathology)
}

/// All points but (0, 0).
pub(crate) fn roc(steps: &[Step], drop_intermediate: bool) -> impl Iterator<Item = Point> {
    let total = totals(steps);
    (0..steps.len()).filter(move |i| !drop_intermediate || bends(steps, *i)).map(move |i| point(&steps[i], total))
}

pub(crate) fn precision_recall(steps: &[Step], drop_intermediate: bool) -> Vec<PrPoint> {
    let total = totals(steps).1 as f64;
    let last = steps.len().saturating_sub(1);
    let moves = |i: usize| steps[i].pathology != steps[i - 1].pathology;
    let kept = |i: usize| !drop_intermediate || i == 0 || i == last || moves(i) || moves(i + 1);
    let end = PrPoint { recall: 0.0, precision: 1.0, threshold: f64::INFINITY };
    (0..steps.len())
        .rev()
        .filter(|i| kept(*i))
        .map(|i| PrPoint {
            recall: steps[i].pathology as f64 / total,
            precision: steps[i].pathology as f64 / (steps[i].pathology + steps[i].healthy) as f64,
            threshold: steps[i].threshold,
        })
        .chain(std::iter::once(end))
        .collect()
}

/// `tpr` lies in 0..=1.
pub(crate) fn at_tpr(steps: &[Step], tpr: f64) -> Point {
    let total = totals(steps);
    let start = Point { fpr: 0.0, tpr: 0.0, threshold: f64::INFINITY };
    if tpr <= 0.0 {
        return start;
    }
    // Rates rise, so the first whole step is found by bisection, and the first kept one lies at or after it.
    let first = steps.partition_point(|s| (s.pathology as f64 / total.1 as f64) < tpr);
    (first..steps.len()).find(|i| bends(steps, *i)).map_or(start, |i| point(&steps[i], total))
}

/// `specificity` lies in 0..=1.
pub(crate) fn at_specificity(steps: &[Step], specificity: f64) -> Point {
    let total = totals(steps);
    let allowed = steps.partition_point(|s| ((total.0 - s.healthy) as f64 / total.0 as f64) >= specificity);
    let found = allowed.checked_sub(1).map_or(0, |last| steps[last].pathology);
    // Of the points with this sensitivity the one with the fewest false alarms; of none found, the one that calls nothing.
    match found {
        1.. => point(&steps[steps.partition_point(|s| s.pathology < found)], total),
        0 => Point { fpr: 0.0, tpr: 0.0, threshold: f64::INFINITY },
    }
}

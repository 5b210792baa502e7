//! How sure the average precision of boxes is: images drawn with replacement, as for every other interval.

use crate::{
    Error, Estimate, Plan,
    bootstrap::Stratum,
    components::{Found, Match, area, cumulative, matches},
};

/// [`box_average_precision`](crate::box_average_precision) at each of `thresholds` and its mean over them, with intervals.
/// Persons (one a found image, where they are known) are drawn whole. Detections are matched once: what an image's
/// detections hit does not depend on the other images.
///
/// # Errors
/// As [`box_average_precision`](crate::box_average_precision), and when there are no thresholds, or the plan or the persons do not
/// fit.
pub fn bootstrap_boxes(
    images: &[Found],
    thresholds: &[f64],
    persons: Option<&[u64]>,
    plan: Plan,
) -> Result<(Vec<Estimate>, Estimate), Error> {
    const WHAT: &str = "AP of boxes";
    let plan = plan.checked()?;
    if thresholds.is_empty() {
        return Err(Error::Empty { what: WHAT, set: "thresholds" });
    }
    let matched = thresholds
        .iter()
        .map(|t| matches(WHAT, images, *t).map(|(matched, _)| matched))
        .collect::<Result<Vec<Vec<Match>>, Error>>()?;
    let stratum = Stratum::new(images.len(), persons)?;
    let each = |times: &[u64]| -> Vec<f64> {
        let boxes: f64 = images.iter().zip(times).map(|(f, n)| f.boxes() as f64 * *n as f64).sum();
        matched.iter().map(|m| area(&cumulative(m, |image| times[image] as f64), boxes)).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let whole = each(&vec![1; images.len()]);
    let mut times = Vec::new();
    let mut resampled: Vec<Vec<f64>> = Vec::new();
    for i in 0..plan.resamples {
        stratum.draw(&mut plan.rng(i), &mut times);
        let values = each(&times);
        // Where images without boxes take part, a resample may have drawn no box at all: it has no precision.
        if values.iter().all(|v| v.is_finite()) {
            resampled.push(values);
        }
    }
    if resampled.is_empty() {
        return Err(Error::Empty { what: WHAT, set: "resamples with boxes" });
    }
    let estimates = (0..thresholds.len())
        .map(|k| Estimate::percentile(whole[k], resampled.iter().map(|r| r[k]).collect(), plan.level))
        .collect();
    let means = resampled.iter().map(|r| mean(r)).collect();
    Ok((estimates, Estimate::percentile(mean(&whole), means, plan.level)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{box_average_precision, boxes::Rect};

    const A: Rect = [0.0, 0.0, 0.2, 0.2];
    const B: Rect = [0.5, 0.5, 0.2, 0.2];

    #[test]
    fn the_interval_holds_the_number_and_an_image_counts_as_often_as_it_is_drawn() {
        let image = |at: Rect, score: f64| Found { detections: vec![(at, score)], truth: vec![A] };
        let images: Vec<Found> = (0..20).map(|i| image(if i % 3 == 0 { B } else { A }, f64::from(i))).collect();
        let plan = Plan { resamples: 200, ..Plan::default() };
        let (each, mean) = bootstrap_boxes(&images, &[0.1, 0.5], None, plan).unwrap();
        let ap = box_average_precision(&images, 0.5).unwrap();
        assert_eq!(each[1].value, ap);
        assert!(each[1].low < ap && ap < each[1].high && mean.value == ap, "{each:?}");
        // One person: every resample is the whole.
        let (same, _) = bootstrap_boxes(&images, &[0.5], Some(&[7; 20]), plan).unwrap();
        assert_eq!((same[0].low, same[0].high), (ap, ap));
        assert!(bootstrap_boxes(&images, &[], None, plan).is_err());
        assert!(bootstrap_boxes(&images, &[0.5], Some(&[1]), plan).is_err());
    }
}

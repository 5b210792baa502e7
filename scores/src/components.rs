//! Detected regions: connected components of a thresholded map, and how well they meet the boxes.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Estimate,
    boxes::{Rect, has_area, iou, plane, valid},
};

/// A connected region of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Its bounding box, in shares of the image.
    pub rect: Rect,
    /// Mean of the map over it: how sure it is.
    pub score: f64,
    /// Its pixels.
    pub area: usize,
}

/// The 8-connected regions in which `map` is at least `threshold`, of at least `min_area` pixels, highest score first (then
/// topmost, then leftmost). The project takes the 97.5 % quantile of the healthy validation residuals as threshold.
///
/// # Errors
/// When sizes do not fit, a value is not finite, or `threshold` is NaN.
pub fn regions(
    map: &[f64],
    height: usize,
    width: usize,
    threshold: f64,
    min_area: usize,
) -> Result<Vec<Region>, Error> {
    const WHAT: &str = "regions";
    plane(WHAT, map, height, width)?;
    if threshold.is_nan() {
        return Err(Error::NotFinite { what: WHAT, set: "thresholds", index: 0, value: threshold });
    }
    let mut open: Vec<bool> = map.iter().map(|v| *v >= threshold).collect();
    let mut regions = Vec::new();
    let mut todo = Vec::new();
    for start in 0..map.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        todo.push(start);
        let (mut top, mut bottom, mut left, mut right) = (height, 0, width, 0);
        let (mut area, mut sum) = (0, 0.0);
        while let Some(at) = todo.pop() {
            let (row, column) = (at / width, at % width);
            (top, bottom) = (top.min(row), bottom.max(row));
            (left, right) = (left.min(column), right.max(column));
            area += 1;
            sum += map[at];
            for r in row.saturating_sub(1)..(row + 2).min(height) {
                for c in column.saturating_sub(1)..(column + 2).min(width) {
                    if std::mem::take(&mut open[r * width + c]) {
                        todo.push(r * width + c);
                    }
                }
            }
        }
        if area >= min_area {
            let (h, w) = (height as f64, width as f64);
            let extent = [(right + 1 - left) as f64 / w, (bottom + 1 - top) as f64 / h];
            let rect = [left as f64 / w, top as f64 / h, extent[0], extent[1]];
            regions.push(Region { rect, score: sum / area as f64, area });
        }
    }
    // Stable, so that equal scores stay in reading order.
    regions.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(regions)
}

/// What was found in one image, and what is there; an image without findings has no boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Detected boxes with their scores.
    pub detections: Vec<(Rect, f64)>,
    /// The true boxes.
    pub truth: Vec<Rect>,
}

impl Found {
    /// From an image's regions.
    pub fn new(regions: &[Region], truth: &[Rect]) -> Self {
        Self { detections: regions.iter().map(|r| (r.rect, r.score)).collect(), truth: truth.to_vec() }
    }

    pub(crate) fn boxes(&self) -> usize {
        self.truth.iter().filter(|t| has_area(t)).count()
    }
}

/// A detection after matching.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Match {
    pub score: f64,
    /// Whether it hit a box that no better one had hit.
    pub hit: bool,
    /// Position of its image.
    pub image: usize,
}

/// All images' detections, best first, matched greedily: each takes the free box of its image with the highest IoU, if
/// that reaches `threshold`.
pub(crate) fn matches(what: &'static str, images: &[Found], threshold: f64) -> Result<(Vec<Match>, usize), Error> {
    if !(threshold > 0.0 && threshold <= 1.0) {
        return Err(Error::Shape {
            what,
            why: format!("an IoU of {threshold} is no threshold; it lies in 0..=1, above 0"),
        });
    }
    let mut all: Vec<(usize, &Rect, f64)> = Vec::new();
    for (image, found) in images.iter().enumerate() {
        valid(what, &found.truth)?;
        for (rect, score) in &found.detections {
            valid(what, std::slice::from_ref(rect))?;
            if !score.is_finite() {
                return Err(Error::NotFinite { what, set: "images", index: image, value: *score });
            }
            all.push((image, rect, *score));
        }
    }
    let boxes = images.iter().map(Found::boxes).sum();
    if boxes == 0 {
        return Err(Error::Empty { what, set: "true boxes" });
    }
    all.sort_by(|a, b| b.2.total_cmp(&a.2));
    let mut free: Vec<Vec<bool>> = images.iter().map(|f| f.truth.iter().map(has_area).collect()).collect();
    let matched = all.into_iter().map(|(image, rect, score)| {
        let candidates = (0..images[image].truth.len()).filter(|k| free[image][*k]);
        let best = candidates
            .map(|k| (k, iou(rect, &images[image].truth[k])))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
            .filter(|(_, iou)| *iou >= threshold);
        if let Some((k, _)) = best {
            free[image][k] = false;
        }
        Match { score, hit: best.is_some(), image }
    });
    Ok((matched.collect(), boxes))
}

/// After each group of equally sure detections: (all so far, hits so far), those of image `i` counted `times(i)` times.
pub(crate) fn cumulative(matched: &[Match], times: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    let (mut all, mut hits) = (0.0, 0.0);
    let mut out = Vec::new();
    for group in matched.chunk_by(|a, b| a.score == b.score) {
        all += group.iter().map(|m| times(m.image)).sum::<f64>();
        hits += group.iter().filter(|m| m.hit).map(|m| times(m.image)).sum::<f64>();
        out.push((all, hits));
    }
    out
}

/// Area under the precision–recall curve of `boxes` boxes, precision made to fall.
pub(crate) fn area(curve: &[(f64, f64)], boxes: f64) -> f64 {
    let (mut area, mut highest) = (0.0, 0.0f64);
    for (i, (all, hits)) in curve.iter().enumerate().rev() {
        if *all > 0.0 {
            highest = highest.max(hits / all);
        }
        let before = i.checked_sub(1).map_or(0.0, |b| curve[b].1);
        area += (hits - before) * highest;
    }
    area / boxes
}

/// Average precision of detected boxes at an IoU threshold: area under the precision–recall curve whose precision is made
/// to fall (PASCAL VOC 2010's rule). Equally sure detections enter together, so that the order of images does not matter.
///
/// # Errors
/// When no image has a box, one is not finite or negative, a score is not finite, or `threshold` is not in 0..=1 and above 0.
pub fn box_average_precision(images: &[Found], threshold: f64) -> Result<f64, Error> {
    let (matched, boxes) = matches("AP of boxes", images, threshold)?;
    Ok(area(&cumulative(&matched, |_| 1.0), boxes as f64))
}

/// [`box_average_precision`] at each of `thresholds`, and their mean: 0.1 to 0.5 for heat maps, which were never trained to
/// draw boxes ([`HEAT_MAP_IOUS`]).
///
/// # Errors
/// As [`box_average_precision`], and when there are no thresholds.
pub fn box_average_precisions(images: &[Found], thresholds: &[f64]) -> Result<(Vec<f64>, f64), Error> {
    if thresholds.is_empty() {
        return Err(Error::Empty { what: "AP of boxes", set: "thresholds" });
    }
    let each = thresholds.iter().map(|t| box_average_precision(images, *t)).collect::<Result<Vec<f64>, Error>>()?;
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    Ok((each, mean))
}

/// IoU thresholds of heat maps' regions.
pub const HEAT_MAP_IOUS: [f64; 5] = [0.1, 0.2, 0.3, 0.4, 0.5];
/// IoU thresholds of RSNA's challenge.
pub const CHALLENGE_IOUS: [f64; 8] = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75];

/// The score of Kaggle's RSNA challenge of 2018, which is called mean average precision but ranks nothing: for each image the
/// mean over `thresholds` of hits / (hits + false detections + missed boxes), then the mean over images. An image without
/// boxes counts 0 when something is detected, and does not count at all when nothing is.
///
/// # Errors
/// When no image counts, a box is not finite or negative, a score not finite, or there are no thresholds in 0..=1, above 0.
pub fn challenge_score(images: &[Found], thresholds: &[f64]) -> Result<f64, Error> {
    const WHAT: &str = "challenge score";
    if thresholds.is_empty() {
        return Err(Error::Empty { what: WHAT, set: "thresholds" });
    }
    let (mut sum, mut counted) = (0.0, 0);
    for found in images {
        let truth = found.boxes();
        if truth == 0 {
            counted += usize::from(!found.detections.is_empty());
            continue;
        }
        counted += 1;
        for threshold in thresholds {
            let (matched, _) = matches(WHAT, std::slice::from_ref(found), *threshold)?;
            let hits = matched.iter().filter(|m| m.hit).count();
            // Detections and boxes, those that met counted once.
            sum += hits as f64 / (matched.len() + truth - hits) as f64 / thresholds.len() as f64;
        }
    }
    if counted == 0 {
        return Err(Error::Empty { what: WHAT, set: "images that count" });
    }
    Ok(sum / counted as f64)
}

/// A point of the FROC curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrocPoint {
    /// False detections per image, images without findings included.
    pub false_positives_per_image: f64,
    /// Share of the boxes that is hit.
    pub sensitivity: f64,
}

/// The free-response ROC curve (Chakraborty 1989): boxes hit at an IoU of `threshold` against false detections per image.
///
/// # Errors
/// As [`box_average_precision`].
pub fn froc(images: &[Found], threshold: f64) -> Result<Vec<FrocPoint>, Error> {
    let (matched, boxes) = matches("FROC", images, threshold)?;
    let start = FrocPoint { false_positives_per_image: 0.0, sensitivity: 0.0 };
    let points = cumulative(&matched, |_| 1.0).into_iter().map(|(all, hits)| FrocPoint {
        false_positives_per_image: (all - hits) / images.len() as f64,
        sensitivity: hits / boxes as f64,
    });
    Ok(std::iter::once(start).chain(points).collect())
}

/// False detections per image at which a FROC curve is read (LUNA16's).
pub const FROC_RATES: [f64; 7] = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The highest sensitivity of a FROC curve at each of `rates` false detections per image: as a step function, not drawn on
/// beyond what was measured.
pub fn froc_at(curve: &[FrocPoint], rates: &[f64]) -> Vec<FrocPoint> {
    let best = |rate: f64| {
        let reached = curve.iter().filter(|p| p.false_positives_per_image <= rate);
        reached.map(|p| p.sensitivity).fold(0.0, f64::max)
    };
    rates.iter().map(|rate| FrocPoint { false_positives_per_image: *rate, sensitivity: best(*rate) }).collect()
}

/// Share of images with boxes in which the surest detection hits one, with its interval; `None` when no image has a box.
///
/// # Errors
/// As [`box_average_precision`], save that no box is no error.
pub fn top_detection_hits(images: &[Found], threshold: f64) -> Result<Option<Estimate>, Error> {
    let (mut hits, mut n) = (0, 0);
    for found in images.iter().filter(|f| f.boxes() > 0) {
        let best = found.detections.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let only = Found { detections: best.into_iter().collect(), truth: found.truth.clone() };
        n += 1;
        hits += u64::from(matches("top detection", &[only], threshold)?.0.iter().any(|m| m.hit));
    }
    Ok(crate::wilson(hits, n))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn regions_touch_at_corners_and_come_best_first() {
        #[rustfmt::skip]
        let map = [
            0.9, 0.0, 0.0, 0.0,
            0.0, 0.7, 0.0, 0.5,
            0.0, 0.0, 0.0, 0.5,
        ];
        let found = regions(&map, 3, 4, 0.5, 1).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].area, found[0].rect), (2, [0.0, 0.0, 0.5, 2.0 / 3.0]));
        assert!((found[0].score - 0.8).abs() < 1e-15);
        assert_eq!(found[1].rect, [0.75, 1.0 / 3.0, 0.25, 2.0 / 3.0]);
        assert_eq!(regions(&map, 3, 4, 0.5, 3).unwrap(), []);
        assert_eq!(regions(&map, 3, 4, -1.0, 1).unwrap()[0].area, 12);
        assert!(regions(&map, 4, 4, 0.5, 1).is_err() && regions(&map, 3, 4, f64::NAN, 1).is_err());
    }

    const A: Rect = [0.0, 0.0, 0.2, 0.2];
    const B: Rect = [0.5, 0.5, 0.2, 0.2];

    #[test]
    fn precision_of_boxes_by_hand() {
        let image = |detections: &[(Rect, f64)], truth: &[Rect]| Found {
            detections: detections.to_vec(),
            truth: truth.to_vec(),
        };
        // Hit, miss, hit of two boxes: (1 · 1 + 1 · 2/3) / 2.
        let images = [image(&[(A, 0.9), (A, 0.8)], &[A]), image(&[(B, 0.7)], &[B])];
        assert!((box_average_precision(&images, 0.5).unwrap() - 5.0 / 6.0).abs() < 1e-15);
        let curve = froc(&images, 0.5).unwrap();
        assert_eq!(curve[3], FrocPoint { false_positives_per_image: 0.5, sensitivity: 1.0 });
        let read: Vec<f64> = froc_at(&curve, &FROC_RATES).iter().map(|p| p.sensitivity).collect();
        assert_eq!(read, [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(top_detection_hits(&images, 0.5).unwrap().unwrap().value, 1.0);
        assert_eq!(box_average_precision(&[image(&[], &[A])], 0.5), Ok(0.0));
        assert_eq!(box_average_precision(&[image(&[(A, 1.0)], &[A])], 1.0), Ok(1.0));
        assert!(matches!(box_average_precision(&[image(&[(A, 1.0)], &[])], 0.5), Err(Error::Empty { .. })));
        assert!(box_average_precision(&images, 0.0).is_err());
        assert!(box_average_precision(&[image(&[(A, f64::NAN)], &[A])], 0.5).is_err());
        let (each, mean) = box_average_precisions(&images, &[0.1, 0.5]).unwrap();
        assert_eq!((each.len(), mean), (2, each[0]));

        // One of two detections hits, then the only one does; an image without boxes counts only where something is found.
        assert_eq!(challenge_score(&images, &CHALLENGE_IOUS), Ok(0.75));
        let [first, second] = images;
        let none = image(&[], &[[0.5, 1.0, 0.2, 0.0]]);
        let with_none = [first.clone(), second.clone(), none.clone()];
        assert_eq!(challenge_score(&with_none, &CHALLENGE_IOUS), Ok(0.75), "a box outside of the image is none");
        assert_eq!(box_average_precision(&with_none, 0.5), box_average_precision(&with_none[..2], 0.5));
        assert_eq!(challenge_score(&[first, second, image(&[(A, 0.1)], &[])], &CHALLENGE_IOUS), Ok(0.5));
        assert!(challenge_score(&[none], &CHALLENGE_IOUS).is_err());
    }

    proptest! {
        #[test]
        fn stricter_overlap_and_other_orders(
            boxes in prop::collection::vec((0..4u8, 0..4u8, 1..4u8, 1..4u8, 0..5u8, any::<bool>()), 1..25)
        ) {
            let mut images = vec![Found { detections: Vec::new(), truth: vec![A] }; 3];
            for (i, (x, y, w, h, score, truth)) in boxes.iter().enumerate() {
                let rect = [x, y, w, h].map(|v| f64::from(*v) / 8.0);
                // One true box an image and distinct scores within it: which of two equals takes a box is then no question.
                if *truth { images[i % 3].truth = vec![rect] } else { images[i % 3].detections.push((rect, f64::from(*score) * 32.0 + (i / 3) as f64)) }
            }
            let loose = box_average_precision(&images, 0.2).unwrap();
            let strict = box_average_precision(&images, 0.5).unwrap();
            prop_assert!((0.0..=1.0).contains(&loose) && strict <= loose + 1e-12);
            images.reverse();
            prop_assert!((box_average_precision(&images, 0.2).unwrap() - loose).abs() < 1e-12);
        }
    }
}

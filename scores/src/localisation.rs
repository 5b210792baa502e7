//! How well an anomaly map says where: pixels of many images counted in one histogram, and numbers of single images.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Ranked,
    boxes::{Rect, box_mask, plane},
};

const WHAT: &str = "localisation";

/// Pixels inside and outside of boxes by the map's value. Thousands of images' pixels fit where sorting them does not, and
/// counts of parts of a test set (ranks) add up to the whole's exactly, in any order.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelHistogram {
    scale: f64,
    inside: Vec<u64>,
    outside: Vec<u64>,
}

/// The threshold at which thresholded pixels agree best with the boxes. It is chosen with the test set's truth in sight: an
/// upper bound ("oracle"), no result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestOverlap {
    /// Pixels of at least this are called sick.
    pub threshold: f64,
    /// Dice coefficient (F1) over all pixels.
    pub dice: f64,
    /// Intersection over union over all pixels: Dice / (2 − Dice), so best at the same threshold.
    pub iou: f64,
}

impl PixelHistogram {
    /// Empty, of `bins` equally wide bins over 0..`scale`. Values of `scale` or more share the last bin, negative ones the
    /// first; values in one bin count as ties, so bins should be many where residuals lie close: thousands.
    ///
    /// # Errors
    /// When there are no bins or `scale` is not above 0.
    pub fn new(bins: usize, scale: f64) -> Result<Self, Error> {
        if bins == 0 || !scale.is_finite() || scale <= 0.0 {
            return Err(Error::Shape { what: WHAT, why: format!("{bins} bins over 0..{scale} hold nothing") });
        }
        Ok(Self { scale, inside: vec![0; bins], outside: vec![0; bins] })
    }

    /// Counts the pixels of an image's map, `height` × `width`, against its boxes. An image without boxes counts as all
    /// outside.
    ///
    /// # Errors
    /// When sizes do not fit, a value is not finite, or a box is no box.
    pub fn add(&mut self, map: &[f64], height: usize, width: usize, boxes: &[Rect]) -> Result<(), Error> {
        plane(WHAT, map, height, width)?;
        let truth = box_mask(boxes, height, width)?;
        self.add_masked(map, &truth)
    }

    /// Counts pixels against a mask of the truth (a phantom's lesions).
    ///
    /// # Errors
    /// When sizes differ or a value is not finite.
    pub fn add_masked(&mut self, map: &[f64], truth: &[bool]) -> Result<(), Error> {
        crate::checked(WHAT, "map", map)?;
        same_size(map, truth)?;
        let last = self.inside.len() - 1;
        let per_unit = self.inside.len() as f64 / self.scale;
        for (value, inside) in map.iter().zip(truth) {
            // A cast of a negative number is 0.
            let bin = ((value * per_unit) as usize).min(last);
            if *inside { self.inside[bin] += 1 } else { self.outside[bin] += 1 }
        }
        Ok(())
    }

    /// Adds another part's counts.
    ///
    /// # Errors
    /// When bins or scale differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.scale != other.scale || self.inside.len() != other.inside.len() {
            return Err(Error::Shape { what: WHAT, why: "histograms of different bins do not add up".to_owned() });
        }
        self.inside.iter_mut().zip(&other.inside).for_each(|(a, b)| *a += b);
        self.outside.iter_mut().zip(&other.outside).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Counts inside, then counts outside, lowest bin first: what ranks send each other. Each is exact as an `f64` up to 2⁵³.
    pub fn counts(&self) -> Vec<u64> {
        [self.inside.as_slice(), &self.outside].concat()
    }

    /// From [`counts`](Self::counts), summed over ranks.
    ///
    /// # Errors
    /// When the counts are not two histograms, or as [`new`](Self::new).
    pub fn from_counts(counts: &[u64], scale: f64) -> Result<Self, Error> {
        if !counts.len().is_multiple_of(2) {
            return Err(Error::Shape { what: WHAT, why: format!("{} counts are not two histograms", counts.len()) });
        }
        let (inside, outside) = counts.split_at(counts.len() / 2);
        Ok(Self { inside: inside.to_vec(), outside: outside.to_vec(), ..Self::new(inside.len(), scale)? })
    }

    /// The pixels as two samples: their AUROC and average precision are the pixel-wise ones. Chance level of the latter is
    /// the boxes' share of the area, [`Ranked::prevalence`].
    ///
    /// # Errors
    /// When no pixel is inside, or none outside.
    pub fn ranked(&self) -> Result<Ranked, Error> {
        let lower_edge = |bin: usize| bin as f64 * self.scale / self.inside.len() as f64;
        let bins = (0..self.inside.len()).rev();
        Ranked::from_counts(bins.map(|i| (lower_edge(i), self.outside[i], self.inside[i])))
    }

    /// The best threshold, and what it reaches ("oracle"). Of equally good ones the highest.
    ///
    /// # Errors
    /// When no pixel is inside, or none outside.
    pub fn best_overlap(&self) -> Result<BestOverlap, Error> {
        let ranked = self.ranked()?;
        let all = ranked.counts().1;
        let mut best = BestOverlap { threshold: f64::INFINITY, dice: 0.0, iou: 0.0 };
        for step in ranked.steps() {
            let called = step.healthy + step.pathology;
            let dice = 2.0 * step.pathology as f64 / (called + all) as f64;
            if dice > best.dice {
                let iou = step.pathology as f64 / (called + all - step.pathology) as f64;
                best = BestOverlap { threshold: step.threshold, dice, iou };
            }
        }
        Ok(best)
    }
}

fn same_size(map: &[f64], truth: &[bool]) -> Result<(), Error> {
    if map.len() == truth.len() {
        Ok(())
    } else {
        Err(Error::Shape { what: WHAT, why: format!("{} pixels, but a mask of {}", map.len(), truth.len()) })
    }
}

/// Where one image's map points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pointing {
    /// Whether the highest pixel lies in a box (Zhang et al. 2016, the pointing game). Of equally high pixels the first in
    /// reading order: a constant map points at the corner, and not at everything.
    pub hit: bool,
    /// Share of the map's sum that lies in boxes; `None` when the sum is not above 0. Meant for maps without negative
    /// values.
    pub energy_inside: Option<f64>,
    /// Share of the image that boxes cover: the chance level of both.
    pub chance: f64,
}

/// Looks where `map` (smoothed, see [`gaussian_smooth`](crate::gaussian_smooth)) points in an image that has `boxes`.
///
/// # Errors
/// When sizes do not fit, a value is not finite, a box is no box, or no pixel lies in a box.
pub fn pointing(map: &[f64], height: usize, width: usize, boxes: &[Rect]) -> Result<Pointing, Error> {
    plane(WHAT, map, height, width)?;
    let truth = box_mask(boxes, height, width)?;
    let covered = truth.iter().filter(|t| **t).count();
    if covered == 0 {
        return Err(Error::Empty { what: "pointing game", set: "boxes" });
    }
    let highest = (1..map.len()).fold(0, |best, i| if map[i] > map[best] { i } else { best });
    let total: f64 = map.iter().sum();
    let inside: f64 = map.iter().zip(&truth).filter(|(_, t)| **t).map(|(v, _)| v).sum();
    Ok(Pointing {
        hit: truth[highest],
        energy_inside: (total > 0.0).then(|| inside / total),
        chance: covered as f64 / map.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{auroc, average_precision};

    proptest! {
        #[test]
        fn bins_count_what_sorting_counts(pixels in prop::collection::vec((0..64u8, any::<bool>()), 2..200), at in 0..200usize) {
            let map: Vec<f64> = pixels.iter().map(|p| f64::from(p.0) / 64.0).collect();
            let mut truth: Vec<bool> = pixels.iter().map(|p| p.1).collect();
            (truth[0], truth[1]) = (true, false);
            let mut whole = PixelHistogram::new(64, 1.0).unwrap();
            whole.add_masked(&map, &truth).unwrap();
            let pick = |want: bool| map.iter().zip(&truth).filter(|(_, t)| **t == want).map(|(v, _)| *v).collect::<Vec<f64>>();
            let (outside, inside) = (pick(false), pick(true));
            prop_assert_eq!(whole.ranked().unwrap().auroc(), auroc(&outside, &inside).unwrap());
            prop_assert_eq!(whole.ranked().unwrap().average_precision(), average_precision(&outside, &inside).unwrap());

            let cut = at.clamp(1, map.len() - 1);
            let mut parts = PixelHistogram::new(64, 1.0).unwrap();
            let mut rest = parts.clone();
            parts.add_masked(&map[cut..], &truth[cut..]).unwrap();
            rest.add_masked(&map[..cut], &truth[..cut]).unwrap();
            parts.merge(&rest).unwrap();
            prop_assert_eq!(&parts, &whole);
            prop_assert_eq!(PixelHistogram::from_counts(&whole.counts(), 1.0).unwrap(), whole.clone());

            let best = whole.best_overlap().unwrap();
            let brute = map.iter().map(|t| {
                let hits = map.iter().zip(&truth).filter(|(v, s)| *v >= t && **s).count() as f64;
                2.0 * hits / (map.iter().filter(|v| *v >= t).count() + inside.len()) as f64
            }).fold(0.0, f64::max);
            prop_assert!((best.dice - brute).abs() < 1e-12 && (best.iou - best.dice / (2.0 - best.dice)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_map_points_at_its_highest_pixel() {
        let mut map = vec![0.1; 16];
        map[10] = 0.9;
        let p = pointing(&map, 4, 4, &[[0.5, 0.5, 0.5, 0.5]]).unwrap();
        assert!(p.hit && p.chance == 0.25);
        assert!((p.energy_inside.unwrap() - 1.2 / 2.4).abs() < 1e-12);
        assert!(!pointing(&[0.5; 16], 4, 4, &[[0.5, 0.5, 0.5, 0.5]]).unwrap().hit, "a constant points nowhere");
        assert_eq!(pointing(&[0.0; 16], 4, 4, &[[0.0, 0.0, 0.5, 0.5]]).unwrap().energy_inside, None);
        assert!(pointing(&map, 4, 4, &[]).is_err() && pointing(&map, 4, 5, &[[0.0, 0.0, 1.0, 1.0]]).is_err());
    }

    #[test]
    fn the_edges() {
        let mut histogram = PixelHistogram::new(8, 0.5).unwrap();
        assert!(histogram.ranked().is_err());
        histogram.add(&[-1.0, 0.2, 7.0, 0.5], 2, 2, &[[0.0, 0.5, 1.0, 0.5]]).unwrap();
        assert_eq!(histogram.ranked().unwrap().auroc(), 1.0);
        assert!(histogram.add(&[0.0, f64::INFINITY], 1, 2, &[]).is_err());
        assert!(histogram.merge(&PixelHistogram::new(4, 0.5).unwrap()).is_err());
        assert!(PixelHistogram::new(0, 1.0).is_err() && PixelHistogram::new(4, 0.0).is_err());
        assert!(PixelHistogram::from_counts(&[1, 2, 3], 1.0).is_err());
    }
}

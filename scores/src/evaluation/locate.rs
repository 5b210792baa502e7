//! Where findings are, from what was counted over all images of a comparison.

use super::{BoxAp, Localisation};
use crate::{
    CHALLENGE_IOUS, Error, FROC_RATES, Found, HEAT_MAP_IOUS, PixelHistogram, Plan, bootstrap_boxes, challenge_score,
    froc, froc_at,
};

/// What was counted.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Pixels of the smoothed residuals of the images with boxes.
    pub pixels: &'a PixelHistogram,
    /// Regions and boxes of the images with boxes.
    pub sick: &'a [Found],
    /// Their persons, where all are known.
    pub persons: Option<&'a [u64]>,
    /// Regions of the healthy images.
    pub healthy: &'a [Found],
    /// From which value on pixels formed regions.
    pub region_threshold: f64,
    /// σ of the smoothing, as a share of the image's width.
    pub sigma: f64,
}

impl Localisation {
    /// Computes it. AP of boxes is of the images with boxes; the challenge's score and FROC count false regions of healthy
    /// images, too.
    ///
    /// # Errors
    /// When there is no box, or sizes do not fit.
    pub fn of(evidence: &Evidence<'_>, plan: Plan) -> Result<Self, Error> {
        let pixels = evidence.pixels.ranked()?;
        let (each, mean_box_ap) = bootstrap_boxes(evidence.sick, &HEAT_MAP_IOUS, evidence.persons, plan)?;
        let box_ap = HEAT_MAP_IOUS.iter().zip(each).map(|(iou, ap)| BoxAp { iou: *iou, ap }).collect();
        let all: Vec<Found> = evidence.sick.iter().chain(evidence.healthy).cloned().collect();
        let froc = froc_at(&froc(&all, HEAT_MAP_IOUS[0])?, &FROC_RATES);
        Ok(Self {
            images: evidence.sick.len(),
            boxes: evidence.sick.iter().map(Found::boxes).sum(),
            sigma: evidence.sigma,
            pixel_auroc: pixels.auroc(),
            pixel_auprc: pixels.average_precision(),
            pixel_prevalence: pixels.prevalence(),
            oracle: evidence.pixels.best_overlap()?,
            region_threshold: evidence.region_threshold,
            box_ap,
            mean_box_ap,
            challenge: challenge_score(&all, &CHALLENGE_IOUS)?,
            mean_froc: froc.iter().map(|p| p.sensitivity).sum::<f64>() / froc.len() as f64,
            froc,
        })
    }
}

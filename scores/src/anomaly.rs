//! From an image's residual to its anomaly score.

use crate::{
    Error, checked,
    image::{top_mean, top_score},
    quantile_of,
};

/// How a residual map becomes one number. Which residual is the caller's choice: of the reconstruction, |x − x̂| (the
/// paper's), or of the prior, |x − prior|, which has not been bent to the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AnomalyScore {
    /// The mean over all pixels: the paper's score.
    Mean,
    /// A quantile of the pixels, in 0..=1: the largest residuals but for outliers.
    Quantile(f64),
    /// The mean of the highest share of the pixels.
    TopMean(f64),
    /// The mean of the highest 5 % of the 5×5-smoothed residual: a bright place and not bright specks.
    SmoothedTop,
}

impl AnomalyScore {
    /// The score of a `height` × `width` residual. With a `mask`, only its pixels count (the lungs, where there is a
    /// segmentation); smoothing comes before masking, so that the edge of a mask is no edge of the residual.
    ///
    /// # Errors
    /// When sizes do not fit, a value is not finite, the mask is empty, or a share is not in 0..=1.
    pub fn of(self, residual: &[f64], height: usize, width: usize, mask: Option<&[bool]>) -> Result<f64, Error> {
        const WHAT: &str = "anomaly score";
        crate::boxes::plane(WHAT, residual, height, width)?;
        let Some(mask) = mask else {
            return match self {
                Self::SmoothedTop => top_score(residual, height, width),
                other => other.of_values(residual),
            };
        };
        if mask.len() != residual.len() {
            let why = format!("{} pixels, but a mask of {}", residual.len(), mask.len());
            return Err(Error::Shape { what: WHAT, why });
        }
        let pick = |map: &[f64]| map.iter().zip(mask).filter(|(_, m)| **m).map(|(v, _)| *v).collect::<Vec<f64>>();
        let values = match self {
            Self::SmoothedTop => pick(&crate::image::smooth(residual, height, width)?),
            _ => pick(residual),
        };
        checked(WHAT, "mask", &values)?;
        self.of_values(&values)
    }

    fn of_values(self, values: &[f64]) -> Result<f64, Error> {
        match self {
            Self::Mean => Ok(values.iter().sum::<f64>() / values.len() as f64),
            Self::Quantile(q) => quantile_of(values, q),
            Self::TopMean(share) => {
                crate::curves::share("anomaly score", "share", share)?;
                top_mean(values, share)
            }
            Self::SmoothedTop => top_mean(values, crate::image::TOP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reads_the_residual_its_own_way() {
        let map: Vec<f64> = (0..100).map(f64::from).collect();
        let of = |score: AnomalyScore| score.of(&map, 10, 10, None).unwrap();
        assert_eq!(of(AnomalyScore::Mean), 49.5);
        assert_eq!(of(AnomalyScore::Quantile(1.0)), 99.0);
        assert_eq!(of(AnomalyScore::TopMean(0.02)), 98.5);
        assert_eq!(of(AnomalyScore::SmoothedTop), top_score(&map, 10, 10).unwrap());
        let all =
            [AnomalyScore::Mean, AnomalyScore::Quantile(0.9), AnomalyScore::TopMean(0.1), AnomalyScore::SmoothedTop];
        for score in all {
            assert_eq!(score.of(&map, 10, 10, Some(&[true; 100])).unwrap(), of(score), "a whole mask is none");
            assert!(score.of(&map, 10, 10, Some(&[false; 100])).is_err());
        }
        let mut corner = vec![false; 100];
        corner[0] = true;
        assert_eq!(AnomalyScore::Mean.of(&map, 10, 10, Some(&corner)), Ok(0.0));
        assert_eq!(AnomalyScore::SmoothedTop.of(&map, 10, 10, Some(&corner)), Ok(11.0));
        assert!(AnomalyScore::Mean.of(&map, 10, 9, None).is_err());
        assert!(AnomalyScore::TopMean(1.5).of(&map, 10, 10, None).is_err());
        assert!(AnomalyScore::Quantile(-0.5).of(&map, 10, 10, None).is_err());
    }
}

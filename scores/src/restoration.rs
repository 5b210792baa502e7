//! How healthy a restoration is: against the lesion-free twin that a phantom has, and inside against outside of findings.

use crate::{
    Error,
    boxes::plane,
    image::{WINDOW, l1, mse, pair, psnr, ssim, ssim_map},
};

const WHAT: &str = "restoration";

/// How near an image is to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fidelity {
    /// Mean absolute difference.
    pub l1: f64,
    /// Mean squared difference.
    pub mse: f64,
    /// Structural similarity.
    pub ssim: f64,
    /// Peak signal-to-noise ratio, dB; infinite for equal images.
    pub psnr: f64,
}

/// [`Fidelity`] of `a` to `b`, `height` × `width` pixels in 0..=1.
///
/// # Errors
/// When sizes do not fit, the image is smaller than SSIM's window, or a pixel is not finite.
pub fn fidelity(a: &[f64], b: &[f64], height: usize, width: usize) -> Result<Fidelity, Error> {
    Ok(Fidelity { l1: l1(a, b)?, mse: mse(a, b)?, ssim: ssim(a, b, height, width)?, psnr: psnr(a, b)? })
}

/// A difference between two images, apart for the pixels of a finding and the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InsideOutside {
    /// Mean |a − b| over the finding's pixels; `None` when it has none.
    pub l1_inside: Option<f64>,
    /// Mean |a − b| over the others.
    pub l1_outside: Option<f64>,
    /// Mean SSIM of the windows whose centre lies in the finding.
    pub ssim_inside: Option<f64>,
    /// Mean SSIM of the others.
    pub ssim_outside: Option<f64>,
}

/// How `a` and `b` differ inside of `finding` (one flag a pixel: a lesion's mask, or [`box_mask`](crate::box_mask)) and outside.
/// Of an image and its restoration a good method shows a large difference inside and a small one outside.
///
/// # Errors
/// As [`fidelity`], and when the mask has another size.
pub fn inside_outside(
    a: &[f64],
    b: &[f64],
    finding: &[bool],
    height: usize,
    width: usize,
) -> Result<InsideOutside, Error> {
    pair(WHAT, a, b)?;
    plane(WHAT, a, height, width)?;
    if finding.len() != a.len() {
        let why = format!("{} pixels, but a mask of {}", a.len(), finding.len());
        return Err(Error::Shape { what: WHAT, why });
    }
    let ssim = ssim_map(a, b, height, width)?;
    let (border, inner) = (WINDOW / 2, width - WINDOW + 1);
    let centre = |i: usize| finding[(i / inner + border) * width + i % inner + border];
    let mut l1 = [Mean::default(); 2];
    let mut similar = [Mean::default(); 2];
    (0..a.len()).for_each(|i| l1[usize::from(finding[i])].add((a[i] - b[i]).abs()));
    ssim.iter().enumerate().for_each(|(i, v)| similar[usize::from(centre(i))].add(*v));
    Ok(InsideOutside {
        l1_inside: l1[1].value(),
        l1_outside: l1[0].value(),
        ssim_inside: similar[1].value(),
        ssim_outside: similar[0].value(),
    })
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// A restoration beside the image as it was before the disease. Only a phantom has that image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwinScore {
    /// The restoration's nearness to the twin: the score.
    pub restored: Fidelity,
    /// The sick image's own nearness to the twin: what is reached by restoring nothing.
    pub untouched: Fidelity,
    /// Restoration against twin, at the lesion and elsewhere.
    pub regions: InsideOutside,
    /// Share of the lesion that was removed: 1 − |restored − twin| / |image − twin|, means over the lesion's pixels. 1 when
    /// the twin is met, 0 when nothing was done, negative when it was made worse; `None` without a visible lesion.
    pub removed: Option<f64>,
}

/// Scores a pseudo-healthy restoration of `image` against its lesion-free `twin`, `lesion` being the lesion's mask; all
/// `height` × `width` pixels in 0..=1, row by row.
///
/// # Errors
/// As [`inside_outside`].
pub fn twin_score(
    image: &[f64],
    restored: &[f64],
    twin: &[f64],
    lesion: &[bool],
    height: usize,
    width: usize,
) -> Result<TwinScore, Error> {
    let untouched = fidelity(image, twin, height, width)?;
    let before = inside_outside(image, twin, lesion, height, width)?.l1_inside.filter(|v| *v > 0.0);
    let regions = inside_outside(restored, twin, lesion, height, width)?;
    let removed = regions.l1_inside.zip(before).map(|(after, before)| 1.0 - after / before);
    Ok(TwinScore { restored: fidelity(restored, twin, height, width)?, untouched, regions, removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_belong_where_their_centre_lies() {
        let a: Vec<f64> = (0..99).map(|i| 0.5 + 0.4 * (f64::from(i) * 0.9).sin()).collect();
        let b: Vec<f64> = (0..99).map(|i| 0.5 + 0.4 * (f64::from(i) * 1.1).cos()).collect();
        let map = ssim_map(&a, &b, 9, 11).unwrap();
        for at in 0..99 {
            let finding: Vec<bool> = (0..99).map(|i| i == at).collect();
            let found = inside_outside(&a, &b, &finding, 9, 11).unwrap();
            let (row, column) = (at / 11, at % 11);
            let window = ((3..6).contains(&row) && (3..8).contains(&column)).then(|| map[(row - 3) * 5 + column - 3]);
            assert_eq!(found.ssim_inside, window, "the only window around pixel {row}, {column}");
            assert_eq!(found.l1_inside, Some((a[at] - b[at]).abs()));
        }
    }

    #[test]
    fn removing_the_lesion_is_what_scores() {
        let twin: Vec<f64> = (0..256).map(|i| 0.3 + 0.2 * (f64::from(i) * 0.7).sin()).collect();
        let lesion: Vec<bool> = (0..256).map(|i| (6..11).contains(&(i / 16)) && (6..11).contains(&(i % 16))).collect();
        let image: Vec<f64> = twin.iter().zip(&lesion).map(|(v, l)| v + if *l { 0.3 } else { 0.0 }).collect();
        let score = |restored: &[f64]| twin_score(&image, restored, &twin, &lesion, 16, 16).unwrap();

        let perfect = score(&twin);
        assert_eq!((perfect.restored.ssim, perfect.restored.l1, perfect.removed), (1.0, 0.0, Some(1.0)));
        let nothing = score(&image);
        assert_eq!((nothing.restored, nothing.removed), (nothing.untouched, Some(0.0)));
        assert!(nothing.regions.ssim_inside < nothing.regions.ssim_outside);
        assert!((nothing.regions.l1_inside.unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(nothing.regions.l1_outside, Some(0.0));
        let half: Vec<f64> = image.iter().zip(&twin).map(|(a, b)| (a + b) / 2.0).collect();
        assert!((score(&half).removed.unwrap() - 0.5).abs() < 1e-12);

        let none = twin_score(&image, &twin, &twin, &[false; 256], 16, 16).unwrap();
        assert_eq!((none.removed, none.regions.l1_inside, none.regions.ssim_inside), (None, None, None));
        assert!(twin_score(&image, &twin, &twin, &lesion[1..], 16, 16).is_err());
        assert!(inside_outside(&image[..36], &twin[..36], &lesion[..36], 6, 6).is_err());
    }
}

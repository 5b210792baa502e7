//! Scores of one image: fidelity, and how much of a residual lies in its brightest part. Images are row by row.

use crate::{Error, boxes::plane, checked};

/// Side of SSIM's window.
pub(crate) const WINDOW: usize = 7;
/// Side of the smoothing window.
const SMOOTH: usize = 5;
/// Share of pixels that [`top_score`] averages.
pub(crate) const TOP: f64 = 0.05;

pub(crate) fn pair(what: &'static str, a: &[f64], b: &[f64]) -> Result<(), Error> {
    checked(what, "first image", a)?;
    checked(what, "second image", b)?;
    if a.len() == b.len() {
        Ok(())
    } else {
        Err(Error::Shape { what, why: format!("the images have {} and {} pixels", a.len(), b.len()) })
    }
}

/// Mean absolute difference.
///
/// # Errors
/// When sizes differ, there are no pixels, or one is not finite.
pub fn l1(a: &[f64], b: &[f64]) -> Result<f64, Error> {
    pair("L1", a, b)?;
    Ok(a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64)
}

/// Mean squared difference.
///
/// # Errors
/// As [`l1`].
pub fn mse(a: &[f64], b: &[f64]) -> Result<f64, Error> {
    pair("MSE", a, b)?;
    Ok(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64)
}

/// Peak signal-to-noise ratio in dB of images in 0..=1, as `peak_signal_noise_ratio(data_range=1)`; infinite for equal images.
///
/// # Errors
/// As [`l1`].
pub fn psnr(a: &[f64], b: &[f64]) -> Result<f64, Error> {
    pair("PSNR", a, b)?;
    Ok(-10.0 * mse(a, b)?.log10())
}

/// Structural similarity (Wang et al. 2004) as `skimage.metrics.structural_similarity(data_range=1)`: uniform 7×7 window, K
/// 0.01 and 0.03, sample covariance, mean over the windows that lie wholly inside.
///
/// # Errors
/// When the image is smaller than the window, sizes do not fit, or a pixel is not finite.
pub fn ssim(a: &[f64], b: &[f64], height: usize, width: usize) -> Result<f64, Error> {
    let map = ssim_map(a, b, height, width)?;
    Ok(map.iter().sum::<f64>() / map.len() as f64)
}

/// [`ssim`] of each window that lies wholly inside, (height − 6) × (width − 6), row by row: entry (r, c) is that of the window
/// around pixel (r + 3, c + 3).
///
/// # Errors
/// As [`ssim`].
pub fn ssim_map(a: &[f64], b: &[f64], height: usize, width: usize) -> Result<Vec<f64>, Error> {
    const WHAT: &str = "SSIM";
    pair(WHAT, a, b)?;
    plane(WHAT, a, height, width)?;
    if height < WINDOW || width < WINDOW {
        return Err(Error::Shape {
            what: WHAT,
            why: format!("{height}×{width} pixels are fewer than the {WINDOW}×{WINDOW} window"),
        });
    }
    let (c1, c2) = (0.01f64.powi(2), 0.03f64.powi(2));
    let n = (WINDOW * WINDOW) as f64;
    let sample = n / (n - 1.0);
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
    let sums = [a.to_vec(), b.to_vec(), product(a, a), product(b, b), product(a, b)]
        .map(|values| windows(&values, height, width));
    let similarity = |i: usize| {
        let [ux, uy, uxx, uyy, uxy] = [0, 1, 2, 3, 4].map(|k| sums[k][i] / n);
        let (vx, vy, vxy) = (sample * (uxx - ux * ux), sample * (uyy - uy * uy), sample * (uxy - ux * uy));
        (2.0 * ux * uy + c1) * (2.0 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))
    };
    Ok((0..sums[0].len()).map(similarity).collect())
}

/// Sums over all [`WINDOW`]-sided windows inside the image: rows first, then columns.
fn windows(values: &[f64], height: usize, width: usize) -> Vec<f64> {
    let across: Vec<f64> =
        values.chunks_exact(width).flat_map(|row| row.windows(WINDOW).map(|w| w.iter().sum())).collect();
    let inside = width - WINDOW + 1;
    (0..=height - WINDOW)
        .flat_map(|y| (0..inside).map(move |x| (y, x)))
        .map(|(y, x)| (y..y + WINDOW).map(|row| across[row * inside + x]).sum())
        .collect()
}

/// The mean over the 5×5 pixels around each; at the border over those that exist.
///
/// # Errors
/// When sizes do not fit or a pixel is not finite.
pub fn smooth(image: &[f64], height: usize, width: usize) -> Result<Vec<f64>, Error> {
    const WHAT: &str = "smoothing";
    checked(WHAT, "image", image)?;
    plane(WHAT, image, height, width)?;
    let reach = |at: usize, size: usize| at.saturating_sub(SMOOTH / 2)..(at + SMOOTH / 2 + 1).min(size);
    let across: Vec<f64> = image
        .chunks_exact(width)
        .flat_map(|row| (0..width).map(|x| row[reach(x, width)].iter().sum::<f64>()))
        .collect();
    Ok((0..height)
        .flat_map(|y| (0..width).map(move |x| (y, x)))
        .map(|(y, x)| {
            let rows = reach(y, height);
            let count = (rows.len() * reach(x, width).len()) as f64;
            rows.map(|row| across[row * width + x]).sum::<f64>() / count
        })
        .collect())
}

/// The mean of the highest `share` of the values, of at least one.
///
/// # Errors
/// When there are no values or one is not finite.
pub fn top_mean(values: &[f64], share: f64) -> Result<f64, Error> {
    let mut values = checked("mean of the highest", "values", values)?.to_vec();
    let count = ((values.len() as f64 * share).round() as usize).clamp(1, values.len());
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    Ok(values[..count].iter().sum::<f64>() / count as f64)
}

/// The mean of the highest 5 % of the smoothed residual: large when a residual is bright in one place, and not merely
/// everywhere a little.
///
/// # Errors
/// As [`smooth`].
pub fn top_score(residual: &[f64], height: usize, width: usize) -> Result<f64, Error> {
    top_mean(&smooth(residual, height, width)?, TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_like_itself() {
        let image: Vec<f64> = (0..100).map(|i| f64::from(i) / 100.0).collect();
        assert_eq!(ssim(&image, &image, 10, 10).unwrap(), 1.0);
        assert_eq!((l1(&image, &image).unwrap(), mse(&image, &image).unwrap()), (0.0, 0.0));
        assert_eq!(psnr(&image, &image), Ok(f64::INFINITY));
        assert!((psnr(&[0.0, 0.5], &[0.1, 0.6]).unwrap() - 20.0).abs() < 1e-12);
        assert_eq!(ssim_map(&image, &image, 10, 10), Ok(vec![1.0; 16]));
        assert!(ssim(&image, &image, 5, 20).unwrap_err().to_string().contains("window"));
        assert!(l1(&image, &image[1..]).is_err());
    }

    #[test]
    fn smoothing_keeps_a_constant_and_spreads_a_point() {
        assert!(smooth(&[0.25; 48], 6, 8).unwrap().iter().all(|v| (v - 0.25).abs() < 1e-15));
        let mut point = vec![0.0; 81];
        point[4 * 9 + 4] = 1.0;
        let spread = smooth(&point, 9, 9).unwrap();
        assert_eq!(spread.iter().filter(|v| **v > 0.0).count(), 25);
        assert!((spread[2 * 9 + 2] - 0.04).abs() < 1e-15);
        point[40] = 0.0;
        point[0] = 1.0;
        assert!((smooth(&point, 9, 9).unwrap()[0] - 1.0 / 9.0).abs() < 1e-15, "at a corner nine pixels exist");
    }

    #[test]
    fn the_top_is_what_it_says() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(top_mean(&values, 0.05).unwrap(), 98.0);
        assert_eq!(top_mean(&values[..3], 0.05).unwrap(), 3.0);
        let mut bright = vec![0.01; 400];
        let even = top_score(&vec![0.05; 400], 20, 20).unwrap();
        (0..5).for_each(|y| (0..5).for_each(|x| bright[(y + 8) * 20 + x + 8] = 0.5));
        assert!(top_score(&bright, 20, 20).unwrap() > even);
    }
}

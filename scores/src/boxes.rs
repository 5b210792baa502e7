//! Findings as boxes, and where their pixels lie.
//!
//! Coordinates. A box is `[x, y, width, height]`: (x, y) its top-left corner, all as shares of the *prepared* image, as
//! datasets store them; a release's own pixels (RSNA: 1024, top-left as well) are carried through crop, padding and scale when
//! a dataset is prepared. Pixel (row r, column c) of a map of H × W covers the square from (c/W, r/H) to ((c+1)/W, (r+1)/H).
//! It belongs to a box when its centre ((c+½)/W, (r+½)/H) does, the left and upper edge included; so neighbouring boxes share
//! no pixel, and the number of pixels is the area up to rounding. A map of another size than the image needs no other box.
//!
//! Preparing cuts boxes at the image's edges, so one that lay outside has no area left: it counts as no box anywhere.

use crate::{Error, checked};

/// Left, top, width and height in shares of the image, top-left corner first.
pub type Rect = [f64; 4];

/// Checks that `map` is `height` × `width` finite values, row by row.
pub(crate) fn plane(what: &'static str, map: &[f64], height: usize, width: usize) -> Result<(), Error> {
    checked(what, "map", map)?;
    if height.checked_mul(width) == Some(map.len()) {
        Ok(())
    } else {
        Err(Error::Shape { what, why: format!("{} pixels are not {height}×{width}", map.len()) })
    }
}

pub(crate) fn valid(what: &'static str, boxes: &[Rect]) -> Result<(), Error> {
    for (i, [x, y, w, h]) in boxes.iter().enumerate() {
        if ![x, y, w, h].iter().all(|v| v.is_finite()) || *w < 0.0 || *h < 0.0 {
            return Err(Error::Shape { what, why: format!("box {i} is [{x}, {y}, {w}, {h}]") });
        }
    }
    Ok(())
}

/// Whether there is anything of a box.
pub(crate) fn has_area(rect: &Rect) -> bool {
    rect[2] > 0.0 && rect[3] > 0.0
}

/// First and last-but-one pixel whose centre lies in `start..start + extent`.
fn pixels(start: f64, extent: f64, size: usize) -> std::ops::Range<usize> {
    let first = |edge: f64| ((edge * size as f64 - 0.5).ceil().max(0.0) as usize).min(size);
    first(start)..first(start + extent)
}

/// Which pixels of a `height` × `width` map lie in the union of `boxes`, row by row. What lies outside the image is cut off.
///
/// # Errors
/// When a box is not finite or its width or height negative.
pub fn box_mask(boxes: &[Rect], height: usize, width: usize) -> Result<Vec<bool>, Error> {
    valid("mask of boxes", boxes)?;
    let mut mask = vec![false; height * width];
    for [x, y, w, h] in boxes {
        let columns = pixels(*x, *w, width);
        for row in pixels(*y, *h, height) {
            mask[row * width..][columns.clone()].fill(true);
        }
    }
    Ok(mask)
}

/// Intersection over union of two boxes.
pub fn iou(a: &Rect, b: &Rect) -> f64 {
    let overlap = |k: usize| ((a[k] + a[k + 2]).min(b[k] + b[k + 2]) - a[k].max(b[k])).max(0.0);
    let (both, area) = (overlap(0) * overlap(1), |r: &Rect| r[2] * r[3]);
    let union = area(a) + area(b) - both;
    if union > 0.0 { both / union } else { 0.0 }
}

/// Gaussian smoothing as `scipy.ndimage.gaussian_filter` does by default: separable, cut at 4 σ, mirrored at the edge with
/// the edge pixel repeated. `sigma` in pixels; 0 leaves the map as it is. The project smooths residuals with 2 % of the
/// image's width before they are asked where a finding is.
///
/// # Errors
/// When sizes do not fit, a value is not finite, or `sigma` is negative or not finite.
pub fn gaussian_smooth(map: &[f64], height: usize, width: usize, sigma: f64) -> Result<Vec<f64>, Error> {
    const WHAT: &str = "Gaussian smoothing";
    plane(WHAT, map, height, width)?;
    if !sigma.is_finite() || sigma < 0.0 {
        return Err(Error::Shape { what: WHAT, why: format!("sigma is {sigma}") });
    }
    let reach = (4.0 * sigma + 0.5) as usize;
    if reach == 0 {
        return Ok(map.to_vec());
    }
    let raw: Vec<f64> = (0..=2 * reach).map(|i| (-0.5 * ((i as f64 - reach as f64) / sigma).powi(2)).exp()).collect();
    let total: f64 = raw.iter().sum();
    let kernel: Vec<f64> = raw.into_iter().map(|v| v / total).collect();
    let across = convolve(map, (width, 1), &kernel);
    Ok(convolve(&across, (height, width), &kernel))
}

/// Along lines of `size` pixels, `stride` apart.
fn convolve(map: &[f64], (size, stride): (usize, usize), kernel: &[f64]) -> Vec<f64> {
    let reach = (kernel.len() / 2) as isize;
    let mirrored = |i: isize| {
        let i = i.rem_euclid(2 * size as isize) as usize;
        if i < size { i } else { 2 * size - 1 - i }
    };
    // Where each pixel of a line and of what is mirrored at its ends comes from.
    let from: Vec<usize> = (-reach..size as isize + reach).map(|i| mirrored(i) * stride).collect();
    let mut line = vec![0.0; from.len()];
    let mut out = vec![0.0; map.len()];
    for k in 0..map.len() / size {
        // Lines across begin every `size` pixels, lines down beside each other.
        let start = if stride == 1 { k * size } else { k };
        line.iter_mut().zip(&from).for_each(|(v, at)| *v = map[start + at]);
        for (i, taps) in line.windows(kernel.len()).enumerate() {
            out[start + i * stride] = kernel.iter().zip(taps).map(|(k, v)| k * v).sum();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pixels_belong_where_their_centres_lie() {
        let drawn = box_mask(&[[0.25, 0.5, 0.5, 0.5]], 4, 4).unwrap();
        let lit: Vec<usize> = (0..16).filter(|i| drawn[*i]).collect();
        assert_eq!(lit, [9, 10, 13, 14]);
        assert!(box_mask(&[[-1.0, -1.0, 3.0, 3.0]], 3, 5).unwrap().iter().all(|m| *m));
        assert!(box_mask(&[[2.0, 2.0, 1.0, 1.0]], 3, 5).unwrap().iter().all(|m| !m));
        assert!(box_mask(&[[0.0, 0.0, 0.0, 1.0]], 3, 5).unwrap().iter().all(|m| !m));
        assert!(box_mask(&[[0.0, 0.0, -0.5, 1.0]], 3, 5).unwrap_err().to_string().contains("box 0"));
        assert!(box_mask(&[[0.0, f64::NAN, 1.0, 1.0]], 3, 5).is_err());
    }

    #[test]
    fn overlap_of_boxes() {
        assert_eq!(iou(&[0.0, 0.0, 0.5, 0.5], &[0.0, 0.0, 0.5, 0.5]), 1.0);
        assert_eq!(iou(&[0.0, 0.0, 0.5, 0.5], &[0.5, 0.0, 0.5, 0.5]), 0.0);
        assert!((iou(&[0.0, 0.0, 0.5, 0.5], &[0.25, 0.0, 0.5, 0.5]) - 1.0 / 3.0).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn neighbouring_boxes_share_no_pixel_and_leave_none(cut in 0.01..0.99f64, (h, w) in (1..20usize, 1..20usize)) {
            let left = box_mask(&[[0.0, 0.0, cut, 1.0]], h, w).unwrap();
            let right = box_mask(&[[cut, 0.0, 1.0 - cut, 1.0]], h, w).unwrap();
            prop_assert!(left.iter().zip(&right).all(|(l, r)| l != r));
        }

        #[test]
        fn smoothing_keeps_the_sum(map in prop::collection::vec(0.0..1.0f64, 35), sigma in 0.0..4.0f64) {
            let smooth = gaussian_smooth(&map, 5, 7, sigma).unwrap();
            prop_assert!((smooth.iter().sum::<f64>() - map.iter().sum::<f64>()).abs() < 1e-9);
        }
    }
}

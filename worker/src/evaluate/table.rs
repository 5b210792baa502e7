//! Per-image scores: how they are computed, and as a CSV file.

use std::fmt::Write as _;

use morph_data::Samples;
use morph_model::Reconstruction;
use tch::Tensor;

use crate::rank::{failure::Failure, images::values};

/// Number of scores an image has.
pub const COLUMNS: usize = 5;
/// Their names, in the order of [`Row`].
pub const NAMES: [&str; COLUMNS] = ["residual", "residual_prior", "residual_top5", "ssim", "intensity"];

/// The scores of one image, as [`NAMES`] says: mean |x − x̂| (the paper's), mean |x − prior|, mean of the highest 5 % of the
/// 5×5-smoothed |x − x̂|, SSIM of x and x̂, mean of x.
pub type Row = [f64; COLUMNS];

/// Which column is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Mean |x − x̂|.
    Residual = 0,
    /// Mean |x − prior|.
    Prior = 1,
    /// Mean of the highest 5 % of the smoothed |x − x̂|.
    Top5 = 2,
    /// Structural similarity of x and x̂.
    Ssim = 3,
    /// Mean of x.
    Intensity = 4,
}

/// One column of `rows`.
pub fn column(rows: &[Row], column: Column) -> Vec<f64> {
    rows.iter().map(|row| row[column as usize]).collect()
}

/// The scores of each image of the batch `x` `[B, 1, H, W]`.
///
/// # Errors
/// When images are too small for SSIM, or libtorch cannot copy.
pub fn score(x: &Tensor, r: &Reconstruction) -> Result<Vec<Row>, Failure> {
    let size = x.size();
    let (height, width) = (size[2] as usize, size[3] as usize);
    let (images, priors, reconstructions) = (values(x)?, values(&r.prior)?, values(&r.reconstruction)?);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let mut rows = Vec::new();
    let planes = images.chunks_exact(height * width).zip(priors.chunks_exact(height * width));
    for ((x, prior), y) in planes.zip(reconstructions.chunks_exact(height * width)) {
        let residual: Vec<f64> = x.iter().zip(y).map(|(a, b)| (a - b).abs()).collect();
        let prior: Vec<f64> = x.iter().zip(prior).map(|(a, b)| (a - b).abs()).collect();
        rows.push([
            mean(&residual),
            mean(&prior),
            morph_scores::top_score(&residual, height, width)?,
            morph_scores::ssim(x, y, height, width)?,
            mean(x),
        ]);
    }
    Ok(rows)
}

/// The table as CSV: `set,id,label,view,…scores`.
pub fn csv<'a>(sets: impl IntoIterator<Item = (&'a str, &'a Samples, &'a [Row])>) -> String {
    let mut out = format!("set,id,label,view,{}\n", NAMES.join(","));
    for (set, samples, rows) in sets {
        for (i, row) in rows.iter().enumerate() {
            let meta = samples.meta(i);
            let view = meta.view.unwrap_or_default();
            let cells = [set, &meta.id, &meta.label, &view].map(quoted).join(",");
            let numbers: Vec<String> = row.iter().map(f64::to_string).collect();
            writeln!(out, "{cells},{}", numbers.join(",")).expect("invariant: writing to a String");
        }
    }
    out
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_are_means_of_absolute_differences() {
        let x = Tensor::full([2, 1, 8, 8], 0.5, (tch::Kind::Float, tch::Device::Cpu));
        let r = Reconstruction { prior: &x - 0.25, reconstruction: &x + 0.125, deformation: None, reversed: None };
        let rows = score(&x, &r).unwrap();
        assert_eq!(rows.len(), 2);
        let row = rows[1];
        assert!((row[Column::Residual as usize] - 0.125).abs() < 1e-12);
        assert!((row[Column::Prior as usize] - 0.25).abs() < 1e-12);
        assert!((row[Column::Top5 as usize] - 0.125).abs() < 1e-9);
        assert!((row[Column::Intensity as usize] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn cells_with_commas_are_quoted() {
        assert_eq!(quoted("a"), "a");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}

//! Whether a deformation is one that tissue could make.

use crate::{Error, boxes::plane};

/// A displacement field in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deformation {
    /// Mean length of the displacement, pixels.
    pub mean: f64,
    /// The longest, pixels.
    pub max: f64,
    /// Share of the cells between pixels whose Jacobian determinant is not above 0: there the map folds, and does not
    /// show any anatomy.
    pub folded: f64,
}

/// Measures x ↦ x + u(x), `rows` and `columns` being u's two components in pixels, `height` × `width` each, row by row. The
/// Jacobian is taken by forward differences, on (height − 1) × (width − 1) cells.
///
/// # Errors
/// When sizes do not fit, a side has fewer than two pixels, or a value is not finite.
pub fn deformation(rows: &[f64], columns: &[f64], height: usize, width: usize) -> Result<Deformation, Error> {
    const WHAT: &str = "deformation";
    plane(WHAT, rows, height, width)?;
    plane(WHAT, columns, height, width)?;
    if height < 2 || width < 2 {
        return Err(Error::Shape { what: WHAT, why: format!("{height}×{width} pixels have no cell between them") });
    }
    let length = |(a, b): (&f64, &f64)| a.hypot(*b);
    let folds = |r: usize, c: usize| {
        let (here, below, right) = (r * width + c, (r + 1) * width + c, r * width + c + 1);
        let along = |u: &[f64], to: usize| u[to] - u[here];
        let straight = (1.0 + along(rows, below)) * (1.0 + along(columns, right));
        straight - along(rows, right) * along(columns, below) <= 0.0
    };
    let cells = (height - 1) * (width - 1);
    let folded = (0..cells).filter(|i| folds(i / (width - 1), i % (width - 1))).count();
    Ok(Deformation {
        mean: rows.iter().zip(columns).map(length).sum::<f64>() / rows.len() as f64,
        max: rows.iter().zip(columns).map(length).fold(0.0, f64::max),
        folded: folded as f64 / cells as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_do_not_fold_and_mirrors_do() {
        let still = deformation(&[0.0; 20], &[0.0; 20], 4, 5).unwrap();
        assert_eq!(still, Deformation { mean: 0.0, max: 0.0, folded: 0.0 });
        let shifted = deformation(&[3.0; 20], &[4.0; 20], 4, 5).unwrap();
        assert_eq!(shifted, Deformation { mean: 5.0, max: 5.0, folded: 0.0 });
        // A quarter turn: no fold, though each diagonal term alone is 0.
        let turn =
            |f: fn(f64, f64) -> f64| -> Vec<f64> { (0..20).map(|i| f(f64::from(i / 5), f64::from(i % 5))).collect() };
        assert_eq!(deformation(&turn(|r, c| c - r), &turn(|r, c| -r - c), 4, 5).unwrap().folded, 0.0);
        let mirror: Vec<f64> = (0..20).map(|i| -2.0 * f64::from(i % 5)).collect();
        assert_eq!(deformation(&[0.0; 20], &mirror, 4, 5).unwrap().folded, 1.0);
        // One column jumps two pixels back, over its left neighbour.
        let jump: Vec<f64> = (0..20).map(|i| if i % 5 == 2 { -2.0 } else { 0.0 }).collect();
        assert_eq!(deformation(&[0.0; 20], &jump, 4, 5).unwrap().folded, 0.25);
        assert!(deformation(&[0.0; 20], &[0.0; 19], 4, 5).is_err() && deformation(&[0.0; 5], &[0.0; 5], 1, 5).is_err());
        assert!(deformation(&[f64::NAN; 4], &[0.0; 4], 2, 2).is_err());
    }
}

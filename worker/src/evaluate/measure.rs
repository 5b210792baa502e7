//! The numbers of one image.

use std::fmt::Display;

use morph_data::truth::Truth;
use morph_scores::{
    AnomalyScore, Error, Ranked, Rect, box_mask, columns, deformation, gaussian_smooth, inside_outside, mse, pointing,
    psnr, ssim, twin_score, view_score,
};

use crate::rank::failure::Failure;

/// σ of the Gaussian that smooths residuals before they are asked where a finding is, as a share of the image's width.
pub const SIGMA: f64 = 0.02;

/// The numbers that are measured: all known columns but the p-value, which needs the whole validation set.
pub const COLUMNS: usize = columns::ALL.len() - 1;

/// One image with all that a method makes of it, `height` × `width` values each, row by row.
#[derive(Debug)]
pub struct Image<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The image, 0..=1.
    pub x: &'a [f64],
    /// The prior.
    pub prior: &'a [f64],
    /// The reconstruction.
    pub reconstruction: &'a [f64],
    /// The displacement in rows and in columns, pixels, of methods that deform.
    pub displacement: Option<[&'a [f64]; 2]>,
    /// How far apart the two look, where somebody has measured it.
    pub lpips: Option<f64>,
    /// How it was taken.
    pub view: Option<&'a str>,
    /// Known findings.
    pub boxes: Vec<Rect>,
    /// What else is known of it.
    pub truth: Truth,
}

/// The numbers of an image in the order of [`columns::ALL`], `None` where it has none.
pub type Row = [Option<f64>; COLUMNS];

fn put(row: &mut Row, name: &str, value: f64) {
    let at = columns::ALL.iter().position(|c| c.name == name).expect("invariant: a known column");
    // −0 is 0: what ranks add to it must not change its bits.
    row[at] = Some(value + 0.0);
}

impl Image<'_> {
    /// |x − x̂|.
    pub fn residual(&self) -> Vec<f64> {
        apart(self.x, self.reconstruction)
    }

    /// |x − x̂|, smoothed.
    ///
    /// # Errors
    /// When a value is not finite.
    pub fn smoothed(&self) -> Result<Vec<f64>, Error> {
        gaussian_smooth(&self.residual(), self.height, self.width, SIGMA * self.width as f64)
    }

    /// The first value that the method computed and that is no number.
    pub fn not_finite(&self) -> Option<(&'static str, f64)> {
        let bad = |values: &[f64]| values.iter().copied().find(|v| !v.is_finite());
        let all = [("reconstruction", self.reconstruction), ("prior", self.prior)];
        let fields = self.displacement.into_iter().flatten().map(|field| ("displacement", field));
        all.into_iter().chain(fields).find_map(|(what, values)| bad(values).map(|v| (what, v)))
    }

    /// All its numbers; `smoothed` is its smoothed residual, where findings are looked for.
    ///
    /// # Errors
    /// When images are too small for SSIM, or what is known of this one has another size.
    pub fn measure(&self, smoothed: Option<&[f64]>) -> Result<Row, Error> {
        let (h, w) = (self.height, self.width);
        let mut row = [None; COLUMNS];
        self.anomaly(&mut row)?;
        put(&mut row, columns::VIEW, view_score(self.view));
        put(&mut row, "intensity", self.x.iter().sum::<f64>() / self.x.len() as f64);
        put(&mut row, "ssim", ssim(self.x, self.reconstruction, h, w)?);
        let psnr = psnr(self.x, self.reconstruction)?;
        if psnr.is_finite() {
            put(&mut row, "psnr", psnr);
        }
        if let Some(lpips) = self.lpips {
            put(&mut row, "lpips", lpips);
        }
        let boxed = box_mask(&self.boxes, h, w)?;
        if let Some(map) = smoothed.filter(|_| boxed.contains(&true)) {
            self.localise(&mut row, map, &boxed)?;
        }
        let finding = self.truth.lesion.as_ref().unwrap_or(&boxed);
        if finding.contains(&true) {
            self.restoration(&mut row, finding)?;
        }
        if let Some([rows, columns]) = self.displacement {
            let d = deformation(rows, columns, h, w)?;
            put(&mut row, "displacement", d.mean);
            put(&mut row, "displacement_max", d.max);
            put(&mut row, "folded", d.folded);
        }
        Ok(row)
    }

    fn anomaly(&self, row: &mut Row) -> Result<(), Error> {
        let (h, w) = (self.height, self.width);
        let (residual, prior) = (self.residual(), apart(self.x, self.prior));
        let squares: Vec<f64> = residual.iter().map(|v| v * v).collect();
        put(row, "mse", mse(self.x, self.reconstruction)?);
        let scores = [
            ("l1", &residual, AnomalyScore::Mean),
            ("q95", &residual, AnomalyScore::Quantile(0.95)),
            ("top5", &residual, AnomalyScore::SmoothedTop),
            ("prior_l1", &prior, AnomalyScore::Mean),
            ("prior_top5", &prior, AnomalyScore::SmoothedTop),
        ];
        for (name, map, score) in scores {
            put(row, name, score.of(map, h, w, None)?);
        }
        if let Some(mask) = self.truth.mask.as_deref().filter(|m| m.contains(&true)) {
            for (name, map, score) in scores.into_iter().chain([("mse", &squares, AnomalyScore::Mean)]) {
                put(row, &format!("{name}_masked"), score.of(map, h, w, Some(mask))?);
            }
        }
        Ok(())
    }

    fn localise(&self, row: &mut Row, map: &[f64], boxed: &[bool]) -> Result<(), Error> {
        let p = pointing(map, self.height, self.width, &self.boxes)?;
        put(row, "pointing", f64::from(u8::from(p.hit)));
        put(row, "box_share", p.chance);
        if let Some(energy) = p.energy_inside {
            put(row, "energy_inside", energy);
        }
        let pick = |inside: bool| map.iter().zip(boxed).filter(|(_, b)| **b == inside).map(|(v, _)| *v).collect();
        let (outside, inside): (Vec<f64>, Vec<f64>) = (pick(false), pick(true));
        // A box that covers all leaves nothing to compare with.
        if !outside.is_empty() {
            let ranked = Ranked::new(&outside, &inside)?;
            put(row, "pixel_auroc", ranked.auroc());
            put(row, "pixel_auprc", ranked.average_precision());
        }
        Ok(())
    }

    fn restoration(&self, row: &mut Row, finding: &[bool]) -> Result<(), Error> {
        let (h, w) = (self.height, self.width);
        let mut maybe = |name: &str, value: Option<f64>| {
            if let Some(value) = value.filter(|v| v.is_finite()) {
                put(row, name, value);
            }
        };
        let of = inside_outside(self.x, self.reconstruction, finding, h, w)?;
        maybe("l1_inside", of.l1_inside);
        maybe("l1_outside", of.l1_outside);
        maybe("ssim_inside", of.ssim_inside);
        maybe("ssim_outside", of.ssim_outside);
        if let Some(twin) = &self.truth.twin {
            let twin: Vec<f64> = twin.iter().map(|v| f64::from(*v) / 255.0).collect();
            let of = twin_score(self.x, self.reconstruction, &twin, finding, h, w)?;
            maybe("twin_l1", Some(of.restored.l1));
            maybe("twin_ssim", Some(of.restored.ssim));
            maybe("twin_psnr", Some(of.restored.psnr));
            maybe("untouched_l1", Some(of.untouched.l1));
            maybe("untouched_ssim", Some(of.untouched.ssim));
            maybe("twin_l1_inside", of.regions.l1_inside);
            maybe("twin_l1_outside", of.regions.l1_outside);
            maybe("twin_ssim_inside", of.regions.ssim_inside);
            maybe("lesion_removed", of.removed);
        }
        Ok(())
    }
}

fn apart(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect()
}

/// `error`, saying whose numbers it kept from being computed.
pub fn of_case(set: &str, case: &str, error: &dyn Display) -> Failure {
    Failure::User(format!("case {case} of set {set:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 16;

    fn image<'a>(x: &'a [f64], prior: &'a [f64], reconstruction: &'a [f64]) -> Image<'a> {
        Image {
            height: SIDE,
            width: SIDE,
            x,
            prior,
            reconstruction,
            displacement: None,
            lpips: None,
            view: Some("AP"),
            boxes: Vec::new(),
            truth: Truth::default(),
        }
    }

    fn of(row: &Row, name: &str) -> Option<f64> {
        row[columns::ALL.iter().position(|c| c.name == name).unwrap()]
    }

    #[test]
    fn a_healthy_image_has_its_residuals_and_no_place() {
        let (x, prior, y) = (vec![0.5; SIDE * SIDE], vec![0.25; SIDE * SIDE], vec![0.625; SIDE * SIDE]);
        let row = image(&x, &prior, &y).measure(None).unwrap();
        for (name, value) in [("l1", 0.125), ("mse", 0.015_625), ("q95", 0.125), ("prior_l1", 0.25), ("intensity", 0.5)]
        {
            assert_eq!(of(&row, name), Some(value), "{name}");
        }
        assert!((of(&row, "top5").unwrap() - 0.125).abs() < 1e-12 && of(&row, "view_score") == Some(1.0));
        let missing = ["lpips", "pointing", "l1_inside", "twin_ssim", "displacement", "l1_masked"];
        assert!(missing.iter().all(|name| of(&row, name).is_none()), "{row:?}");
        assert_eq!(of(&image(&x, &prior, &x).measure(None).unwrap(), "psnr"), None, "equal images: no finite number");
    }

    #[test]
    fn a_lesion_that_was_removed_is_seen_by_every_number() {
        let finding = |i: usize| (4..8).contains(&(i / SIDE)) && (8..12).contains(&(i % SIDE));
        let twin: Vec<f64> = (0..SIDE * SIDE).map(|i| 0.2 + (i % 7) as f64 * 0.05).collect();
        let grey: Vec<u8> = twin.iter().map(|v| (v * 255.0).round() as u8).collect();
        let x: Vec<f64> = twin.iter().enumerate().map(|(i, v)| if finding(i) { v + 0.4 } else { *v }).collect();
        let still = vec![0.0; SIDE * SIDE];
        let image = Image {
            boxes: vec![[0.5, 0.25, 0.25, 0.25]],
            truth: Truth {
                twin: Some(grey),
                lesion: Some((0..SIDE * SIDE).map(finding).collect()),
                mask: Some((0..SIDE * SIDE).map(|i| i % SIDE >= 8).collect()),
                files: Vec::new(),
            },
            displacement: Some([&still, &still]),
            lpips: Some(0.25),
            ..image(&x, &twin, &twin)
        };
        let row = image.measure(Some(&image.smoothed().unwrap())).unwrap();
        let near = |name: &str, value: f64| {
            let found = of(&row, name).unwrap();
            assert!((found - value).abs() < 0.01, "{name} is {found}");
        };
        near("pointing", 1.0);
        near("box_share", 1.0 / 16.0);
        near("pixel_auroc", 1.0);
        near("l1_inside", 0.4);
        near("l1_outside", 0.0);
        near("lesion_removed", 1.0);
        near("twin_ssim", 1.0);
        near("untouched_l1", 0.4 / 16.0);
        near("l1", 0.4 / 16.0);
        near("l1_masked", 0.4 / 8.0);
        near("mse_masked", 0.16 / 8.0);
        near("displacement", 0.0);
        near("folded", 0.0);
        near("lpips", 0.25);
        assert!(of(&row, "untouched_ssim").unwrap() < 0.95);
        assert_eq!(row.iter().filter(|v| v.is_none()).count(), 0, "every known number: {row:?}");
        let wrong = Image { truth: Truth { mask: Some(vec![true; 3]), ..Truth::default() }, ..image };
        assert!(wrong.measure(None).is_err());
    }

    #[test]
    fn what_is_no_number_is_found() {
        let (x, mut y) = (vec![0.5; SIDE * SIDE], vec![0.5; SIDE * SIDE]);
        assert_eq!(image(&x, &x, &y).not_finite(), None);
        y[9] = f64::NAN;
        assert!(matches!(image(&x, &x, &y).not_finite(), Some(("reconstruction", v)) if v.is_nan()));
        assert!(matches!(image(&x, &y, &x).not_finite(), Some(("prior", _))));
        let said = of_case("opacity", "a-1", &image(&x, &y, &y).measure(None).unwrap_err()).to_string();
        assert!(said.contains("case a-1 of set \"opacity\"") && said.contains("NaN"), "{said}");
    }
}

//! The names of the numbers that a case has: columns of the cases table, keys of an evaluation.

/// What kind of number a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Larger for images that look sicker: it can tell pathology from healthy.
    Anomaly,
    /// As [`Anomaly`](Self::Anomaly), but it knows no network: a method must beat it.
    Baseline,
    /// How near the reconstruction is to the image.
    Fidelity,
    /// How well the residual says where the finding is; only cases with boxes have it.
    Localisation,
    /// How healthy the reconstruction is, at the finding and elsewhere; only cases with boxes or a twin have it.
    Restoration,
    /// Whether the deformation is one that tissue could make; only methods that deform have it.
    Deformation,
    /// What a score means.
    Calibration,
}

/// A known column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it is, for people.
    pub meaning: &'static str,
}

/// The ECDF p-value of the primary score against healthy validation.
pub const P_VALUE: &str = "p_value";
/// The baseline that knows only how the image was taken.
pub const VIEW: &str = "view_score";

const fn column(name: &'static str, kind: Kind, meaning: &'static str) -> Column {
    Column { name, kind, meaning }
}

/// All known columns, in the order in which tables have them. x is the image, x̂ its reconstruction.
pub const ALL: [Column; 39] = [
    column("l1", Kind::Anomaly, "mean |x - x'|, the paper's score (its code calls it MSE)"),
    column("mse", Kind::Anomaly, "mean (x - x')^2"),
    column("q95", Kind::Anomaly, "95 % quantile of |x - x'|"),
    column("top5", Kind::Anomaly, "mean of the highest 5 % of the 5x5-smoothed |x - x'|"),
    column("prior_l1", Kind::Anomaly, "mean |x - prior|"),
    column("prior_top5", Kind::Anomaly, "mean of the highest 5 % of the 5x5-smoothed |x - prior|"),
    column("l1_masked", Kind::Anomaly, "mean |x - x'| within the mask"),
    column("mse_masked", Kind::Anomaly, "mean (x - x')^2 within the mask"),
    column("q95_masked", Kind::Anomaly, "95 % quantile of |x - x'| within the mask"),
    column("top5_masked", Kind::Anomaly, "mean of the highest 5 % of the 5x5-smoothed |x - x'| within the mask"),
    column("prior_l1_masked", Kind::Anomaly, "mean |x - prior| within the mask"),
    column("prior_top5_masked", Kind::Anomaly, "mean of the highest 5 % of the smoothed |x - prior| within the mask"),
    column(VIEW, Kind::Baseline, "1 for AP, 0 for PA, 1/2 otherwise: knows no image"),
    column("intensity", Kind::Baseline, "mean of x: knows no network"),
    column("ssim", Kind::Fidelity, "structural similarity of x and x'"),
    column("psnr", Kind::Fidelity, "peak signal-to-noise ratio of x', dB; none where x' equals x"),
    column("lpips", Kind::Fidelity, "LPIPS-Alex of x and x', where its weights are given"),
    column("pointing", Kind::Localisation, "1 when the highest pixel of the smoothed residual lies in a box, else 0"),
    column("energy_inside", Kind::Localisation, "share of the smoothed residual that lies in boxes"),
    column("box_share", Kind::Localisation, "share of the image that boxes cover: chance level of both"),
    column("pixel_auroc", Kind::Localisation, "AUROC of the smoothed residual's pixels, boxes against the rest"),
    column("pixel_auprc", Kind::Localisation, "average precision of the same; chance level is box_share"),
    column("l1_inside", Kind::Restoration, "mean |x - x'| in the finding"),
    column("l1_outside", Kind::Restoration, "mean |x - x'| elsewhere"),
    column("ssim_inside", Kind::Restoration, "SSIM of x and x' in the finding"),
    column("ssim_outside", Kind::Restoration, "SSIM of x and x' elsewhere"),
    column("twin_l1", Kind::Restoration, "mean |x' - twin|, the twin being the same patient without the lesion"),
    column("twin_ssim", Kind::Restoration, "SSIM of x' and the twin"),
    column("twin_psnr", Kind::Restoration, "peak signal-to-noise ratio of x' against the twin, dB"),
    column("untouched_l1", Kind::Restoration, "mean |x - twin|: what is reached by restoring nothing"),
    column("untouched_ssim", Kind::Restoration, "SSIM of x and the twin: what is reached by restoring nothing"),
    column("twin_l1_inside", Kind::Restoration, "mean |x' - twin| in the lesion"),
    column("twin_l1_outside", Kind::Restoration, "mean |x' - twin| elsewhere"),
    column("twin_ssim_inside", Kind::Restoration, "SSIM of x' and the twin in the lesion"),
    column("lesion_removed", Kind::Restoration, "share of the lesion that was removed: 1 is the twin, 0 nothing done"),
    column("displacement", Kind::Deformation, "mean length of the displacement, pixels"),
    column("displacement_max", Kind::Deformation, "the longest, pixels"),
    column("folded", Kind::Deformation, "share of the cells at which the deformation folds"),
    column(P_VALUE, Kind::Calibration, "(1 + healthy validation scores as high) / (1 + n), of the primary score"),
];

/// The column of this name, where it is a known one.
pub fn known(name: &str) -> Option<&'static Column> {
    ALL.iter().find(|c| c.name == name)
}

/// The kind of the column of this name, where it is a known one.
pub fn kind(name: &str) -> Option<Kind> {
    known(name).map(|c| c.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_csv_head() {
        for (i, column) in ALL.iter().enumerate() {
            assert!(column.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            assert!(ALL[..i].iter().all(|other| other.name != column.name), "{}", column.name);
            assert_eq!(kind(column.name), Some(column.kind));
        }
        assert_eq!(kind("l2"), None);
    }
}

//! ROC and precision–recall (scikit-learn's definitions): one number of two samples. Where several numbers of the same samples
//! are wanted, [`Ranked`] sorts once.

use crate::{Error, Point, PrPoint, Ranked};

/// Area under the ROC curve: the chance that a sick image scores higher than a healthy one, ties counting half.
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn auroc(healthy: &[f64], pathology: &[f64]) -> Result<f64, Error> {
    Ok(Ranked::named("AUROC", healthy, pathology)?.auroc())
}

/// Average precision: the mean of the precision over recalls, without interpolation (`average_precision_score`). Chance level
/// is the share of sick images.
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn average_precision(healthy: &[f64], pathology: &[f64]) -> Result<f64, Error> {
    Ok(Ranked::named("average precision", healthy, pathology)?.average_precision())
}

/// The ROC curve from (0, 0) on; see [`Ranked::roc`].
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn roc_curve(healthy: &[f64], pathology: &[f64], drop_intermediate: bool) -> Result<Vec<Point>, Error> {
    Ok(Ranked::named("ROC curve", healthy, pathology)?.roc(drop_intermediate))
}

/// The precision–recall curve; see [`Ranked::precision_recall`].
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn pr_curve(healthy: &[f64], pathology: &[f64], drop_intermediate: bool) -> Result<Vec<PrPoint>, Error> {
    Ok(Ranked::named("precision–recall curve", healthy, pathology)?.precision_recall(drop_intermediate))
}

/// The false positive rate at the first point of the ROC curve whose true positive rate is at least `tpr`; as the reference,
/// on the curve without intermediate points.
///
/// # Errors
/// When a set is empty, a score is not finite, or `tpr` is not in 0..=1.
pub fn fpr_at_tpr(healthy: &[f64], pathology: &[f64], tpr: f64) -> Result<f64, Error> {
    Ok(Ranked::named("FPR at TPR", healthy, pathology)?.at_tpr(tpr)?.fpr)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        let few = || prop::collection::vec((0..12i32).prop_map(f64::from), 1..40);
        (few(), few())
    }

    proptest! {
        #[test]
        fn auroc_counts_pairs((healthy, sick) in scores()) {
            let wins: f64 = healthy.iter().flat_map(|h| sick.iter().map(move |s| {
                if s > h { 1.0 } else if s == h { 0.5 } else { 0.0 }
            })).sum();
            let counted = wins / (healthy.len() * sick.len()) as f64;
            let computed = auroc(&healthy, &sick).unwrap();
            prop_assert!((computed - counted).abs() < 1e-12);
            let swapped = auroc(&sick, &healthy).unwrap();
            prop_assert!((computed + swapped - 1.0).abs() < 1e-12);
        }

        #[test]
        fn the_curve_rises_from_corner_to_corner((healthy, sick) in scores()) {
            for drop in [false, true] {
                let curve = roc_curve(&healthy, &sick, drop).unwrap();
                prop_assert_eq!((curve[0].fpr, curve[0].tpr), (0.0, 0.0));
                let last = curve[curve.len() - 1];
                prop_assert_eq!((last.fpr, last.tpr), (1.0, 1.0));
                prop_assert!(curve.windows(2).all(|w| w[0].fpr <= w[1].fpr && w[0].tpr <= w[1].tpr));
            }
        }

        #[test]
        fn precision_lies_between_its_bounds((healthy, sick) in scores()) {
            let ap = average_precision(&healthy, &sick).unwrap();
            prop_assert!(ap > 0.0 && ap <= 1.0);
            let ranked = Ranked::new(&healthy, &sick).unwrap();
            let curve = ranked.roc(true);
            for tpr in [0.0, 0.5, 0.95, 1.0] {
                let wanted = *curve.iter().find(|p| p.tpr >= tpr).unwrap();
                prop_assert_eq!(ranked.at_tpr(tpr).unwrap(), wanted);
                // The most sensitive of the points that spare enough, the most specific of these.
                let whole = ranked.roc(false);
                let spare = whole.iter().filter(|p| 1.0 - p.fpr >= tpr - 1e-12);
                let best = spare.fold(whole[0], |best, p| if p.tpr > best.tpr { *p } else { best });
                prop_assert_eq!(ranked.at_specificity(tpr).unwrap(), best);
            }
        }

        #[test]
        fn ranks_alone_count((healthy, sick) in scores()) {
            let bent = |v: &[f64]| v.iter().map(|v| (v / 3.0).exp() * 7.0 - 2.0).collect::<Vec<f64>>();
            let (a, b) = (Ranked::new(&healthy, &sick).unwrap(), Ranked::new(&bent(&healthy), &bent(&sick)).unwrap());
            prop_assert_eq!(a.auroc(), b.auroc());
            prop_assert_eq!(a.average_precision(), b.average_precision());
            prop_assert_eq!(a.at_tpr(0.95).unwrap().fpr, b.at_tpr(0.95).unwrap().fpr);
        }

        #[test]
        fn counts_say_what_the_samples_say((healthy, sick) in scores()) {
            let count = |set: &[f64], at: f64| set.iter().filter(|v| **v == at).count() as u64;
            let bins = (0..12).rev().map(f64::from).map(|at| (at, count(&healthy, at), count(&sick, at)));
            prop_assert_eq!(Ranked::from_counts(bins).unwrap(), Ranked::new(&healthy, &sick).unwrap());
        }
    }

    #[test]
    fn nothing_and_nan_are_errors() {
        assert_eq!(auroc(&[], &[1.0]), Err(Error::Empty { what: "AUROC", set: "healthy set" }));
        let said = auroc(&[0.0], &[1.0, f64::NAN]).unwrap_err().to_string();
        assert!(said.contains("value 1 of the pathology set is NaN"), "{said}");
        assert!(fpr_at_tpr(&[0.0], &[1.0], 1.5).is_err());
        assert!(Ranked::new(&[0.0], &[1.0]).unwrap().at_specificity(f64::NAN).is_err());
        assert!(Ranked::from_counts([(0.0, 1, 1), (1.0, 1, 1)]).is_err());
        assert_eq!(Ranked::from_counts([(1.0, 0, 4)]), Err(Error::Empty { what: "detection", set: "healthy set" }));
    }
}

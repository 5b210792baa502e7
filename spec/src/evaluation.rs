//! `evaluation`: what is scored after training, and how.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{Digest, experiment::Subset};

/// The numbers by which runs can be compared, of each comparison: `<comparison>/<measure>`.
pub const MEASURES: [&str; 30] = [
    "auroc",
    "auroc_low",
    "auroc_high",
    "auprc",
    "auprc_low",
    "auprc_high",
    "fpr95",
    "fpr99",
    "sens90",
    "sens95",
    "sensitivity",
    "specificity",
    "prevalence",
    "auroc_l1",
    "auroc_mse",
    "auroc_q95",
    "auroc_top5",
    "auprc_top5",
    "auroc_prior",
    "auroc_prior_top5",
    "auroc_view",
    "auroc_view_matched",
    "auroc_intensity",
    // Where the pathology has boxes.
    "pointing",
    "energy_inside",
    "pixel_auroc",
    "pixel_auprc",
    "box_ap",
    // Where there are twins.
    "twin_ssim",
    "lesion_removed",
];
/// Further ones; `mean/…` where there are several comparisons.
pub const PLAIN: [&str; 6] = ["healthy/ssim", "healthy/l1", "healthy/psnr", "mean/auroc", "mean/auprc", "val/score"];

/// What is scored after training, with the best checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// The negative set.
    pub healthy: Subset,
    /// Positive sets by name; each is compared with `healthy`.
    pub pathology: BTreeMap<String, Subset>,
    /// Further comparisons by name, each with sets of its own, perhaps of other datasets.
    pub comparisons: BTreeMap<String, Comparison>,
    /// The score that metrics, thresholds, subgroups and p-values are of. All scores are reported, whatever it is.
    pub score: Score,
    /// The specificity that the threshold is to have on the healthy validation images.
    pub specificity: f64,
    /// Shares of sick images, as of a ward, at which the threshold's predictive values are told: a test set's share is its makers' choice.
    pub prevalences: Vec<f64>,
    /// Labelled images beside the test sets, by which the score becomes a probability of being sick. Thresholds and p-values never look at
    /// them: those are of healthy validation images alone.
    pub calibration: Option<Comparison>,
    /// Resamples of the bootstrap, of which the 95 % intervals are.
    pub resamples: u32,
    /// Folder with what is known of the images beside their dataset, by sample id: `twins/<id>.png` (the same patient without
    /// the disease; phantoms only), `lesions/<id>.png` and `masks/<id>.png` (where to look, such as the lungs).
    pub truth: Option<String>,
    /// The network by which images are compared as people see them; without it there is no `lpips`.
    pub lpips: Option<Lpips>,
    /// The network by whose features sets of images are compared; without it there is no `fid`.
    pub fid: Option<Fid>,
    /// Digests that the datasets of `comparisons` must have, by their folders. A submission fills them in, so that a run is scored
    /// on what lay there then, or says that it is another dataset now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, Digest>,
    /// What becomes of test images that had a part in training.
    pub leakage: Leakage,
    /// Images per forward pass. Fixed, so that scores do not depend on the number of ranks.
    pub batch_size: u32,
    /// Cases of each set shown in the panel picture.
    pub panel_cases: u32,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            healthy: Subset { split: "test".into(), labels: vec!["Normal".into()] },
            pathology: BTreeMap::from([(
                "opacity".into(),
                Subset { split: "test".into(), labels: vec!["Lung Opacity".into()] },
            )]),
            comparisons: BTreeMap::new(),
            score: Score::default(),
            specificity: 0.95,
            prevalences: vec![0.01, 0.05, 0.2],
            calibration: None,
            resamples: 2000,
            truth: None,
            lpips: None,
            fid: None,
            digests: BTreeMap::new(),
            leakage: Leakage::default(),
            batch_size: 16,
            panel_cases: 3,
        }
    }
}

/// LPIPS on AlexNet (Zhang et al. 2018).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lpips {
    /// Files that together hold its tensors: the state dict of the package `lpips`, or torchvision's AlexNet and the package's
    /// `alex.pth`.
    pub weights: Vec<String>,
    /// Give it values in −1..1, as it was trained; without, 0..1, as the paper's code does.
    #[serde(default)]
    pub rescale: bool,
}

impl Lpips {
    /// Pixels a side below which AlexNet has nothing left of an image.
    pub const LEAST_SIDE: u32 = 31;
}

/// Fréchet Inception distance (Heusel et al. 2017).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fid {
    /// The file that holds InceptionV3's state dict: that of the package `pytorch-fid`, which the paper's code uses, or
    /// torchvision's.
    pub weights: String,
}

/// A comparison with sets of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Folder of the prepared dataset that both sets are of, unless they name their own; without one, the dataset that is
    /// trained on.
    #[serde(default)]
    pub dataset: Option<String>,
    /// The negative set.
    pub healthy: Part,
    /// The positive set.
    pub pathology: Part,
}

/// A subset of some dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Folder of the prepared dataset; without one, the comparison's.
    #[serde(default)]
    pub dataset: Option<String>,
    /// `train`, `val` or `test`.
    pub split: String,
    /// Only these labels; empty: all in the split.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl Part {
    /// The subset, without its dataset.
    pub fn subset(&self) -> Subset {
        Subset { split: self.split.clone(), labels: self.labels.clone() }
    }
}

/// Anomaly scores that can be chosen: columns of the cases table. x is the image, x̂ its reconstruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Mean |x − x̂|: the paper's (whose code calls it MSE).
    #[default]
    L1,
    /// Mean (x − x̂)².
    Mse,
    /// 95 % quantile of |x − x̂|.
    Q95,
    /// Mean of the highest 5 % of the 5×5-smoothed |x − x̂|.
    Top5,
    /// Mean |x − prior|: before the prior was bent to the image.
    PriorL1,
    /// Mean of the highest 5 % of the 5×5-smoothed |x − prior|.
    PriorTop5,
    /// As `l1`, within the mask; takes `evaluation.truth`.
    L1Masked,
    /// As `mse`, within the mask.
    MseMasked,
    /// As `q95`, within the mask.
    Q95Masked,
    /// As `top5`, within the mask.
    Top5Masked,
    /// As `prior_l1`, within the mask.
    PriorL1Masked,
    /// As `prior_top5`, within the mask.
    PriorTop5Masked,
}

impl Score {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::L1,
        Self::Mse,
        Self::Q95,
        Self::Top5,
        Self::PriorL1,
        Self::PriorTop5,
        Self::L1Masked,
        Self::MseMasked,
        Self::Q95Masked,
        Self::Top5Masked,
        Self::PriorL1Masked,
        Self::PriorTop5Masked,
    ];

    /// The column's name, as in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::Mse => "mse",
            Self::Q95 => "q95",
            Self::Top5 => "top5",
            Self::PriorL1 => "prior_l1",
            Self::PriorTop5 => "prior_top5",
            Self::L1Masked => "l1_masked",
            Self::MseMasked => "mse_masked",
            Self::Q95Masked => "q95_masked",
            Self::Top5Masked => "top5_masked",
            Self::PriorL1Masked => "prior_l1_masked",
            Self::PriorTop5Masked => "prior_top5_masked",
        }
    }

    /// Whether it looks within a mask only.
    pub fn is_masked(self) -> bool {
        self.name().ends_with("_masked")
    }
}

impl FromStr for Score {
    type Err = String;

    /// By its [`Score::name`].
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What becomes of test images that had a part in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leakage {
    /// Nothing is scored, and nothing trained.
    #[default]
    Refuse,
    /// They are scored; the evaluation says so.
    Allow,
}

/// A set of images that is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSet {
    /// Its name in tables.
    pub name: String,
    /// Folder of its dataset; `None`: the one that is trained on.
    pub dataset: Option<String>,
    /// Which of its samples.
    pub subset: Subset,
    /// Whether it is the positive set of a comparison.
    pub sick: bool,
}

/// Everything that is scored: each set once, and which are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TestPlan {
    /// The sets; the first is a healthy one.
    pub sets: Vec<TestSet>,
    /// Comparison → the healthy set's name, the pathology's.
    pub comparisons: BTreeMap<String, [String; 2]>,
    /// The healthy and the sick set of the calibration, if there is one.
    pub calibration: Option<[String; 2]>,
}

/// What the sick calibration set is called; the healthy one is `calibration/healthy`.
pub const CALIBRATION: &str = "calibration";

impl TestPlan {
    /// The name of the set, which is added unless another comparison has it.
    fn set(&mut self, name: String, dataset: Option<&String>, subset: Subset, sick: bool) -> String {
        let same = |s: &&TestSet| s.dataset.as_ref() == dataset && s.subset == subset && s.sick == sick;
        if let Some(found) = self.sets.iter().find(same) {
            return found.name.clone();
        }
        self.sets.push(TestSet { name: name.clone(), dataset: dataset.cloned(), subset, sick });
        name
    }
}

impl Evaluation {
    /// What is scored. The first healthy set is called `healthy`: `evaluation.healthy`, unless nothing is compared with it.
    /// Comparisons with the same healthy set share it; another is called `<comparison>/healthy`.
    pub fn plan(&self) -> TestPlan {
        let mut plan = TestPlan::default();
        let mut healthy = String::new();
        if !self.pathology.is_empty() || self.comparisons.is_empty() {
            healthy = plan.set("healthy".into(), None, self.healthy.clone(), false);
        }
        for (name, subset) in &self.pathology {
            let sick = plan.set(name.clone(), None, subset.clone(), true);
            plan.comparisons.insert(name.clone(), [healthy.clone(), sick]);
        }
        for (name, c) in &self.comparisons {
            let of = |part: &Part| part.dataset.as_ref().or(c.dataset.as_ref()).cloned();
            let called = if plan.sets.is_empty() { "healthy".to_owned() } else { format!("{name}/healthy") };
            let healthy = plan.set(called, of(&c.healthy).as_ref(), c.healthy.subset(), false);
            let sick = plan.set(name.clone(), of(&c.pathology).as_ref(), c.pathology.subset(), true);
            plan.comparisons.insert(name.clone(), [healthy, sick]);
        }
        if let Some(c) = &self.calibration {
            let of = |part: &Part| part.dataset.as_ref().or(c.dataset.as_ref()).cloned();
            let called = format!("{CALIBRATION}/healthy");
            let healthy = plan.set(called, of(&c.healthy).as_ref(), c.healthy.subset(), false);
            let sick = plan.set(CALIBRATION.into(), of(&c.pathology).as_ref(), c.pathology.subset(), true);
            plan.calibration = Some([healthy, sick]);
        }
        plan
    }

    /// The folders of other datasets than the one that is trained on, each once.
    pub fn elsewhere(&self) -> BTreeSet<String> {
        self.plan().sets.into_iter().filter_map(|set| set.dataset).collect()
    }

    /// The same comparisons on other datasets, as they are now, each called `<comparison>@<dataset>` if there are several datasets. Names are
    /// the datasets'.
    #[must_use]
    pub fn on(&self, datasets: &[(String, String)]) -> Self {
        let nothing = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut out = Self {
            pathology: nothing.0,
            comparisons: nothing.1,
            digests: nothing.2,
            // Of the dataset that was trained on, which need not be at hand.
            calibration: None,
            ..self.clone()
        };
        let part = |s: &Subset| Part { dataset: None, split: s.split.clone(), labels: s.labels.clone() };
        for (dataset, url) in datasets {
            let called = |name: &str| if datasets.len() == 1 { name.to_owned() } else { format!("{name}@{dataset}") };
            for (name, subset) in &self.pathology {
                let (healthy, pathology) = (part(&self.healthy), part(subset));
                out.comparisons.insert(called(name), Comparison { dataset: Some(url.clone()), healthy, pathology });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_called_in_yaml_as_in_tables() {
        for score in Score::ALL {
            assert_eq!(json!(score), json!(score.name()));
            assert_eq!(score.name().parse(), Ok(score));
        }
        assert_eq!(Score::ALL.iter().filter(|s| s.is_masked()).count(), 6);
        assert!("l3".parse::<Score>().is_err_and(|e| e.contains("l1, mse")));
    }

    #[test]
    fn each_set_is_scored_once() {
        let mut e = Evaluation::default();
        let part = |dataset: Option<&str>, labels: &[&str]| Part {
            dataset: dataset.map(str::to_owned),
            split: "test".into(),
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        };
        let add = |e: &mut Evaluation, name: &str, dataset: Option<&str>, healthy: Part, pathology: Part| {
            let dataset = dataset.map(str::to_owned);
            e.comparisons.insert(name.into(), Comparison { dataset, healthy, pathology });
        };
        add(&mut e, "covid", Some("/padchest"), part(None, &["Normal"]), part(Some("/kaggle"), &["COVID"]));
        add(&mut e, "other", None, part(None, &["Normal"]), part(None, &["Other"]));
        let plan = e.plan();
        let sets: Vec<(&str, Option<&str>)> =
            plan.sets.iter().map(|s| (s.name.as_str(), s.dataset.as_deref())).collect();
        assert_eq!(
            sets,
            [
                ("healthy", None),
                ("opacity", None),
                ("covid/healthy", Some("/padchest")),
                ("covid", Some("/kaggle")),
                ("other", None),
            ]
        );
        assert_eq!(plan.comparisons["covid"], ["covid/healthy", "covid"]);
        assert_eq!(plan.comparisons["other"], ["healthy", "other"]);
        assert_eq!(e.elsewhere().into_iter().collect::<Vec<_>>(), ["/kaggle", "/padchest"]);
        assert_eq!(plan.sets.iter().filter(|s| s.sick).count(), 3);
        assert_eq!(plan.calibration, None);
        let (healthy, pathology) = (part(None, &["Normal"]), part(None, &["Opacity"]));
        e.calibration = Some(Comparison { dataset: Some("/labelled".into()), healthy, pathology });
        let plan = e.plan();
        assert_eq!(plan.calibration, Some(["calibration/healthy".into(), "calibration".into()]));
        assert_eq!((plan.sets.len(), plan.comparisons.len()), (7, 3), "it is scored, and no comparison");
        assert!(e.elsewhere().contains("/labelled"), "and pinned");
        assert_eq!(e.on(&[("b".into(), "/b".into())]).calibration, None);
    }

    #[test]
    fn the_same_comparisons_on_other_datasets() {
        let digests = [("/a".to_owned(), Digest::of(b"a"))].into();
        let e = Evaluation { digests, ..Evaluation::default() };
        assert_eq!(e.on(&[("a".into(), "/a".into())]).digests.len(), 0, "who names a dataset wants what is there now");
        let two = [("a".to_owned(), "/a".to_owned()), ("b".to_owned(), "/b".to_owned())];
        let names = |e: &Evaluation| e.comparisons.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&e.on(&two)), ["opacity@a", "opacity@b"]);
        let one = e.on(&two[1..]);
        assert_eq!((names(&one), one.pathology.len()), (vec!["opacity".to_owned()], 0));
        assert_eq!(one.comparisons["opacity"].dataset.as_deref(), Some("/b"));
        let sets: Vec<String> = one.plan().sets.into_iter().map(|s| s.name).collect();
        assert_eq!(sets, ["healthy", "opacity"], "nothing of the dataset that was trained on is scored");
    }
}

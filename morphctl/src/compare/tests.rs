//! Tables of made-up runs.

use std::collections::BTreeMap;

use morph_proto::v1::{self, RunState};
use morph_scores::{
    Plan, auroc,
    cases::{Case, Cases, Role},
    evaluation::{Dataset, Design, Evaluation, Fid, Pair, evaluate},
};
use serde_json::json;

use super::{
    formats,
    gather::{Scored, is_scored_by},
    groups::groups,
    ledger::Use,
    table::{Asked, Cell, Comparison, Row, Table, table},
};

/// A run whose scores of the sick are higher by `shift`; `noise` makes its other digits.
pub fn scored(name: &str, method: &str, seed: u64, shift: f64, noise: u64) -> Scored {
    let mut cases = Cases::new(["l1", "top5", "view_score", "intensity", "ssim", "p_value"]).unwrap();
    let digit = |i: u64| ((i * 7919 + noise * 104_729 + i * i * 31) % 1000) as f64 / 1000.0;
    for (set, role, n) in
        [("validation", Role::Validation, 20), ("healthy", Role::Healthy, 40), ("opacity", Role::Pathology, 30)]
    {
        for i in 0..n {
            let sick = role == Role::Pathology;
            let l1 = 0.1 * digit(i + 100 * role as u64) + if sick { shift } else { 0.0 };
            let view = if (i + u64::from(sick)) % 3 == 0 { "AP" } else { "PA" };
            cases
                .push(Case {
                    dataset: "made-up".into(),
                    set: set.into(),
                    role,
                    id: format!("{set}-{i}"),
                    patient: Some(format!("{set}-{}", i / 2)),
                    label: if sick { "Lung <Opacity>".into() } else { "Normal".into() },
                    view: Some(view.into()),
                    sex: Some(if i % 2 == 0 { "F" } else { "M" }.into()),
                    age: Some(20 + i as u32 * 2),
                    source: None,
                    scores: vec![
                        Some(l1),
                        Some(2.0 * l1),
                        Some(f64::from(u8::from(view == "AP"))),
                        Some(digit(i + 17)),
                        Some(0.9 - l1),
                        Some((1.0 + i as f64) / 41.0),
                    ],
                })
                .unwrap();
        }
    }
    let pair = Pair { healthy: "healthy".into(), pathology: "opacity".into() };
    let design = Design {
        score: "l1".into(),
        specificity: 0.95,
        bootstrap: Plan { resamples: 100, ..Plan::default() },
        comparisons: BTreeMap::from([("opacity".to_owned(), pair)]),
        prevalences: vec![0.01, 0.2],
        calibration: None,
    };
    let mut evaluation = evaluate(&cases, &design).unwrap();
    evaluation.datasets = vec![Dataset {
        name: "made-up".into(),
        url: "file:///made-up".into(),
        digest: "ab".repeat(32),
        persons_known: true,
        synthetic: true,
        prepared_otherwise: String::new(),
    }];
    let channels = if method == "vae" { json!([8, 8]) } else { json!([4, 8, 8, 8]) };
    let model = if method == "b-vae" {
        json!({"method": method, "image_size": 32})
    } else {
        json!({"method": method, "image_size": 32, "channels": channels})
    };
    let experiment = serde_json::from_value(json!({
        "kind": "experiment", "name": format!("{method}-made-up"), "dataset": {"url": "file:///made-up"},
        "model": model, "trainer": {"seed": seed},
    }))
    .unwrap();
    let run = v1::Run {
        id: format!("id-of-{name}"),
        name: name.into(),
        state: RunState::Succeeded.into(),
        params_json: json!({"trainer.seed": seed}).to_string(),
        dataset: "ab".repeat(32),
        ..v1::Run::default()
    };
    Scored { run, experiment, evaluation, cases }
}

fn asked() -> Asked {
    Asked { plan: Plan { resamples: 200, ..Plan::default() }, ..Asked::default() }
}

/// The table of `runs`.
pub fn table_of(runs: &[Scored], asked: &Asked) -> Result<Table, String> {
    table(&groups(runs), asked)
}

fn three() -> Vec<Scored> {
    vec![
        scored("a-1", "morphaeus", 1, 0.05, 1),
        scored("b-1", "vae", 1, 0.02, 2),
        scored("a-2", "morphaeus", 2, 0.04, 3),
    ]
}

#[test]
fn runs_that_differ_in_the_seed_are_one_method() {
    let runs = three();
    let t = table_of(&runs, &asked()).unwrap();
    let c = &t.comparisons[0];
    let labels: Vec<(&str, bool, usize)> =
        c.rows.iter().map(|r| (r.method.as_str(), r.baseline, r.runs.len())).collect();
    assert_eq!(
        labels,
        [("morphaeus", false, 2), ("vae", false, 1), ("view alone", true, 0), ("mean intensity", true, 0)]
    );
    assert_eq!((c.healthy, c.pathology, c.persons), (40, 30, Some(35)));
    let values = |s: &Scored| [s.cases.values("healthy", "l1").unwrap(), s.cases.values("opacity", "l1").unwrap()];
    let of = |s: &Scored| auroc(&values(s)[0], &values(s)[1]).unwrap();
    let mean = (of(&runs[0]) + of(&runs[2])) / 2.0;
    let row = &c.rows[0];
    assert!((row.auroc.estimate.value - mean).abs() < 1e-12, "{row:?}");
    let sd = (of(&runs[0]) - of(&runs[2])).abs() / 2f64.sqrt();
    assert!((row.auroc.seeds_sd.unwrap() - sd).abs() < 1e-12);
    assert!(c.rows[1].auroc.seeds_sd.is_none());
    assert_eq!((row.seeds.as_slice(), c.against.as_str(), row.test), (&[1, 2][..], "morphaeus", None));
    let test = c.rows[1].test.unwrap();
    assert!(test.difference.value < 0.0 && test.p <= test.p_holm, "{test:?}");
    assert!((test.difference.value - (of(&runs[1]) - mean)).abs() < 1e-12);
    assert!(row.auroc.best && !c.rows[1].auroc.best && !c.rows[2].auroc.best);
    let sensitivity = |s: &Scored| {
        let [healthy, sick] = values(s);
        morph_scores::Ranked::new(&healthy, &sick).unwrap().at_specificity(0.9).unwrap().tpr
    };
    let mean = (sensitivity(&runs[0]) + sensitivity(&runs[2])) / 2.0;
    assert!((row.sens90.estimate.value - mean).abs() < 1e-12 && row.sens90.best, "{row:?}");
    assert!(row.sens95.estimate.value <= row.sens90.estimate.value);
    assert!(t.notes.iter().any(|n| n.contains("phantoms")), "{:?}", t.notes);
    assert!(!t.notes.iter().any(|n| n.contains("prepared otherwise")), "{:?}", t.notes);
}

#[test]
fn the_reference_may_be_named_and_the_score_chosen() {
    let runs = three();
    let against = |wanted: &str| Asked { baseline: Some(wanted.into()), score: Some("top5".into()), ..asked() };
    let t = table_of(&runs, &against("b-1")).unwrap();
    let c = &t.comparisons[0];
    assert_eq!((t.score.as_str(), c.against.as_str(), c.against_best), ("top5", "vae", false));
    assert!(c.rows[1].test.is_none() && c.rows[0].test.unwrap().difference.value > 0.0);
    assert_eq!(table_of(&runs, &against("vae")).unwrap().comparisons[0].against, "vae");
    let said = table_of(&runs, &against("nobody")).unwrap_err();
    assert!(said.contains("--baseline nobody") && said.contains("morphaeus, vae"), "{said}");
    let said = table_of(&runs, &Asked { score: Some("lpips".into()), ..asked() }).unwrap_err();
    assert!(said.contains("\"lpips\"") && said.contains("l1, top5"), "{said}");
    let said = table_of(&runs, &Asked { on: vec!["covid".into()], ..asked() }).unwrap_err();
    assert!(said.contains("\"covid\"") && said.contains("it has opacity"), "{said}");
    assert_eq!(table_of(&runs, &Asked { on: vec!["opacity".into()], ..asked() }).unwrap().comparisons.len(), 1);
}

#[test]
fn other_cases_cannot_be_compared_and_other_orders_can() {
    let mut runs = three();
    let all = table_of(&runs, &asked()).unwrap();
    let rebuilt = |s: &Scored, keep: &dyn Fn(&Case) -> bool, turned: bool| {
        let mut cases = Cases::new(s.cases.names().to_vec()).unwrap();
        let mut list: Vec<Case> = s.cases.cases().iter().filter(|c| keep(c)).cloned().collect();
        if turned {
            list.reverse();
        }
        list.into_iter().for_each(|c| cases.push(c).unwrap());
        cases
    };
    runs[1].cases = rebuilt(&runs[1], &|_| true, true);
    assert_eq!(table_of(&runs, &asked()).unwrap(), all, "the order of cases does not matter");
    runs[1].cases = rebuilt(&runs[1], &|c| !["healthy-3", "opacity-7"].contains(&c.id.as_str()), false);
    let said = table_of(&runs, &asked()).unwrap_err();
    for wanted in [
        "did not score the same cases",
        "healthy: 1 cases of run a-1 are not in run b-1: healthy-3",
        "pathology: 1 cases of run a-1 are not in run b-1: opacity-7",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is not in {said}");
    }
    let mut other = three();
    other[1].evaluation.comparisons.clear();
    let said = table_of(&other, &asked()).unwrap_err();
    assert!(said.contains("run a-1 was compared on opacity, run b-1 on nothing") && said.contains("--on"), "{said}");
    let mut repacked = three();
    repacked[1].evaluation.datasets[0].digest = "cd".repeat(32);
    let notes = table_of(&repacked, &asked()).unwrap().notes;
    assert!(notes.iter().any(|n| n.contains("another preparation")), "{notes:?}");
}

#[test]
fn one_run_is_compared_with_what_knows_no_network() {
    let t = table_of(&three()[..1], &asked()).unwrap();
    let c = &t.comparisons[0];
    assert_eq!(c.rows.iter().filter(|r| r.test.is_some()).count(), 2, "both baselines");
    assert!(formats::text(&t).contains("(view alone)"));
    assert!(table_of(&[], &asked()).unwrap_err().contains("no runs"));
}

#[test]
fn all_formats_have_the_same_numbers() {
    let mut t = table_of(&three(), &asked()).unwrap();
    t.tests = vec![Use {
        dataset: "made-up".into(),
        digest: "ab".repeat(32),
        split: "test".into(),
        scored: 3,
        rescored: 0,
        choices: vec![super::ledger::Choice { sweep: "s".into(), metric: "opacity/auroc".into(), runs: 3 }],
    }];
    let row = &t.comparisons[0].rows[0];
    let shown = morph_scores::format_interval(&row.auroc.estimate, 3);
    let value = format!("{:.3}", row.auroc.estimate.value);
    let text = formats::text(&t);
    assert!(text.contains(&shown) && text.contains("*") && text.contains("2 seeds of a-1"), "{text}");
    let sensitive = morph_scores::format_interval(&row.sens95.estimate, 3);
    assert!(text.contains("SENS@95") && text.contains(&sensitive), "{text}");
    assert!(
        text.contains("(chance)") && text.contains("0.429") && text.contains("WARNING: the test set of made-up"),
        "{text}"
    );
    let markdown = formats::markdown(&t);
    assert!(markdown.contains(&format!("**{shown}")) && markdown.contains("| *view alone* |"), "{markdown}");
    let latex = formats::latex(&t);
    assert!(latex.contains(&format!("\\textbf{{{value}}}")) && latex.contains("\\bottomrule"), "{latex}");
    assert!(!latex.contains('±') && latex.contains("95 \\%"), "{latex}");
    assert!(latex.contains("SENS@90") && !latex.contains("FID"), "only what there is: {latex}");
    let deviation = format!("$\\pm${:.3}", row.auroc.seeds_sd.unwrap());
    assert!(latex.contains(&deviation) && latex.contains(&formats::cases(&t.comparisons[0])), "{latex}");
    let csv = formats::csv(&t).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 5, "a head and four rows: {csv}");
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|l| l.split(',').count() == columns), "{csv}");
    assert!(lines[1].contains(&row.auroc.estimate.value.to_string()), "{csv}");
    assert!(lines[0].contains("sens90_low") && lines[1].contains(&row.sens90.estimate.value.to_string()), "{csv}");
    let json = serde_json::to_value(&t).unwrap();
    assert_eq!(json["comparisons"][0]["rows"][0]["auroc"]["value"], row.auroc.estimate.value);
    assert_eq!(json["comparisons"][0]["rows"][0]["auroc"]["best"], true);
    assert_eq!(json["version"], 1);
}

/// Where runs were scored by networks whose weights were given, every format says what these found.
#[test]
fn how_images_look_is_told_where_it_is_known() {
    let mut runs = three();
    assert!(formats::looks(&table_of(&runs, &asked()).unwrap().comparisons[0]).is_none());
    for (i, run) in runs.iter_mut().enumerate() {
        let fid = |value: f64| Some(Fid { value, images: 30, against: 40, network: "pytorch-fid".into() });
        run.evaluation.sets.get_mut("healthy").unwrap().fid = fid(10.0 + i as f64);
        let opacity = run.evaluation.comparisons.get_mut("opacity").unwrap();
        (opacity.healthy_fid, opacity.untouched_fid) = (fid(20.0 + i as f64), fid(30.0));
        run.cases = run.cases.with_column("lpips", |_| Some(0.25)).unwrap();
    }
    let t = table_of(&runs, &asked()).unwrap();
    // Runs 0 and 2 are two seeds of one method.
    let fid = t.comparisons[0].rows[0].fid.clone().unwrap();
    assert_eq!((fid.healthy, fid.restored, fid.untouched), (11.0, 21.0, 30.0));
    let rows = formats::looks(&t.comparisons[0]).unwrap();
    assert_eq!((rows.len(), rows[1].0), (2, "vae"), "baselines make no images");
    assert_eq!(rows[1].1[1..], ["11.000", "21.000", "30.000"].map(|v| Some(v.to_owned())));
    let (text, markdown, csv) = (formats::text(&t), formats::markdown(&t), formats::csv(&t).unwrap());
    assert!(text.contains("FID, sick restored") && text.contains("0.250 [0.250, 0.250]"), "{text}");
    assert!(markdown.contains("| vae | 0.250 [0.250, 0.250] | 11.000 | 21.000 | 30.000 |"), "{markdown}");
    assert!(csv.lines().nth(2).unwrap().ends_with("0.25,0.25,0.25,11,21,30"), "{csv}");
    let latex = formats::latex(&t);
    assert!(latex.contains("0.250, 0.250]} & 11.000 & 21.000 & 30.000 & "), "{latex}");
    let lines: Vec<&str> = latex.lines().filter(|l| l.ends_with("\\\\") && !l.contains("multicolumn")).collect();
    let widths: Vec<usize> = lines.iter().map(|line| line.matches(" & ").count()).collect();
    assert_eq!(widths, [13; 6], "a head, two methods, two baselines, chance: {latex}");
    // By two networks they are no numbers of one kind.
    runs[2].evaluation.sets.get_mut("healthy").unwrap().fid.as_mut().unwrap().network = "torchvision".into();
    assert!(table_of(&runs, &asked()).unwrap().comparisons[0].rows[0].fid.is_none());
}

/// Runs that were scored on a second dataset, too: other sick images of it, with healthy ones of their own.
pub fn on_two(mut runs: Vec<Scored>) -> Vec<Scored> {
    for (n, run) in (50u64..).zip(&mut runs) {
        let other = scored("other", "vae", 1, 0.005 * (n - 45) as f64, n);
        let renamed = |set: &str| if set == "healthy" { "covid/healthy" } else { "covid" };
        for case in other.cases.cases().iter().filter(|c| c.role != Role::Validation) {
            let dataset = "elsewhere".to_owned();
            run.cases.push(Case { dataset, set: renamed(&case.set).into(), ..case.clone() }).unwrap();
        }
        let pair = Pair { healthy: "covid/healthy".into(), pathology: "covid".into() };
        run.evaluation.design.comparisons.insert("covid".into(), pair);
        let datasets = std::mem::take(&mut run.evaluation.datasets);
        run.evaluation = Evaluation { datasets, ..evaluate(&run.cases, &run.evaluation.design).unwrap() };
    }
    runs
}

/// The paper's table: methods × test sets, and the mean, in every format.
#[test]
fn several_test_sets_stand_side_by_side_with_their_mean() {
    let runs = on_two(three());
    let t = table_of(&runs, &asked()).unwrap();
    let names: Vec<&str> = t.comparisons.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["covid", "opacity"]);
    let of = |rows: &[Row], i: usize| rows[i].auroc.estimate.value;
    for i in 0..4 {
        let mean = (of(&t.comparisons[0].rows, i) + of(&t.comparisons[1].rows, i)) / 2.0;
        assert!((of(&t.mean, i) - mean).abs() < 1e-12, "{i}");
        assert_eq!(t.mean[i].method, t.comparisons[0].rows[i].method);
    }
    let row = &t.mean[0];
    assert_eq!((row.runs.len(), row.baseline, t.mean[2].baseline), (2, false, true));
    let best = t.mean[..2].iter().max_by(|a, b| a.auroc.estimate.value.total_cmp(&b.auroc.estimate.value)).unwrap();
    assert_eq!(t.mean_against, best.method);
    for row in &t.mean {
        let test = row.test.map(|test| (test.difference.value, test.p_holm >= test.p));
        let difference = row.auroc.estimate.value - best.auroc.estimate.value;
        assert!(
            row.method == best.method || test.is_some_and(|(d, holm)| (d - difference).abs() < 1e-12 && holm),
            "{row:?}"
        );
        assert!(row.method != best.method || test.is_none());
    }
    let width = |cell: &Cell| cell.estimate.high - cell.estimate.low;
    assert!(width(&row.auroc) < width(&t.comparisons[1].rows[0].auroc), "two test sets are more evidence than one");
    let seeds = |s: &Scored| {
        let auroc = |name: &str| s.evaluation.comparisons[name].scores["l1"].detection.auroc.value;
        (auroc("covid") + auroc("opacity")) / 2.0
    };
    let sd = (seeds(&runs[0]) - seeds(&runs[2])).abs() / 2f64.sqrt();
    assert!((row.auroc.seeds_sd.unwrap() - sd).abs() < 1e-12, "{row:?}");
    let ssim = |c: &Comparison| c.rows[1].ssim.unwrap().estimate.value;
    let mean = (ssim(&t.comparisons[0]) + ssim(&t.comparisons[1])) / 2.0;
    assert!((t.mean[1].ssim.unwrap().estimate.value - mean).abs() < 1e-12);
    // The best of the mean need not be the best anywhere; of methods there is one at least, of baselines none.
    assert!(t.mean[..2].iter().any(|r| r.auroc.best) && !t.mean[2..].iter().any(|r| r.auroc.best));

    let shown = |cell: &Cell| morph_scores::format_interval(&cell.estimate, 3);
    let text = formats::text(&t);
    let grid = text.split("AUROC, all comparisons\n").nth(1).unwrap();
    assert!(grid.starts_with("METHOD") && grid.lines().next().unwrap().ends_with("mean"), "{text}");
    let line = grid.lines().nth(1).unwrap();
    for cell in [&t.comparisons[0].rows[0].auroc, &t.comparisons[1].rows[0].auroc, &row.auroc] {
        assert!(line.contains(&shown(cell)), "{line}");
    }
    assert!(text.contains("mean over all comparisons") && text.contains("images that comparisons share"), "{text}");
    let tests = format!("mean: p is of the difference in mean AUROC to {}, the best in this very mean", t.mean_against);
    assert!(text.contains(&tests) && text.contains("for 3 tests"), "{text}");
    let markdown = formats::markdown(&t);
    assert!(
        markdown.contains("| AUROC | covid | opacity | mean |") && markdown.contains("| SSIM | covid |"),
        "{markdown}"
    );
    let csv = formats::csv(&t).unwrap();
    let means: Vec<&str> = csv.lines().filter(|l| l.starts_with("mean,,,,,l1,")).collect();
    assert_eq!((means.len(), csv.lines().count()), (4, 13), "{csv}");
    assert!(means[0].contains(&row.auroc.estimate.value.to_string()), "{csv}");
    assert_eq!(means.iter().filter(|l| l.contains(&format!(",{},", t.mean_against))).count(), 4, "{csv}");
    let latex = formats::latex(&t);
    let lines: Vec<&str> = latex.lines().filter(|l| l.ends_with("\\\\") && !l.contains("multicolumn")).collect();
    let widths: Vec<usize> = lines.iter().map(|line| line.matches(" & ").count()).collect();
    assert_eq!(widths, [9 + 9 + 9; 6], "{latex}");
    assert!(latex.contains("\\multicolumn{9}{c}{mean}") && latex.contains("\\cmidrule(lr){20-28}"), "{latex}");
    let json = serde_json::to_value(&t).unwrap();
    assert_eq!(json["matrix"][0]["number"], "auroc");
    assert_eq!(json["matrix"][0]["rows"][0]["by"]["mean"]["value"], row.auroc.estimate.value);
    assert_eq!(json["matrix"][0]["rows"][0]["by"]["covid"]["best"], t.comparisons[0].rows[0].auroc.best);
    let one = table_of(&three(), &asked()).unwrap();
    assert!(one.mean.is_empty() && one.matrix.is_empty() && !formats::text(&one).contains("mean over all"));
}

/// A healthy set that two pathologies are held against is drawn once for both.
#[test]
fn a_mean_knows_of_images_that_comparisons_share() {
    let mut runs = three()[..1].to_vec();
    for run in &mut runs {
        let pair = run.evaluation.design.comparisons["opacity"].clone();
        run.evaluation.design.comparisons.insert("again".into(), pair);
        let datasets = std::mem::take(&mut run.evaluation.datasets);
        run.evaluation = Evaluation { datasets, ..evaluate(&run.cases, &run.evaluation.design).unwrap() };
    }
    let t = table_of(&runs, &asked()).unwrap();
    let (mean, one) = (&t.mean[0], &t.comparisons[0].rows[0]);
    for (mean, one) in [(mean.auroc, one.auroc), (mean.ssim.unwrap(), one.ssim.unwrap())] {
        let (mean, one) = (mean.estimate, one.estimate);
        assert!((mean.low - one.low).abs() < 1e-12 && (mean.high - one.high).abs() < 1e-12, "{mean:?}, {one:?}");
    }
}

/// A dataset that was prepared otherwise is remarked on in the table.
#[test]
fn other_preparations_are_remarked_on() {
    let mut runs = on_two(three());
    let datasets = &mut runs[0].evaluation.datasets;
    let how = "resize: \"torch-bilinear\" instead of \"pillow-bilinear\"".to_owned();
    datasets.push(Dataset {
        name: "elsewhere".into(),
        digest: "cd".repeat(32),
        prepared_otherwise: how,
        ..datasets[0].clone()
    });
    let notes = |on: &[&str]| {
        let on = on.iter().map(|name| (*name).to_owned()).collect();
        table_of(&runs, &Asked { on, ..asked() }).unwrap().notes
    };
    let prepared =
        "elsewhere was prepared otherwise than made-up (resize: \"torch-bilinear\" instead of \"pillow-bilinear\")";
    let other = "was scored on another preparation of the dataset";
    for said in [prepared, other] {
        assert!(notes(&[]).iter().any(|n| n.contains(said)), "{said}: {:?}", notes(&[]));
        assert!(!notes(&["opacity"]).iter().any(|n| n.contains(said)), "{said}: {:?}", notes(&["opacity"]));
    }
}

/// Only what is higher for the sick can rank methods: by a p-value the worst would be the best.
#[test]
fn what_is_no_score_ranks_nothing() {
    for (column, why) in
        [("p_value", "healthy validation scores"), ("ssim", "structural similarity"), ("l3", "has no score")]
    {
        let said = table_of(&three(), &Asked { score: Some(column.into()), ..asked() }).unwrap_err();
        assert!(said.contains(why) && said.ends_with("compare by one of l1, top5, view_score, intensity"), "{said}");
    }
    table_of(&three(), &Asked { score: Some("top5".into()), ..asked() }).unwrap();
}

/// A class of one would be drawn whole each time, and add nothing to the spread of a mean.
#[test]
fn a_class_of_one_tests_no_mean() {
    let mut runs = on_two(three());
    for run in &mut runs {
        let mut cases = Cases::new(run.cases.names().iter().cloned()).unwrap();
        let kept = run.cases.cases().iter().filter(|c| c.set != "covid" || c.id == "opacity-0");
        kept.for_each(|c| cases.push(c.clone()).unwrap());
        run.cases = cases;
    }
    let t = table_of(&runs, &asked()).unwrap();
    assert!(t.mean.iter().all(|row| row.test.is_none()) && !t.mean.is_empty());
    for said in ["covid: 1 cases of one class say little", "mean: no p-values: covid has a class of less than 2"] {
        assert!(t.notes.iter().any(|n| n.contains(said)), "{said}: {:?}", t.notes);
    }
    assert!(!t.notes.iter().any(|n| n.starts_with("opacity: ")), "{:?}", t.notes);
}

/// What was left out of a table of cases, or changed in it, since it was scored is noticed.
#[test]
fn a_table_that_was_changed_is_not_compared() {
    let run = scored("a-1", "morphaeus", 1, 0.05, 1);
    is_scored_by(&run.evaluation, &run.cases).unwrap();
    let changed = |keep: fn(&Case) -> bool, l1: fn(f64) -> f64| {
        let mut cases = Cases::new(run.cases.names().iter().cloned()).unwrap();
        for case in run.cases.cases().iter().filter(|c| keep(c)) {
            let mut case = case.clone();
            case.scores[0] = case.scores[0].map(l1);
            cases.push(case).unwrap();
        }
        is_scored_by(&run.evaluation, &cases)
    };
    changed(|_| true, |v| 2.0 * v).expect("the same order is the same AUROC");
    assert!(changed(|c| c.id != "healthy-3", |v| v).unwrap_err().contains("39 healthy and 30 sick"));
    assert!(changed(|_| true, |_| 0.1).unwrap_err().contains("an AUROC of 0.500000 there"));
}

#[test]
fn methods_are_told_apart_by_the_least_that_does() {
    let label = |runs: &[Scored]| groups(runs).into_iter().map(|g| g.label).collect::<Vec<_>>();
    assert_eq!(label(&three()), ["morphaeus", "vae"]);
    let mut same = vec![scored("x-1", "morphaeus", 1, 0.1, 1), scored("x-2", "morphaeus", 1, 0.1, 2)];
    same[1].experiment.trainer.optimizer.lr = 0.5;
    same[1].run.params_json = json!({"trainer.optimizer.lr": 0.5, "trainer.seed": 1}).to_string();
    assert_eq!(label(&same), ["morphaeus", "morphaeus lr=0.5"]);
    same[1].experiment.name = "other".into();
    assert_eq!(label(&same), ["morphaeus-made-up", "other"]);
    same[1].experiment.name = same[0].experiment.name.clone();
    same[1].run.params_json = "{}".into();
    assert_eq!(label(&same), ["x-1", "x-2"]);
}

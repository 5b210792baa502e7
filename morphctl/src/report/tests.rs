//! The page on made-up runs.

use std::{collections::BTreeMap, fs};

use morph_proto::v1;
use morph_scores::{
    BestOverlap, Estimate, FrocPoint,
    evaluation::{BoxAp, Calibration, Judged, Localisation, Mean},
};
use serde_json::Value;

use super::{
    material::{Material, Training},
    page, write,
};
use crate::compare::{
    gather::Gathered,
    ledger::Use,
    table::Asked,
    tests::{on_two, scored, table_of},
};

/// Two methods, one of them with two seeds; names are as hostile as they can be.
fn material() -> Material {
    let mut runs = vec![
        scored("a-1", "morphaeus", 1, 0.05, 1),
        scored("b-1", "vae", 1, 0.02, 2),
        scored("a-2", "morphaeus", 2, 0.04, 3),
    ];
    runs[1].experiment.description = "</script><script>alert(1)</script>".into();
    let mut table = table_of(&runs, &Asked::default()).unwrap();
    let choice = v1::Choice { sweep: "1".into(), name: "<b>s</b>".into(), metric: "opacity/auroc".into(), runs: 3 };
    table.tests = vec![Use::new(&v1::TestSet {
        dataset: "ab".repeat(32),
        name: "made-up".into(),
        split: "test".into(),
        scored: 3,
        choices: vec![choice],
        ..v1::TestSet::default()
    })];
    let curve = |seed: f64| Training {
        loss: (0..50).map(|i| (f64::from(i), seed / f64::from(i + 1))).collect(),
        score: (0..5).map(|i| (f64::from(i * 10), seed / f64::from(i + 1))).collect(),
    };
    let training = runs.iter().enumerate().map(|(i, s)| (s.run.id.clone(), curve(1.0 + i as f64))).collect();
    let panels = BTreeMap::from([(runs[0].run.id.clone(), vec![0x89, b'P', b'N', b'G'])]);
    let gathered = Gathered { runs, ..Gathered::default() };
    Material { gathered, table, training, panels, manifests: BTreeMap::new(), at: 1_700_000_000_000_000 }
}

#[test]
fn the_page_is_whole_and_needs_nothing() {
    let m = material();
    let page = page::render(&m);
    for section in [
        "table",
        "trained",
        "curves",
        "distributions",
        "thresholds",
        "subgroups",
        "examples",
        "training",
        "ledger",
        "cards",
    ] {
        assert!(page.contains(&format!("<section id=\"{section}\"")), "{section} is missing");
    }
    assert!(!page.contains("<section id=\"localisation\""), "there are no boxes");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "it loads nothing");
    let shown = page.split("<script").next().unwrap();
    assert!(!shown.contains("NaN") && !shown.contains("inf"), "numbers that are none");
    assert_eq!(page.matches("<script").count(), 2, "the data and the sorting");
    assert!(!page.contains("<b>s</b>") && page.contains("&lt;b&gt;s&lt;/b&gt; by opacity/auroc"));
    assert!(page.contains("data:image/png;base64,iVBORw=="));
    assert!(page.contains("Research use only") && page.contains("These are phantoms"));
    for tag in ["section", "table", "svg", "figure", "article", "main", "header", "ul", "dl", "tbody"] {
        let (open, close) = (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        // `<header` also begins nothing else here; `<table` and `<tbody` are told apart by their whole names.
        assert_eq!(open, close, "{tag}");
    }
}

#[test]
fn where_findings_are_is_told_by_pixels_and_by_regions() {
    let mut m = material();
    let estimate = |value: f64| Estimate { value, low: value, high: value };
    let at = |iou: f64| BoxAp { iou, ap: estimate(1.0 - iou - 0.0625) };
    let set = m.gathered.runs[0].evaluation.sets.get_mut("opacity").unwrap();
    set.means.insert("pixel_auprc".into(), Mean { estimate: estimate(0.34375), cases: 9 });
    m.gathered.runs[0].evaluation.comparisons.get_mut("opacity").unwrap().localisation = Some(Localisation {
        images: 9,
        boxes: 11,
        sigma: 0.02,
        pixel_auroc: 0.75,
        pixel_auprc: 0.25,
        pixel_prevalence: 0.125,
        oracle: BestOverlap { threshold: 0.5, dice: 0.5, iou: 0.328_125 },
        region_threshold: 0.1,
        box_ap: [0.1, 0.2, 0.3, 0.4, 0.5].map(at).into(),
        mean_box_ap: estimate(0.6),
        challenge: 0.1,
        froc: vec![FrocPoint { false_positives_per_image: 0.125, sensitivity: 0.5 }],
        mean_froc: 0.578_125,
    });
    let page = page::render(&m);
    assert!(page.contains("<section id=\"localisation\""));
    for head in ["AP@0.1", "AP@0.5", "Pixel AUPRC by image", "Mean FROC", "its IoU"] {
        assert!(page.contains(head), "no {head}");
    }
    // AP at 0.1 and 0.5, the best IoU, AUPRC by image, FROC.
    for value in ["0.8375", "0.4375", "0.328125", "0.34375", "0.578125"] {
        assert!(page.contains(&format!("data-value=\"{value}\"")), "no {value}");
    }
    let text = m.gathered.runs[0].evaluation.text();
    assert!(text.contains("0.500 at 0.125; mean 0.578"), "{text}");
}

#[test]
fn its_data_are_the_tables() {
    let m = material();
    let page = page::render(&m);
    let begin = "<script type=\"application/json\" id=\"data\">";
    let from = page.find(begin).unwrap() + begin.len();
    let json = &page[from..from + page[from..].find("</script>").unwrap()];
    let data: Value = serde_json::from_str(json).unwrap();
    assert_eq!(data["table"], serde_json::to_value(&m.table).unwrap());
    assert_eq!(data["runs"][1]["experiment"]["description"], "</script><script>alert(1)</script>");
    for row in &m.table.comparisons[0].rows {
        assert!(page.contains(&format!("data-value=\"{:?}\"", row.auroc.estimate.value)), "{}", row.method);
    }
}

#[test]
fn what_a_score_says_of_an_image_is_told() {
    let mut m = material();
    let page = page::render(&m);
    assert!(
        page.contains("<th scope=\"col\"") && page.contains("PPV") && !page.contains("Brier"),
        "nobody gave labelled images"
    );
    let predictive = &m.gathered.runs[0].evaluation.comparisons["opacity"].predictive;
    assert_eq!(predictive.len(), 2);
    for value in predictive.iter().flat_map(|p| [p.ppv.unwrap(), p.npv.unwrap()]) {
        assert!(page.contains(&format!("data-value=\"{:?}\"", value.value)), "{value:?}");
    }
    let judged = |brier: f64| Judged { brier, expected_calibration_error: 0.0625, reliability: Vec::new() };
    m.gathered.runs[0].evaluation.comparisons.get_mut("opacity").unwrap().calibration = Some(Calibration {
        healthy_cases: 77,
        pathology_cases: 66,
        constant_brier: 0.2421875,
        platt: judged(0.1171875),
        isotonic: judged(0.1328125),
    });
    let page = page::render(&m);
    for value in ["77.0", "66.0", "0.2421875", "0.1171875", "0.1328125", "0.0625"] {
        assert!(page.contains(&format!("data-value=\"{value}\"")), "no {value}");
    }
}

#[test]
fn several_test_sets_stand_in_one_table_with_their_mean() {
    let mut m = material();
    assert!(!page::render(&m).contains("All test sets"), "there is one");
    m.gathered.runs = on_two(m.gathered.runs);
    m.table = table_of(&m.gathered.runs, &Asked::default()).unwrap();
    let page = page::render(&m);
    let part = page.split("All test sets").nth(1).unwrap();
    assert!(part.contains("AUROC on all test sets.") && part.contains("SSIM on all test sets."));
    for line in &m.table.matrix[0].rows {
        for (name, cell) in &line.by {
            let value = format!("data-value=\"{:?}\"", cell.estimate.value);
            let at = part.find(&value).unwrap_or_else(|| panic!("no {name} of {}", line.method));
            assert_eq!(part[at + value.len()..].starts_with("><strong>"), cell.best, "{name} of {}", line.method);
        }
    }
    let best = m.table.mean.iter().find(|r| r.auroc.best && !r.baseline).unwrap();
    assert!(page.contains(&format!("Mean over 2 comparisons: {} has the highest AUROC", best.method)));
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a/b");
    write(&out, "one").unwrap();
    write(&out, "two").unwrap();
    assert_eq!(fs::read_to_string(out.join("index.html")).unwrap(), "two");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing half written is left");
    // A folder in the page's place cannot be replaced: the half-written page goes, and the error names the place.
    let taken = folder.path().join("taken");
    fs::create_dir_all(taken.join("index.html/x")).unwrap();
    let said = format!("{:#}", write(&taken, "x").unwrap_err());
    assert!(said.contains("index.html"), "{said}");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(write(&file, "x").is_err());
}

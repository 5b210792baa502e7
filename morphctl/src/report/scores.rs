//! What was found: the table, curves, distributions, thresholds, subgroups, where findings are.

use std::collections::BTreeSet;

use morph_scores::{
    Estimate, HEAT_MAP_IOUS, Subgroup,
    cases::Role,
    columns,
    evaluation::{Comparison, Localisation},
    format_p,
};

use super::{
    html::{Cell, Head, Html, list, p, plain, table, tag},
    material::Material,
    plots::{self, Series},
    svg::{self, legend},
    trained::each,
};
use crate::compare::{
    formats,
    gather::Scored,
    groups::Group,
    mean::Line,
    table::{Cell as Number, Row},
};

fn number(cell: Option<&Number>) -> Cell {
    let Some(cell) = cell else { return Cell::empty() };
    let e = cell.estimate;
    let value = format!("{:.3}", e.value);
    let value = if cell.best { plain("strong", value) } else { value.into() };
    let sd = cell.seeds_sd.map(|sd| tag("span", &[("class", "sd")], format!(" ±{sd:.3}"))).unwrap_or_default();
    let ci = tag("span", &[("class", "ci")], format!(" [{:.3}, {:.3}]", e.low, e.high));
    Cell { shown: [value, sd, ci].into(), value: Some(e.value) }
}

fn estimate(e: &Estimate) -> Cell {
    let ci = tag("span", &[("class", "ci")], format!(" [{:.3}, {:.3}]", e.low, e.high));
    Cell { shown: [Html::from(format!("{:.3}", e.value)), ci].into(), value: Some(e.value) }
}

/// What a row is of: a method, or what knows no network.
fn method(name: &str, baseline: bool) -> Cell {
    Cell::of(if baseline { tag("span", &[("class", "baseline")], name) } else { Html::from(name) })
}

/// The table of `morphctl compare`, one for each comparison.
pub fn comparisons(m: &Material) -> Html {
    let mut parts = Vec::new();
    for c in &m.table.comparisons {
        let mut heads: Vec<Head> = ["Method", "Run"].map(Head::text).into();
        heads.extend(formats::HEADS.map(Head::number));
        heads.push(Head::number("Difference"));
        heads.push(Head::number("p"));
        let row = |row: &Row| {
            let mut cells = vec![method(&row.method, row.baseline), Cell::of(formats::runs(row))];
            cells.extend(formats::cells(row).map(number));
            match &row.test {
                Some(t) => {
                    cells.push(estimate(&t.difference));
                    cells.push(Cell { shown: format_p(t.p_holm).into(), value: Some(t.p_holm) });
                }
                None => cells.extend([Cell::of("reference"), Cell::empty()]),
            }
            cells
        };
        let mut rows: Vec<Vec<Cell>> = c.rows.iter().map(row).collect();
        let mut chance = vec![method("chance", true), Cell::of("")];
        chance.extend(formats::chance(c).map(|v| v.map_or_else(Cell::empty, |v| Cell::number(v, 3))));
        chance.extend([Cell::empty(), Cell::empty()]);
        rows.push(chance);
        let caption = format!("Healthy against {}: {}. Ranked by {}.", c.name, formats::cases(c), m.table.score);
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        parts.push(table(&caption, &heads, rows));
        if let Some(looks) = formats::looks(c) {
            let heads: Vec<Head> =
                std::iter::once(Head::text("Method")).chain(formats::LOOKS.map(Head::mixed)).collect();
            let row = |(method, cells): formats::Looks<'_>| {
                let shown = cells.map(|v| v.map_or_else(Cell::empty, Cell::of));
                std::iter::once(Cell::of(method)).chain(shown).collect()
            };
            parts.push(table(formats::LOOKS_SAY, &heads, looks.into_iter().map(row).collect()));
        }
    }
    parts.push(matrix(m));
    parts.push(list(formats::legend(&m.table)));
    parts.into()
}

/// Methods × test sets, a table for each number, with the mean over all of them.
fn matrix(m: &Material) -> Html {
    let mut parts = Vec::new();
    for grid in &m.table.matrix {
        let columns = formats::across(&m.table).into_iter().map(Head::number);
        let tested = formats::is_tested(grid);
        let heads: Vec<Head> =
            std::iter::once(Head::text("Method")).chain(columns).chain(tested.then(|| Head::number("p"))).collect();
        let row = |line: &Line| -> Vec<Cell> {
            let p = tested.then(|| Cell::of(formats::mean_p(&m.table, line)));
            std::iter::once(method(&line.method, line.baseline))
                .chain(formats::along(&m.table, line).map(number))
                .chain(p)
                .collect()
        };
        parts.push(table(&format!("{} on all test sets.", grid.head), &heads, grid.rows.iter().map(row).collect()));
    }
    if !parts.is_empty() {
        parts.insert(0, plain("h3", "All test sets"));
    }
    parts.into()
}

/// The scores of a run in a comparison.
fn scores(s: &Scored, name: &str, column: &str) -> Option<[Vec<f64>; 2]> {
    let pair = s.evaluation.design.comparisons.get(name)?;
    Some([s.cases.values(&pair.healthy, column).ok()?, s.cases.values(&pair.pathology, column).ok()?])
}

fn all_series(m: &Material, groups: &[Group<'_>], name: &str) -> Vec<Series> {
    let series = |(index, label, s): (usize, String, &Scored)| {
        let [healthy, pathology] = scores(s, name, &m.table.score)?;
        Some(Series { label, index, healthy, pathology })
    };
    each(groups).filter_map(series).collect()
}

/// Which colour is which method, with its AUROC.
fn key(m: &Material, groups: &[Group<'_>], name: &str) -> Html {
    let row = |label: &str| {
        let c = m.table.comparisons.iter().find(|c| c.name == name)?;
        c.rows.iter().find(|r| !r.baseline && r.method == label)
    };
    legend(groups.iter().enumerate().map(|(i, g)| {
        let auroc = row(&g.label).map_or(String::new(), |r| format!(" {:.3}", r.auroc.estimate.value));
        (svg::series(i), format!("{}{auroc}", g.label))
    }))
}

/// ROC and precision–recall curves.
pub fn curves(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for c in &m.table.comparisons {
        let all = all_series(m, groups, &c.name);
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        parts.push(key(m, groups, &c.name));
        let both = [plots::roc(&all, &c.name), plots::precision_recall(&all, &c.name, c.prevalence)];
        parts.push(tag("div", &[("class", "grid2")], both));
    }
    parts.into()
}

/// The comparison as the run's own evaluation has it.
fn own<'a>(s: &'a Scored, name: &str) -> Option<&'a Comparison> {
    s.evaluation.comparisons.get(name)
}

/// Histograms and box plots.
pub fn distributions(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = vec![legend([
        ("healthy".to_owned(), "healthy".to_owned()),
        ("sick".to_owned(), "pathology".to_owned()),
        ("threshold".to_owned(), "threshold from healthy validation images".to_owned()),
    ])];
    for c in &m.table.comparisons {
        let all = all_series(m, groups, &c.name);
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        let threshold = |s: &Scored| Some(own(s, &c.name)?.scores.get(&m.table.score)?.operating?.threshold);
        let drawn =
            all.iter().zip(each(groups)).map(|(s, (.., run))| plots::histogram(s, &m.table.score, threshold(run)));
        parts.push(tag("div", &[("class", "grid3")], drawn.collect::<Html>()));
        parts.push(plots::boxes(&all, &m.table.score, &c.name));
    }
    parts.into()
}

/// What thresholds from healthy validation images do on the test set, and whether p-values hold.
pub fn thresholds(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for c in &m.table.comparisons {
        let heads = std::iter::once(Head::text("Method")).chain(
            [
                "Threshold",
                "Validation images",
                "Specificity (validation)",
                "Specificity (test)",
                "Sensitivity (test)",
                "Called sick, healthy",
                "Missed, sick",
                "Drift (KS)",
                "p of drift",
            ]
            .map(Head::number),
        );
        let mut rows = Vec::new();
        for (_, label, s) in each(groups) {
            let Some(found) = own(s, &c.name).and_then(|o| o.scores.get(&m.table.score)) else { continue };
            let Some(o) = &found.operating else { continue };
            let mut row = vec![
                Cell::of(label),
                Cell { shown: format!("{:.5}", o.threshold).into(), value: Some(o.threshold) },
                Cell::count(o.validation_cases),
                Cell::number(o.validation_specificity, 3),
                estimate(&o.specificity),
                estimate(&o.sensitivity),
                Cell::count(o.confusion.false_positives as usize),
                Cell::count(o.confusion.false_negatives as usize),
            ];
            match &found.drift {
                Some(d) => {
                    row.extend([Cell::number(d.statistic, 3), Cell { shown: format_p(d.p).into(), value: Some(d.p) }]);
                }
                None => row.extend([Cell::empty(), Cell::empty()]),
            }
            rows.push(row);
        }
        if rows.is_empty() {
            continue;
        }
        let caption = format!(
            "Healthy against {}: thresholds on {} that spare the wanted share of healthy validation images, and what they do on \
             the test set. A small p of drift says that healthy test images score otherwise than validation images.",
            c.name, m.table.score
        );
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        parts.push(table(&caption, &heads.collect::<Vec<_>>(), rows));
        parts.push(predictive(&c.name, groups));
        parts.push(probabilities(&c.name, groups));
        let p_values = |(index, _, s): (usize, String, &Scored)| {
            let pair = s.evaluation.design.comparisons.get(&c.name)?;
            Some((index, s.cases.values(&pair.healthy, columns::P_VALUE).ok()?))
        };
        let all: Vec<(usize, Vec<f64>)> = each(groups).filter_map(p_values).collect();
        if !all.is_empty() {
            parts.push(key(m, groups, &c.name));
            parts.push(tag("div", &[("class", "grid2")], plots::calibration(&all, &c.name)));
        }
    }
    parts.into()
}

/// What the thresholds say of an image at other prevalences than the test set's.
fn predictive(name: &str, groups: &[Group<'_>]) -> Html {
    let mut rows = Vec::new();
    for (_, label, s) in each(groups) {
        for at in own(s, name).map(|o| o.predictive.as_slice()).unwrap_or_default() {
            let value = |e: &Option<Estimate>| e.as_ref().map_or_else(Cell::empty, estimate);
            rows.push(vec![Cell::of(label.as_str()), Cell::number(at.prevalence, 3), value(&at.ppv), value(&at.npv)]);
        }
    }
    if rows.is_empty() {
        return Html::none();
    }
    let heads = ["Prevalence", "PPV", "NPV"].map(Head::number);
    let caption = format!(
        "Healthy against {name}: what being called sick (PPV), or left alone (NPV), by these thresholds says of an image where this share of \
         images is sick. Each run's primary score."
    );
    table(&caption, &std::iter::once(Head::text("Method")).chain(heads).collect::<Vec<_>>(), rows)
}

/// How scores do as probabilities, where labelled images beside the test set were given.
fn probabilities(name: &str, groups: &[Group<'_>]) -> Html {
    let mut rows = Vec::new();
    for (_, label, s) in each(groups) {
        let Some(found) = own(s, name).and_then(|o| o.calibration.as_ref()) else { continue };
        let mut row = vec![
            Cell::of(label),
            Cell::count(found.healthy_cases),
            Cell::count(found.pathology_cases),
            Cell::number(found.constant_brier, 3),
        ];
        for judged in [&found.platt, &found.isotonic] {
            row.extend([Cell::number(judged.brier, 3), Cell::number(judged.expected_calibration_error, 3)]);
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Html::none();
    }
    let heads = [
        "Fitted to healthy",
        "and sick",
        "Brier of their share",
        "Brier, Platt",
        "Error, Platt",
        "Brier, isotonic",
        "Error, isotonic",
    ];
    let heads = std::iter::once(Head::text("Method")).chain(heads.map(Head::number)).collect::<Vec<_>>();
    let caption = format!(
        "Healthy against {name}: scores as probabilities, fitted to labelled images beside the test set. Error: expected calibration error. Lower is \
         better."
    );
    table(&caption, &heads, rows)
}

/// AUROC in parts of the test set.
pub fn subgroups(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for c in &m.table.comparisons {
        let runs: Vec<(usize, String, &Scored)> = each(groups).collect();
        let divisions: BTreeSet<&String> =
            runs.iter().filter_map(|(.., s)| own(s, &c.name)).flat_map(|o| o.subgroups.keys()).collect();
        let mut heads: Vec<Head> = vec![Head::text("Group"), Head::number("n healthy"), Head::number("n sick")];
        heads.extend(runs.iter().map(|(_, label, _)| Head::number(label.as_str())));
        let mut rows = Vec::new();
        for division in divisions {
            let first = runs.iter().find_map(|(.., s)| own(s, &c.name)?.subgroups.get(division));
            let mut table: Vec<&Subgroup> = first.into_iter().flatten().collect();
            // The youngest first: `<40` comes after the digits.
            table.sort_by_key(|part| !part.group.starts_with('<'));
            for part in table {
                let mut row = vec![
                    Cell::of(format!("{division}: {}", part.group)),
                    Cell::count(part.healthy),
                    Cell::count(part.pathology),
                ];
                for (.., s) in &runs {
                    let theirs = own(s, &c.name).and_then(|o| o.subgroups.get(division));
                    let same = theirs.and_then(|t| t.iter().find(|g| g.group == part.group));
                    let found = same.and_then(|g| g.detection.as_ref());
                    row.push(found.map_or_else(|| Cell::of("insufficient n"), |d| estimate(&d.auroc)));
                }
                rows.push(row);
            }
        }
        let matched: Vec<Cell> = runs
            .iter()
            .map(|(.., s)| {
                own(s, &c.name).and_then(|o| o.view_matched_auroc.as_ref()).map_or_else(Cell::empty, estimate)
            })
            .collect();
        if matched.iter().any(|cell| cell.value.is_some()) {
            let head = [Cell::of("pairs of the same view only"), Cell::of(""), Cell::of("")];
            rows.push(head.into_iter().chain(matched).collect());
        }
        if rows.is_empty() {
            continue;
        }
        let by: BTreeSet<&str> = runs.iter().map(|(.., s)| s.evaluation.design.score.as_str()).collect();
        let caption = format!(
            "AUROC of healthy against {} in parts of the test set, by {}. Below 20 images of either class no number is given.",
            c.name,
            by.into_iter().collect::<Vec<_>>().join(", ")
        );
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        parts.push(table(&caption, &heads, rows));
    }
    parts.into()
}

/// Where the findings are.
pub fn localisation(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for c in &m.table.comparisons {
        let (mut pixels, mut regions) = (Vec::new(), Vec::new());
        for (_, label, s) in each(groups) {
            let Some(o) = own(s, &c.name) else { continue };
            let Some(l) = &o.localisation else { continue };
            pixels.push(by_pixels(label.clone(), s, &o.sets.pathology, l));
            regions.push(by_regions(label, l));
        }
        if pixels.is_empty() {
            continue;
        }
        let heads = |names: Vec<String>| -> Vec<Head> {
            std::iter::once(Head::text("Method")).chain(names.into_iter().map(Head::number)).collect()
        };
        parts.push(plain("h3", format!("Healthy against {}", c.name)));
        let caption = format!(
            "Where the smoothed residual lies of images of {} with boxes. Oracle: its threshold is chosen on the test set, an upper bound and no result.",
            c.name
        );
        parts.push(table(&caption, &heads(PIXELS.map(str::to_owned).into()), pixels));
        let caption = format!(
            "Regions of images of {} with boxes: average precision by the IoU from which on a region has hit a box. The challenge's score \
             and FROC (IoU 0.1, mean sensitivity at ⅛ to 8 false regions an image) count false regions of healthy images, too.",
            c.name
        );
        let more = ["Mean AP", "RSNA challenge", "Mean FROC"].map(str::to_owned);
        let names = HEAT_MAP_IOUS.iter().map(|iou| format!("AP@{iou}")).chain(more).collect();
        parts.push(table(&caption, &heads(names), regions));
    }
    parts.into()
}

/// Heads of [`by_pixels`], after the method's.
const PIXELS: [&str; 12] = [
    "Images",
    "Boxes",
    "Pixel AUROC",
    "Pixel AUPRC",
    "chance",
    "Pixel AUROC by image",
    "Pixel AUPRC by image",
    "Pointing game",
    "Energy in boxes",
    "chance",
    "Best Dice (oracle)",
    "its IoU",
];

fn by_pixels(label: String, s: &Scored, set: &str, l: &Localisation) -> Vec<Cell> {
    let mean = |name: &str| {
        let found = s.evaluation.sets.get(set).and_then(|set| set.means.get(name));
        found.map_or_else(Cell::empty, |m| estimate(&m.estimate))
    };
    vec![
        Cell::of(label),
        Cell::count(l.images),
        Cell::count(l.boxes),
        Cell::number(l.pixel_auroc, 3),
        Cell::number(l.pixel_auprc, 3),
        Cell::number(l.pixel_prevalence, 3),
        mean("pixel_auroc"),
        mean("pixel_auprc"),
        mean("pointing"),
        mean("energy_inside"),
        mean("box_share"),
        Cell::number(l.oracle.dice, 3),
        Cell::number(l.oracle.iou, 3),
    ]
}

/// Average precision at each of [`HEAT_MAP_IOUS`], and what takes part of healthy images, too.
fn by_regions(label: String, l: &Localisation) -> Vec<Cell> {
    let at = |iou: &f64| {
        let found = l.box_ap.iter().find(|b| (b.iou - iou).abs() < 1e-9);
        found.map_or_else(Cell::empty, |b| estimate(&b.ap))
    };
    let more = [estimate(&l.mean_box_ap), Cell::number(l.challenge, 3), Cell::number(l.mean_froc, 3)];
    std::iter::once(Cell::of(label)).chain(HEAT_MAP_IOUS.iter().map(at)).chain(more).collect()
}

/// How healthy the reconstructions are.
pub fn restoration(m: &Material, groups: &[Group<'_>]) -> Html {
    let kinds = [columns::Kind::Restoration, columns::Kind::Deformation, columns::Kind::Fidelity];
    let tested =
        m.gathered.runs.iter().flat_map(|s| &s.evaluation.sets).filter(|(_, set)| set.role != Role::Validation);
    let sets: BTreeSet<&String> = tested.map(|(name, _)| name).collect();
    let mut parts = Vec::new();
    for set in sets {
        let runs: Vec<(usize, String, &Scored)> = each(groups).collect();
        let of = |s: &Scored, name: &str| s.evaluation.sets.get(set)?.means.get(name).copied();
        let known = columns::ALL.iter().filter(|c| kinds.contains(&c.kind));
        let shown: Vec<_> = known.filter(|c| runs.iter().any(|(.., s)| of(s, c.name).is_some())).collect();
        // What every set has is in the table above already.
        if !shown.iter().any(|c| c.kind != columns::Kind::Fidelity) {
            continue;
        }
        let mut heads = vec![Head::text("Mean over images")];
        heads.extend(runs.iter().map(|(_, label, _)| Head::mixed(label.as_str())));
        let row = |c: &&columns::Column| {
            let cells = runs.iter().map(|(.., s)| of(s, c.name).map_or_else(Cell::empty, |m| estimate(&m.estimate)));
            let name = Html::from([plain("code", c.name), Html::from(format!(" {}", c.meaning))]);
            std::iter::once(Cell::of(name)).chain(cells).collect()
        };
        parts.push(plain("h3", format!("Set {set}")));
        parts.push(table(
            &format!("How near reconstructions are to what they should be, set {set}."),
            &heads,
            shown.iter().map(row).collect(),
        ));
    }
    parts.into()
}

/// How often the test sets were used.
pub fn ledger(m: &Material) -> Html {
    let heads = [
        Head::text("Test set"),
        Head::number("Runs scored"),
        Head::number("Evaluations by hand"),
        Head::number("Sweeps that chose by it"),
        Head::number("Runs chosen among"),
        Head::text("By"),
    ];
    let row = |t: &crate::compare::ledger::Use| {
        let named: Vec<String> = t
            .choices
            .iter()
            .map(|c| {
                if c.sweep.is_empty() {
                    "a sweep of another project".to_owned()
                } else {
                    format!("{} ({})", c.sweep, c.metric)
                }
            })
            .collect();
        vec![
            Cell::of(t.name()),
            Cell::count(t.scored as usize),
            Cell::count(t.rescored as usize),
            Cell::count(t.choices.len()),
            Cell::count(t.choices.iter().map(|c| c.runs as usize).sum()),
            Cell::of(named.join(", ")),
        ]
    };
    if m.table.tests.is_empty() {
        return Html::none();
    }
    let caption = "How often each test set was scored and used to choose, as this coordinator has it recorded. Other coordinators' \
                   scores, and evaluations by hand that asked none, are not counted.";
    Html::from([
        p(
            "A test set that helped to choose a method or a hyper-parameter flatters what was chosen, the more the more it was chosen among.",
        ),
        table(caption, &heads, m.table.tests.iter().map(row).collect()),
    ])
}

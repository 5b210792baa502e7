//! The table for terminals, spreadsheets and papers.

use anyhow::Result;
use morph_scores::{format_interval, format_p};

use super::{
    mean::{Grid, Line, MEAN},
    table::{Cell, Comparison, DECIMALS, Fids, Row, Table},
};
use crate::print;

const COLUMNS: usize = 8;
/// Names of the numbers in files, in the order of [`HEADS`].
pub const NAMES: [&str; COLUMNS] = ["auroc", "auprc", "fpr95", "fpr99", "sens90", "sens95", "ssim", "l1"];
/// Heads of the columns of numbers.
pub const HEADS: [&str; COLUMNS] = ["AUROC", "AUPRC", "FPR@95", "FPR@99", "SENS@90", "SENS@95", "SSIM", "L1"];

/// The numbers of a row in the order of [`HEADS`].
pub fn cells(row: &Row) -> [Option<&Cell>; COLUMNS] {
    let ranked = [&row.auroc, &row.auprc, &row.fpr95, &row.fpr99, &row.sens90, &row.sens95];
    let [a, b, c, d, e, f] = ranked.map(Some);
    [a, b, c, d, e, f, row.ssim.as_ref(), row.l1.as_ref()]
}

/// Heads of [`looks`].
pub const LOOKS: [&str; 4] = ["LPIPS", "FID", "FID, sick restored", "FID, sick as they are"];

/// A method's label and what is printed below [`LOOKS`].
pub type Looks<'a> = (&'a str, [Option<String>; 4]);

/// How the images look to networks whose weights were given, in the order of [`LOOKS`]; `None` where no row has any of it.
pub fn looks(c: &Comparison) -> Option<Vec<Looks<'_>>> {
    let methods = c.rows.iter().filter(|r| !r.baseline);
    let plain = |v: f64| Some(format!("{v:.DECIMALS$}"));
    let row = |r: &'_ Row| {
        let fid = r.fid.as_ref();
        [
            r.lpips.as_ref().map(number),
            fid.and_then(|f| plain(f.healthy)),
            fid.and_then(|f| plain(f.restored)),
            fid.and_then(|f| plain(f.untouched)),
        ]
    };
    let all: Vec<Looks<'_>> = methods.map(|r| (r.method.as_str(), row(r))).collect();
    all.iter().any(|(_, cells)| cells.iter().any(Option::is_some)).then_some(all)
}

/// What the distances are, in a sentence.
pub const LOOKS_SAY: &str = "LPIPS and FID are lower where images look alike to a network: of the healthy images and their \
    reconstructions; of the sick images, restored and as they are, against the healthy ones. FID has no interval, and falls with the \
    number of images.";

/// What a score that knows nothing reaches, in the order of [`HEADS`].
pub fn chance(c: &Comparison) -> [Option<f64>; COLUMNS] {
    [Some(0.5), Some(c.prevalence), Some(0.95), Some(0.99), Some(0.1), Some(0.05), None, None]
}

/// `0.812 [0.790, 0.833]`, and of several seeds their standard deviation: `(±0.011)`.
pub fn number(cell: &Cell) -> String {
    let spread = cell.seeds_sd.map(|sd| format!(" (±{sd:.DECIMALS$})")).unwrap_or_default();
    format!("{}{spread}", format_interval(&cell.estimate, DECIMALS))
}

/// Names of the runs of a row, short.
pub fn runs(row: &Row) -> String {
    match row.runs.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        several => format!("{} seeds of {}", several.len(), several[0]),
    }
}

/// p after Holm's correction.
pub fn p(row: &Row) -> String {
    row.test.as_ref().map_or_else(String::new, |t| format_p(t.p_holm))
}

/// Which cases a comparison is of.
pub fn cases(c: &Comparison) -> String {
    let persons = match c.persons {
        Some(n) => format!("{n} patients, drawn whole"),
        None => "patients unknown: each image counts as one".to_owned(),
    };
    format!(
        "{} healthy and {} {} images of {}; {persons}; prevalence {:.3}",
        c.healthy,
        c.pathology,
        c.name,
        c.datasets.join(", "),
        c.prevalence
    )
}

/// What the numbers are, line by line.
pub fn legend(table: &Table) -> Vec<String> {
    let plan = table.bootstrap;
    let mut lines = vec![
        format!(
            "Images are ranked by {}. In brackets: {} % intervals of {} resamples of the cases (seed {}).",
            table.score,
            plan.level * 100.0,
            plan.resamples,
            plan.seed
        ),
        "SENS@90, SENS@95: sensitivity at that specificity, as read from the test set's own curve. SSIM, L1: of the healthy images. \
         Best of the methods as printed; that says nothing of significance."
            .to_owned(),
    ];
    if table.comparisons.iter().flat_map(|c| &c.rows).any(|r| r.seeds.len() > 1) {
        lines.push(
            "±: standard deviation over seeds. Intervals are of the mean over seeds, for other cases.".to_owned(),
        );
    }
    if table.comparisons.len() > 1 {
        lines.push(mean_says(table));
    }
    for c in &table.comparisons {
        let tests = c.rows.iter().filter(|r| r.test.is_some()).count();
        if tests > 0 {
            let chosen = if c.against_best { ", the best on these very cases" } else { "" };
            lines.push(format!(
                "{}: p is DeLong's test of AUROC against {}{chosen}, corrected by Holm for {tests} tests.",
                c.name, c.against
            ));
        }
    }
    lines.extend(mean_tests(table));
    lines
}

/// What the p-values of the means are; `None` where there are none.
fn mean_tests(table: &Table) -> Option<String> {
    let tests = table.mean.iter().filter(|row| row.test.is_some()).count();
    let chosen = table.comparisons.iter().any(|c| c.against_best);
    let chosen = if chosen { ", the best in this very mean" } else { "" };
    (tests > 0).then(|| {
        format!(
            "mean: p is of the difference in mean AUROC to {}{chosen}, by the same resamples for both (at least 2 in {}), corrected by Holm \
             for {tests} tests.",
            table.mean_against,
            table.bootstrap.resamples + 1
        )
    })
}

/// Heads of a grid's columns after the method's: the comparisons, then their mean.
pub fn across(table: &Table) -> Vec<&str> {
    table.comparisons.iter().map(|c| c.name.as_str()).chain([MEAN]).collect()
}

/// A method's number in each column of [`across`].
pub fn along<'a>(table: &'a Table, line: &'a Line) -> impl Iterator<Item = Option<&'a Cell>> {
    across(table).into_iter().map(|name| line.by.get(name))
}

/// Whether the means of a grid are tested: those of AUROC are.
pub fn is_tested(grid: &Grid) -> bool {
    grid.number == NAMES[0]
}

/// p of a method's mean AUROC.
pub fn mean_p(table: &Table, line: &Line) -> String {
    let row = table.mean.iter().find(|row| row.method == line.method && row.baseline == line.baseline);
    row.map_or_else(String::new, p)
}

/// What the mean over comparisons is, in a sentence.
pub fn mean_says(table: &Table) -> String {
    let names: Vec<&str> = table.comparisons.iter().map(|c| c.name.as_str()).collect();
    format!(
        "Mean: each comparison ({}) counts alike, however many images it has. Its interval is of resamples of all test sets together; \
         images that comparisons share are drawn once.",
        names.join(", ")
    )
}

/// Method, or a baseline in brackets.
fn label(method: &str, baseline: bool) -> String {
    if baseline { format!("({method})") } else { method.to_owned() }
}

/// A number, with a star if it is the best; `-` if there is none.
fn starred(cell: Option<&Cell>) -> String {
    match cell {
        Some(cell) => format!("{}{}", number(cell), if cell.best { "*" } else { "" }),
        None => "-".to_owned(),
    }
}

/// Methods × comparisons by AUROC, and all numbers in the mean; nothing of a single comparison.
fn overall(table: &Table) -> String {
    let mut out = String::new();
    let columns = across(table);
    if let Some(grid) = table.matrix.first() {
        let heads: Vec<&str> = ["METHOD"].into_iter().chain(columns.iter().copied()).collect();
        let row = |line: &Line| -> Vec<String> {
            std::iter::once(label(&line.method, line.baseline)).chain(along(table, line).map(starred)).collect()
        };
        let rows = grid.rows.iter().map(row).collect();
        out.push_str(&format!("{}, all comparisons\n{}\n\n", grid.head, print::table(&heads, rows)));
    }
    if !table.mean.is_empty() {
        let heads: Vec<&str> = ["METHOD", "RUN"].into_iter().chain(HEADS).chain(["P"]).collect();
        let row = |row: &Row| -> Vec<String> {
            let before = [label(&row.method, row.baseline), runs(row)];
            before.into_iter().chain(cells(row).map(starred)).chain([p(row)]).collect()
        };
        let rows = table.mean.iter().map(row).collect();
        out.push_str(&format!("mean over all comparisons\n{}\n\n", print::table(&heads, rows)));
    }
    out
}

/// For a terminal.
pub fn text(table: &Table) -> String {
    let mut out = String::new();
    for c in &table.comparisons {
        out.push_str(&format!("healthy against {}: {}\n", c.name, cases(c)));
        let heads: Vec<&str> = ["METHOD", "RUN"].into_iter().chain(HEADS).chain(["P"]).collect();
        let mut rows: Vec<Vec<String>> = Vec::new();
        for row in &c.rows {
            let mut line = vec![label(&row.method, row.baseline), runs(row)];
            line.extend(cells(row).map(starred));
            line.push(p(row));
            rows.push(line);
        }
        let mut nothing = vec!["(chance)".to_owned(), String::new()];
        nothing.extend(chance(c).map(|v| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.DECIMALS$}"))));
        nothing.push(String::new());
        rows.push(nothing);
        out.push_str(&print::table(&heads, rows));
        out.push_str("\n\n");
        if let Some(looks) = looks(c) {
            let heads: Vec<&str> = ["METHOD"].into_iter().chain(LOOKS).collect();
            let row = |(method, cells): Looks<'_>| {
                std::iter::once(method.to_owned()).chain(cells.map(|v| v.unwrap_or_else(|| "-".to_owned()))).collect()
            };
            out.push_str(&format!("{}\n{LOOKS_SAY}\n\n", print::table(&heads, looks.into_iter().map(row).collect())));
        }
    }
    out.push_str(&overall(table));
    out.push_str("*: best. ");
    out.push_str(&legend(table).join("\n"));
    out.push('\n');
    for used in &table.tests {
        out.push_str(&format!("test set {}: {}\n", used.name(), used.text()));
        if let Some(warning) = used.warning() {
            out.push_str(&format!("WARNING: {warning}\n"));
        }
    }
    table.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
    out
}

/// One row a method and comparison, numbers in full; of several comparisons their means at the end, as comparison `mean`.
///
/// # Errors
/// When a line is not as long as the first.
pub fn csv(table: &Table) -> Result<String> {
    let mut head: Vec<String> = ["comparison", "datasets", "healthy", "pathology", "prevalence", "score"]
        .into_iter()
        .chain(["method", "baseline", "runs", "seeds"])
        .map(ToOwned::to_owned)
        .collect();
    for name in NAMES {
        head.extend(["", "_low", "_high", "_seeds_sd", "_best"].map(|part| format!("{name}{part}")));
    }
    let test = ["against", "auroc_difference", "auroc_difference_low", "auroc_difference_high", "p", "p_holm"];
    head.extend(test.map(ToOwned::to_owned));
    head.extend(["lpips", "lpips_low", "lpips_high", "fid", "fid_restored", "fid_untouched"].map(ToOwned::to_owned));
    let mut lines = vec![head];
    for c in &table.comparisons {
        let counts = [c.healthy.to_string(), c.pathology.to_string(), c.prevalence.to_string()];
        let of = [vec![c.name.clone(), c.datasets.join(" ")], counts.to_vec()].concat();
        lines.extend(c.rows.iter().map(|row| record(&of, &table.score, row, &c.against)));
    }
    let of = [MEAN, "", "", "", ""].map(str::to_owned);
    lines.extend(table.mean.iter().map(|row| record(&of, &table.score, row, &table.mean_against)));
    text_of(&lines)
}

/// A line of the CSV: what it is of, then the row's numbers.
fn record(of: &[String], score: &str, row: &Row, against: &str) -> Vec<String> {
    let seeds: Vec<String> = row.seeds.iter().map(ToString::to_string).collect();
    let mut cols = of.to_vec();
    cols.extend([score.to_owned(), row.method.clone(), row.baseline.to_string(), row.runs.join(" "), seeds.join(" ")]);
    for cell in cells(row) {
        cols.extend(match cell {
            None => std::array::from_fn(|_| String::new()),
            Some(Cell { estimate: e, seeds_sd, best }) => [
                e.value.to_string(),
                e.low.to_string(),
                e.high.to_string(),
                seeds_sd.map(|sd| sd.to_string()).unwrap_or_default(),
                best.to_string(),
            ],
        });
    }
    cols.extend(match &row.test {
        None => std::array::from_fn(|_| String::new()),
        Some(t) => {
            let d = t.difference;
            let numbers = [d.value, d.low, d.high, t.p, t.p_holm].map(|v| v.to_string());
            let [value, low, high, p, p_holm] = numbers;
            [against.to_owned(), value, low, high, p, p_holm]
        }
    });
    let lpips = row.lpips.as_ref().map(|cell| cell.estimate);
    let fid = row.fid.as_ref();
    let looks = [
        lpips.map(|e| e.value),
        lpips.map(|e| e.low),
        lpips.map(|e| e.high),
        fid.map(|f| f.healthy),
        fid.map(|f| f.restored),
        fid.map(|f| f.untouched),
    ];
    cols.extend(looks.map(|v| v.map(|v| v.to_string()).unwrap_or_default()));
    cols
}

fn text_of(lines: &[Vec<String>]) -> Result<String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    lines.iter().try_for_each(|line| out.write_record(line))?;
    Ok(String::from_utf8(out.into_inner()?)?.trim_end().to_owned())
}

/// For a README: one table a comparison, best in bold.
pub fn markdown(table: &Table) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('*', "\\*").replace('_', "\\_");
    let shown = |cell: Option<&Cell>| match cell {
        Some(cell) if cell.best => format!("**{}**", number(cell)),
        Some(cell) => number(cell),
        None => String::new(),
    };
    let method = |name: &str, baseline: bool| if baseline { format!("*{}*", escaped(name)) } else { escaped(name) };
    let mut out = String::new();
    for c in &table.comparisons {
        out.push_str(&format!("**Healthy against {}**: {}\n\n", escaped(&c.name), escaped(&cases(c))));
        out.push_str(&format!("| Method | {} | p |\n|---|{}---:|\n", HEADS.join(" | "), "---:|".repeat(HEADS.len())));
        for row in &c.rows {
            let label = method(&row.method, row.baseline);
            out.push_str(&format!("| {label} | {} | {} |\n", cells(row).map(shown).join(" | "), p(row)));
        }
        let nothing = chance(c).map(|v| v.map_or_else(String::new, |v| format!("{v:.DECIMALS$}")));
        out.push_str(&format!("| *chance* | {} |  |\n\n", nothing.join(" | ")));
        if let Some(looks) = looks(c) {
            out.push_str(&format!("| Method | {} |\n|---|{}\n", LOOKS.join(" | "), "---:|".repeat(LOOKS.len())));
            for (method, cells) in looks {
                out.push_str(&format!(
                    "| {} | {} |\n",
                    escaped(method),
                    cells.map(Option::unwrap_or_default).join(" | ")
                ));
            }
            out.push_str(&format!("\n{LOOKS_SAY}\n\n"));
        }
    }
    for grid in &table.matrix {
        let mut columns: Vec<String> = across(table).into_iter().map(escaped).collect();
        columns.extend(is_tested(grid).then(|| "p".to_owned()));
        out.push_str(&format!("| {} | {} |\n|---|{}\n", grid.head, columns.join(" | "), "---:|".repeat(columns.len())));
        for line in &grid.rows {
            let mut cells: Vec<String> = along(table, line).map(shown).collect();
            cells.extend(is_tested(grid).then(|| mean_p(table, line)));
            out.push_str(&format!("| {} | {} |\n", method(&line.method, line.baseline), cells.join(" | ")));
        }
        out.push('\n');
    }
    let more = table.tests.iter().filter_map(super::ledger::Use::warning);
    let lines: Vec<String> = legend(table).into_iter().chain(more).chain(table.notes.iter().cloned()).collect();
    out.push_str(&lines.iter().map(|l| escaped(l)).collect::<Vec<_>>().join("  \n"));
    out
}

/// For a paper: methods × comparisons, with booktabs; best in bold.
pub fn latex(table: &Table) -> String {
    // The paper's columns; what is of the healthy images once for each comparison, since healthy sets may differ.
    let mut heads = vec![
        "AUROC\\,$\\uparrow$",
        "AUPRC\\,$\\uparrow$",
        "FPR@95\\,$\\downarrow$",
        "FPR@99\\,$\\downarrow$",
        "SENS@90\\,$\\uparrow$",
        "SENS@95\\,$\\uparrow$",
        "SSIM\\,$\\uparrow$",
        "L1\\,$\\downarrow$",
    ];
    let all = || table.comparisons.iter().flat_map(|c| &c.rows);
    let (lpips, fid) = (all().any(|r| r.lpips.is_some()), all().any(|r| r.fid.is_some()));
    heads.extend(lpips.then_some("LPIPS\\,$\\downarrow$"));
    // A mean has no FID.
    let of_mean = [heads.as_slice(), &["$p$"]].concat();
    let mean = if table.mean.is_empty() { 0 } else { of_mean.len() };
    if fid {
        heads.extend(["FID\\,$\\downarrow$", "FID, restored\\,$\\downarrow$", "FID, untouched"]);
    }
    heads.push("$p$");
    let columns = heads.len();
    let mut out = String::from("% \\usepackage{booktabs}\n\\begin{table*}\n\\centering\n");
    let all_columns = columns * table.comparisons.len() + mean;
    out.push_str(&format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "c".repeat(all_columns)));
    let groups = table.comparisons.iter().map(|c| {
        format!(
            "\\multicolumn{{{columns}}}{{c}}{{{} ({} vs {}, prevalence {:.3})}}",
            tex(&c.name),
            c.healthy,
            c.pathology,
            c.prevalence
        )
    });
    let groups = groups.chain((mean > 0).then(|| format!("\\multicolumn{{{mean}}}{{c}}{{{MEAN}}}")));
    out.push_str(&format!(" & {} \\\\\n", groups.collect::<Vec<_>>().join(" & ")));
    let last = 1 + columns * table.comparisons.len();
    let rules = (0..table.comparisons.len())
        .map(|i| format!("\\cmidrule(lr){{{}-{}}}", 2 + i * columns, 1 + (i + 1) * columns))
        .chain((mean > 0).then(|| format!("\\cmidrule(lr){{{}-{}}}", last + 1, last + mean)));
    out.push_str(&format!("{}\n", rules.collect::<Vec<_>>().join(" ")));
    let mut titles = format!(" & {}", heads.join(" & ")).repeat(table.comparisons.len());
    if mean > 0 {
        titles.push_str(&format!(" & {}", of_mean.join(" & ")));
    }
    out.push_str(&format!("Method{titles} \\\\\n\\midrule\n"));
    let shown = |cell: Option<&Cell>| {
        let Some(Cell { estimate: e, best, seeds_sd }) = cell else { return "--".to_owned() };
        let value = format!("{:.DECIMALS$}", e.value);
        let value = if *best { format!("\\textbf{{{value}}}") } else { value };
        let spread = seeds_sd.map(|sd| format!("\\,{{\\tiny $\\pm${sd:.DECIMALS$}}}")).unwrap_or_default();
        format!("{value}{spread} {{\\tiny [{:.DECIMALS$}, {:.DECIMALS$}]}}", e.low, e.high)
    };
    let labels: Vec<(&str, bool)> = table
        .comparisons
        .first()
        .map_or_else(Vec::new, |c| c.rows.iter().map(|r| (r.method.as_str(), r.baseline)).collect());
    let tested = |row: &Row| if row.test.is_some() { p(row).replace('<', "$<$") } else { "--".to_owned() };
    let mut ruled = false;
    for (label, baseline) in labels {
        if baseline && !std::mem::replace(&mut ruled, true) {
            out.push_str("\\midrule\n");
        }
        out.push_str(&if baseline { format!("\\emph{{{}}}", tex(label)) } else { tex(label) });
        for c in &table.comparisons {
            let row = c.rows.iter().find(|r| r.method == label && r.baseline == baseline);
            match row {
                Some(row) => {
                    let mut line = cells(row).map(shown).to_vec();
                    line.extend(lpips.then(|| shown(row.lpips.as_ref())));
                    if fid {
                        let of = |f: &Fids| [f.healthy, f.restored, f.untouched].map(|v| format!("{v:.DECIMALS$}"));
                        line.extend(row.fid.as_ref().map_or_else(|| std::array::from_fn(|_| "--".to_owned()), of));
                    }
                    line.push(tested(row));
                    out.push_str(&format!(" & {}", line.join(" & ")));
                }
                None => out.push_str(&" & --".repeat(columns)),
            }
        }
        if mean > 0 {
            let row = table.mean.iter().find(|r| r.method == label && r.baseline == baseline);
            let line = row.map(|row| {
                let lpips = lpips.then(|| shown(row.lpips.as_ref()));
                cells(row).map(shown).into_iter().chain(lpips).chain([tested(row)]).collect::<Vec<_>>().join(" & ")
            });
            out.push_str(&line.map_or_else(|| " & --".repeat(mean), |line| format!(" & {line}")));
        }
        out.push_str(" \\\\\n");
    }
    out.push_str("\\emph{chance}");
    for c in &table.comparisons {
        let nothing = chance(c).map(|v| v.map_or_else(|| "--".to_owned(), |v| format!("{v:.DECIMALS$}")));
        out.push_str(&format!(" & {}{}", nothing.join(" & "), " & --".repeat(columns - nothing.len())));
    }
    out.push_str(&" & --".repeat(mean));
    out.push_str(" \\\\\n\\bottomrule\n\\end{tabular}\n");
    let looks = (lpips || fid).then(|| LOOKS_SAY.to_owned());
    let of = table.comparisons.iter().map(|c| format!("{}.", cases(c)));
    let lines = of.chain(legend(table)).chain(looks).chain(table.notes.iter().cloned());
    out.push_str(&format!("\\caption{{{}}}\n\\end{{table*}}", tex(&lines.collect::<Vec<_>>().join(" "))));
    out
}

/// `text` as LaTeX prints it.
fn tex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '|' => out.push_str("$|$"),
            '±' => out.push_str("$\\pm$"),
            'β' => out.push_str("$\\beta$"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

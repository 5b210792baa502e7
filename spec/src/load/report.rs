//! From what is wrong with a tree to [`Problem`]s that show the line.

use serde::de::DeserializeOwned;

use super::{
    problem::{Problem, Problems, Snippet},
    tree::{At, Node, Value, short},
    typed::{self, Finding, Kind, Step},
};
use crate::{
    FieldProblem,
    check::fields_of_any,
    nearest::{nearest, one_of, suggest},
};

/// More problems than this are not shown.
const MOST: usize = 50;

/// The texts that were read, and what is wrong in them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    texts: Vec<Source>,
    problems: Vec<(At, Problem)>,
    /// Fields that have been complained about: what follows from them is not said as well.
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    argument: bool,
}

impl Sources {
    /// A file; its number.
    pub(super) fn add(&mut self, name: &str, text: &str) -> usize {
        self.texts.push(Source { name: name.to_owned(), text: text.to_owned(), argument: false });
        self.texts.len() - 1
    }

    /// The argument of a `--set`; its number.
    pub(super) fn add_argument(&mut self, text: &str) -> usize {
        self.texts.push(Source { name: "--set".to_owned(), text: text.to_owned(), argument: true });
        self.texts.len() - 1
    }

    /// All problems in the order of the files.
    pub(super) fn problems(mut self) -> Problems {
        self.problems.sort_by_key(|(at, _)| (at.source, at.line, at.column));
        self.problems.truncate(MOST);
        Problems(self.problems.into_iter().map(|(_, p)| p).collect())
    }

    /// Adds a problem at `at`.
    pub(super) fn problem(
        &mut self,
        at: At,
        field: &str,
        message: impl Into<String>,
        expected: &str,
        help: Option<String>,
    ) {
        let source = self.texts.get(at.source);
        let placed = source.filter(|s| !s.argument && at.line > 0);
        let line = source.filter(|_| at.line > 0).and_then(|s| s.text.lines().nth(at.line - 1));
        let start = at.column.saturating_sub(1);
        let width = |text: &str| at.width.clamp(1, text.chars().count().saturating_sub(start).max(1));
        let snippet = line.map(|text| Snippet::new(text, start, width(text)));
        let problem = Problem {
            file: source.map(|s| s.name.clone()).unwrap_or_default(),
            line: placed.map(|_| at.line),
            column: placed.map(|_| at.column),
            field: field.to_owned(),
            message: message.into(),
            expected: expected.to_owned(),
            help,
            note: at.via.map(|(line, column)| format!("used through an alias or merge key at {line}:{column}")),
            snippet,
        };
        self.problems.push((at, problem));
    }

    /// Reads `tree`, adding what is wrong.
    pub(super) fn typed<T: DeserializeOwned>(&mut self, tree: &mut Node) -> Option<T> {
        typed::read(tree, |finding, tree| self.finding(finding, tree))
    }

    fn finding(&mut self, finding: &Finding, tree: &Node) {
        let mut steps: Vec<String> = finding.path.iter().map(Step::to_string).collect();
        let names: Vec<&str> = steps.iter().map(String::as_str).collect();
        let (_, at, node) = tree.find(&names);
        let parent = names.split_last().map_or("", |(_, p)| p.last().copied().unwrap_or_default());
        let (mut at, message, expected, help) = match &finding.kind {
            Kind::UnknownField { name, known } => {
                let owner = if parent.is_empty() { "this file".to_owned() } else { format!("`{parent}`") };
                let help = unknown(name, &names, known);
                (
                    key_at(tree, &names).unwrap_or(at),
                    format!("unknown field `{name}`"),
                    format!("not a field of {owner}"),
                    Some(help),
                )
            }
            Kind::Missing(field) => {
                // Of an item of a list, its number alone would say nothing.
                let numbered = names.last().is_some_and(|n| n.parse::<usize>().is_ok());
                let from = names.len().saturating_sub(if numbered { 2 } else { 1 });
                let owner = names[from..].join(".");
                let what = if owner.is_empty() { "the file".to_owned() } else { format!("`{owner}`") };
                (at, format!("{what} lacks `{field}`"), String::new(), missing(field, &names))
            }
            Kind::UnknownVariant { name, known } => {
                let help = nearest(name, known.iter().copied())
                    .map(|k| format!("did you mean `{k}`?"))
                    .or_else(|| not_yet(name));
                (at, format!("`{}` is not known here", short(name)), format!("expected {}", one_of(known)), help)
            }
            Kind::Wrong(expected) => {
                let found = node.described();
                let field = names.last().copied().unwrap_or("the file");
                (at, format!("`{field}` cannot be {found}"), expected.clone(), wrong_type(node, expected, &names))
            }
        };
        if at.width == 0 && matches!(finding.kind, Kind::Missing(_)) {
            at.width = 1;
        }
        if let Kind::Missing(field) = finding.kind {
            steps.push(field.to_owned());
        }
        let field = steps.join(".");
        self.problem(at, &field, message, &expected, help);
        self.wrong.push(field);
    }

    /// A problem of a typed value, shown where `tree` has the field or what it would be in.
    pub(super) fn field_problem(&mut self, tree: &Node, p: FieldProblem) {
        let touched = |w: &String| {
            p.field == *w || p.field.starts_with(&format!("{w}.")) || w.starts_with(&format!("{}.", p.field))
        };
        if self.wrong.iter().any(touched) {
            return;
        }
        let path: Vec<&str> = p.field.split('.').collect();
        let (found, at, _) = tree.find(&path);
        self.problem(at, &p.field, p.message, "", p.help);
        if found < path.len()
            && let Some((_, problem)) = self.problems.last_mut()
        {
            problem.note.get_or_insert_with(|| format!("`{}` is not given, this is its default", p.field));
        }
    }
}

/// Where the key at the end of `path` stands.
fn key_at(tree: &Node, path: &[&str]) -> Option<At> {
    let (last, parents) = path.split_last()?;
    let (found, _, parent) = tree.find(parents);
    match &parent.value {
        Value::Map(entries) if found == parents.len() => {
            entries.iter().find(|(k, _)| k.text == *last).map(|(k, _)| k.at)
        }
        _ => None,
    }
}

/// What to do about a key that nobody knows.
fn unknown(name: &str, path: &[&str], known: &[&str]) -> String {
    if let Some(k) = nearest(name, known.iter().copied()) {
        return format!("did you mean `{k}`?");
    }
    if let Some(help) = not_yet(name) {
        return help;
    }
    // Right name, wrong place.
    let root = path.first().copied().unwrap_or_default();
    let elsewhere = fields_of_any(root).into_iter().find(|f| f.rsplit('.').next() == Some(name) && f.contains('.'));
    match elsewhere {
        Some(field) => format!("did you mean `{field}`?"),
        None => suggest(name, known),
    }
}

/// Words of W&B's sweeps that mean nothing here.
fn not_yet(name: &str) -> Option<String> {
    match name {
        "program" | "command" | "project" | "entity" | "job" | "image_uri" | "controller" | "scheduler"
        | "apiVersion" => Some(format!("`{name}` is W&B's; morph runs the experiment itself: leave it out")),
        "early_terminate"
        | "probabilities"
        | "q"
        | "mu"
        | "sigma"
        | "bayes"
        | "normal"
        | "q_uniform"
        | "q_log_uniform"
        | "q_log_uniform_values"
        | "log_normal"
        | "beta"
        | "categorical_w_probabilities"
        | "inv_log_uniform" => Some(format!("W&B's `{name}` is not implemented")),
        _ => None,
    }
}

fn missing(field: &str, path: &[&str]) -> Option<String> {
    let help = match (path.last().copied(), field) {
        (Some("metric"), "goal") => {
            "say `goal: maximize` or `goal: minimize`; W&B's default is minimize, which is wrong for AUROC"
        }
        (_, "metric") => "for example `metric: {name: opacity/auroc_top5, goal: maximize}`",
        (_, "experiment") => "a path to an experiment's YAML, the experiment itself, or a list of these",
        (_, "name") => "any name: letters, digits, `.`, `_`, `-`",
        (_, "method") if path.last() == Some(&"model") => "`method: morphaeus`",
        (_, "url") => "the folder that `morphctl data prepare` has written",
        _ => return None,
    };
    Some(help.to_owned())
}

fn wrong_type(node: &Node, expected: &str, path: &[&str]) -> Option<String> {
    let help = match &node.value {
        Value::Text(s) if expected.contains("number") && s.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
            "remove the quotes".to_owned()
        }
        Value::Number(n) if expected.contains("whole number") => match n.as_f64() {
            // 1e3 and 1000.0 are whole numbers in other words; other numbers are refused for their size.
            Some(x) if x.fract() == 0.0 && (0.0..1e9).contains(&x) => format!("write {x:.0}"),
            _ => return None,
        },
        Value::Bool(_) | Value::Number(_) if expected.contains("text") => "put it in quotes".to_owned(),
        Value::Map(_) | Value::List(_) | Value::Null => return None,
        scalar if expected.contains("list") => match scalar {
            Value::Text(s) => format!("write [{}]", short(s)),
            Value::Number(n) => format!("write [{n}]"),
            _ => return None,
        },
        _ if expected.contains("mapping") && path.first() == Some(&"parameters") => {
            "write `{value: …}`, `{values: […]}` or `{min: …, max: …}`".to_owned()
        }
        _ => return None,
    };
    Some(help)
}

//! YAML → [`Experiment`], [`Sweep`], [`Dataset`] or [`Cluster`], with errors that point at file, line, column and field.
//!
//! The way of a file: YAML → tree with places → `${VAR}` → a sweep's `experiment: path` or list of paths, and W&B's nested parameters made
//! flat → `--set` → typed value → `validate`. Each step reports all that it finds, and the next ones go on with the rest.
//!
//! YAML 1.2 with anchors, aliases and merge keys; tags as `!!python/tuple` are read over, and so are keys at the top that
//! begin with `x-`, where anchors may be kept. `yes`, `no`, `on`, `off` are
//! texts, and taken for truth values only where one is wanted: a label `No` stays one.

pub mod import;
mod problem;
mod report;
mod set;
mod sweep;
mod tree;
mod typed;
mod vars;

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use serde::{Serialize, de::DeserializeOwned};

pub use problem::{Problem, Problems, Snippet};
use report::Sources;
use tree::{At, Node, Value};

use crate::{
    Cluster, Dataset, Experiment, FieldProblem, Sweep,
    nearest::{one_of, suggest},
};

/// What a YAML file can be, by its `kind:`.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// `kind: experiment`
    Experiment(Box<Experiment>),
    /// `kind: sweep`
    Sweep(Box<Sweep>),
    /// `kind: dataset`
    Dataset(Box<Dataset>),
    /// `kind: cluster`
    Cluster(Box<Cluster>),
}

/// The words for `kind:`.
const KINDS: [&str; 4] = ["experiment", "sweep", "dataset", "cluster"];
/// A file with more bytes is no configuration.
const MOST_BYTES: u64 = 1 << 20;

impl Document {
    /// `experiment`, `sweep`, `dataset` or `cluster`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Experiment(_) => "experiment",
            Self::Sweep(_) => "sweep",
            Self::Dataset(_) => "dataset",
            Self::Cluster(_) => "cluster",
        }
    }

    /// Its `name:`.
    pub fn name(&self) -> &str {
        match self {
            Self::Experiment(e) => &e.name,
            Self::Sweep(s) => &s.name,
            Self::Dataset(d) => &d.name,
            Self::Cluster(c) => &c.name,
        }
    }

    /// YAML that [`text()`] reads as this very document, with every default written out.
    pub fn to_yaml(&self) -> String {
        match self {
            Self::Experiment(e) => yaml(e),
            Self::Sweep(s) => yaml(s),
            Self::Dataset(d) => yaml(d),
            Self::Cluster(c) => yaml(c),
        }
    }
}

/// What changes how a file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `a.b.c=value` of each `--set`, in order.
    pub set: Vec<String>,
    /// Values of `${VAR}`, looked up before the environment.
    pub vars: BTreeMap<String, String>,
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, or everything that is wrong in it.
pub fn file(path: &Path, options: &Options) -> Result<Document, Problems> {
    let name = path.display().to_string();
    let content = read(path).map_err(|(message, help)| {
        Problems(vec![Problem { file: name.clone(), message, help, ..Problem::default() }])
    })?;
    text(&content, &name, path.parent().unwrap_or_else(|| Path::new("")), options)
}

/// Reads a text that came from `name`; a sweep's `experiment: path` is looked up in the folder `base`.
///
/// # Errors
/// Everything that is wrong in it.
pub fn text(text: &str, name: &str, base: &Path, options: &Options) -> Result<Document, Problems> {
    let mut loader = Loader { options, sources: Sources::default() };
    let document = loader.document(text, name, base);
    match (document, loader.sources.problems()) {
        (Some(document), problems) if problems.0.is_empty() => Ok(document),
        (_, problems) => Err(problems),
    }
}

/// `experiment` with each `--set` of `options`, to score by other words what it has trained. On datasets `elsewhere` than it says: without
/// its comparisons, which name their datasets themselves, so that what is called like one of them may be named anew.
///
/// # Errors
/// Everything that is wrong in it, or a field that scoring does not read: all but `evaluation`, and `dataset.url`, where the data may
/// lie now.
pub fn for_scoring(experiment: &Experiment, elsewhere: bool, options: &Options) -> Result<Experiment, Problems> {
    let mut experiment = experiment.clone();
    if elsewhere {
        experiment.evaluation.comparisons.clear();
    }
    if options.set.is_empty() {
        return Ok(experiment);
    }
    let plain = Document::Experiment(Box::new(experiment.clone())).to_yaml();
    let changed = text(&plain, "the trained experiment", Path::new(""), options)?;
    let mut same = experiment;
    if let Document::Experiment(changed) = &changed {
        same.evaluation.clone_from(&changed.evaluation);
        same.dataset.url.clone_from(&changed.dataset.url);
    }
    if changed == Document::Experiment(Box::new(same.clone())) {
        return Ok(same);
    }
    Err(Problems(vec![Problem {
        message: "only how a network is scored can be set now: evaluation.… and dataset.url".to_owned(),
        help: Some("everything else is what was trained: train again".to_owned()),
        ..Problem::default()
    }]))
}

fn read(path: &Path) -> Result<String, (String, Option<String>)> {
    let plain = |message: String| (message, None);
    let meta = fs::metadata(path).map_err(|e| plain(format!("cannot read {}: {e}", path.display())))?;
    if meta.is_dir() {
        return Err((format!("{} is a folder", path.display()), Some("name a YAML file in it".to_owned())));
    }
    // A device or a pipe has no length and may never end.
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| plain(format!("cannot read {}: {e}", path.display())))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(plain(format!("{} has more than {MOST_BYTES} bytes: this is no configuration", path.display())));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        plain(format!("{} is no UTF-8 text: byte {at} does not belong there", path.display()))
    })
}

fn yaml<T: Serialize>(value: &T) -> String {
    fn escape(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(s) => *s = vars::escape(s),
            serde_json::Value::Array(items) => items.iter_mut().for_each(escape),
            serde_json::Value::Object(entries) => entries.values_mut().for_each(escape),
            _ => {}
        }
    }
    let plain = serde_json::to_value(value).expect("invariant: documents have text keys only and are JSON");
    let mut json = plain.clone();
    escape(&mut json);
    // The value itself keeps the order of its fields. JSON is YAML too: the last resort for a text that YAML's writer does
    // not bring back.
    let written = if json == plain { serde_saphyr::to_string(value) } else { serde_saphyr::to_string(&json) };
    written
        .ok()
        .filter(|text| serde_saphyr::from_str::<serde_json::Value>(text).is_ok_and(|again| again == json))
        .unwrap_or_else(|| format!("{json:#}\n"))
}

/// An experiment out of JSON that has no place in a file.
pub(crate) fn from_json(json: &serde_json::Value) -> Result<Experiment, FieldProblem> {
    let mut sources = Sources::default();
    let mut tree = Node::from_json(json);
    let value = sources.typed(&mut tree);
    match (value, sources.problems().0.into_iter().next()) {
        (Some(value), None) => Ok(value),
        (_, problem) => {
            let p = problem.unwrap_or_default();
            let message = if p.expected.is_empty() { p.message } else { format!("{}, {}", p.message, p.expected) };
            Err(FieldProblem { field: p.field, message, help: p.help })
        }
    }
}

struct Loader<'a> {
    options: &'a Options,
    sources: Sources,
}

impl Loader<'_> {
    /// None when nothing could be made of it; what is wrong lies in `sources`.
    fn document(&mut self, text: &str, name: &str, base: &Path) -> Option<Document> {
        let mut tree = self.tree(text, name)?;
        match self.kind(&tree)? {
            "experiment" => {
                self.overrides(&mut tree, |_| false);
                self.checked(tree, Experiment::validate).map(|e| Document::Experiment(Box::new(e)))
            }
            "dataset" => {
                self.overrides(&mut tree, |_| false);
                self.checked(tree, Dataset::validate).map(|d| Document::Dataset(Box::new(d)))
            }
            "cluster" => {
                self.overrides(&mut tree, |_| false);
                self.checked(tree, Cluster::validate).map(|c| Document::Cluster(Box::new(c)))
            }
            _ => {
                self.include(&mut tree, base)?;
                self.flatten(&mut tree);
                self.overrides(&mut tree, sweep::belongs_to_experiment);
                // A `--set parameters=…` may have brought new nesting.
                self.flatten(&mut tree);
                self.checked(tree, Sweep::validate).map(|s| Document::Sweep(Box::new(s)))
            }
        }
    }

    /// Parses a source and expands its variables.
    fn tree(&mut self, text: &str, name: &str) -> Option<Node> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = self.sources.add(name, text);
        let mut tree = match tree::parse(text, source) {
            Ok(tree) => tree,
            Err(e) => {
                let at = At { source, line: e.line, column: e.column, width: 1, via: None };
                self.sources.problem(at, "", e.message, "", e.help);
                return None;
            }
        };
        self.expand(&mut tree);
        if let Value::Map(entries) = &mut tree.value {
            // A place for anchors: `x-common: &common {…}`.
            entries.retain(|(key, _)| !key.text.starts_with("x-"));
            return Some(tree);
        }
        let (message, at) = match &tree.value {
            Value::Null => ("the file is empty".to_owned(), At { source, ..At::default() }),
            _ => (format!("the file holds {}, not a mapping", tree.described()), tree.at),
        };
        self.sources.problem(at, "", message, "", Some(format!("begin with `kind:`, which may be {}", one_of(&KINDS))));
        None
    }

    fn expand(&mut self, tree: &mut Node) {
        let options = self.options;
        let sources = &mut self.sources;
        vars::expand_all(tree, &|name| vars::look_up(&options.vars, name), |node, problem| {
            let literal = "write `$${` for a literal `${`";
            let (message, help) = match problem {
                vars::Problem::Undefined(name) => {
                    let help = format!("export {name}, or {literal}");
                    (format!("the variable {name} is not defined"), help)
                }
                vars::Problem::Unclosed => ("`${` has no `}`".to_owned(), literal.to_owned()),
                vars::Problem::BadName(name) => (
                    format!("`{}` is no name of a variable", tree::short(&name)),
                    format!("letters, digits and `_`; {literal}"),
                ),
            };
            sources.problem(node.at, "", message, "", Some(help));
        });
    }

    fn kind(&mut self, tree: &Node) -> Option<&'static str> {
        let (found, at, node) = tree.find(&["kind"]);
        let word = match &node.value {
            Value::Text(word) if found == 1 => word.as_str(),
            _ if found == 1 => "",
            _ => {
                let has = |key| tree.get(key).is_some();
                let guess = if has("parameters") {
                    "sweep"
                } else if has("source") {
                    "dataset"
                } else if has("projects") || has("policy") {
                    "cluster"
                } else {
                    "experiment"
                };
                let help = format!("begin the file with `kind: {guess}`; it may be {}", one_of(&KINDS));
                let place = At { line: at.line.max(1), column: 1, width: 1, ..at };
                self.sources.problem(
                    place,
                    "kind",
                    "`kind` is missing: it says what the file describes",
                    "",
                    Some(help),
                );
                return None;
            }
        };
        let kind = KINDS.into_iter().find(|k| *k == word);
        if kind.is_none() {
            let expected = format!("expected {}", one_of(&KINDS));
            self.sources.problem(
                at,
                "kind",
                format!("{} is no kind of file", node.described()),
                &expected,
                Some(suggest(word, &KINDS)),
            );
        }
        kind
    }

    /// Applies every `--set`; `inner` says of a first part that it means the sweep's experiment.
    fn overrides(&mut self, tree: &mut Node, inner: impl Fn(&str) -> bool) {
        for argument in &self.options.set {
            let source = self.sources.add_argument(argument);
            let mut set = match set::read(argument, source) {
                Ok(set) => set,
                Err((message, at)) => {
                    let help = "as in `--set trainer.optimizer.lr=1e-4`".to_owned();
                    self.sources.problem(at, "", message, "", Some(help));
                    continue;
                }
            };
            self.expand(&mut set.value);
            let varied = sweep::prepare(tree, &mut set, &inner);
            let field = set.path.iter().map(|k| k.text.as_str()).collect::<Vec<_>>().join(".");
            if let Some(help) = varied {
                let at = set.path.first().map_or_else(At::default, |k| k.at);
                self.sources.problem(at, &field, "the sweep gives this field its values itself", "", Some(help));
                continue;
            }
            let failed = sweep::for_each(tree, set).into_iter().find_map(|one| set::apply(tree, one).err());
            if let Some(key) = failed {
                let message = format!("there is no field `{}` in a single value or a list", key.text);
                self.sources.problem(key.at, &field, message, "", None);
            }
        }
    }

    fn checked<T: DeserializeOwned>(
        &mut self,
        mut tree: Node,
        validate: impl Fn(&T) -> Result<(), Vec<FieldProblem>>,
    ) -> Option<T> {
        let whole = tree.clone();
        let value: T = self.sources.typed(&mut tree)?;
        for p in validate(&value).err().unwrap_or_default() {
            self.sources.field_problem(&whole, p);
        }
        Some(value)
    }
}

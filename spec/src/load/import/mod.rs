//! The published code's own YAML files (github.com/ci-ber/MorphAEus: `module_name`/`class_name`, nested `params`) as
//! experiments: the run that the code really trains, quirks included, as `configs/cxr/*-published.yaml` have it.
//!
//! Every value of the file is either taken or named: what has no counterpart becomes a [`Note`]. What cannot be trained here is
//! an error that shows the line.

mod evaluation;
mod model;
mod section;
mod trainer;

use std::{fmt, path::Path};

use section::Section;

use super::{
    Document, Options, Problem, Problems, read,
    report::Sources,
    tree::{self, At, Value},
    vars,
};

/// An experiment out of somebody else's YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The experiment, with comments; the notes are at its top.
    pub yaml: String,
    /// What was left out or must be looked after, in the order of the file.
    pub notes: Vec<Note>,
}

/// Something in the file that has no counterpart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line in the file.
    pub line: usize,
    /// Where it is: dotted.
    pub field: String,
    /// What becomes of it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.field, self.text)
    }
}

/// Reads the file and turns it into an experiment.
///
/// # Errors
/// When it cannot be read, or everything that is wrong in it.
pub fn file(path: &Path) -> Result<Imported, Problems> {
    let name = path.display().to_string();
    let content = read(path).map_err(|(message, help)| {
        Problems(vec![Problem { file: name.clone(), message, help, ..Problem::default() }])
    })?;
    text(&content, &name)
}

/// Turns the text, which came from `name`, into an experiment.
///
/// # Errors
/// Everything that is wrong in it, or cannot be trained here.
pub fn text(text: &str, name: &str) -> Result<Imported, Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut import = Import { sources: Sources::default(), notes: Vec::new(), sizes: Vec::new() };
    let source = import.sources.add(name, text);
    let written = match tree::parse(text, source) {
        Err(e) => {
            let at = At { source, line: e.line, column: e.column, width: 1, via: None };
            import.sources.problem(at, "", e.message, "", e.help);
            None
        }
        Ok(tree) => match tree.value {
            Value::Map(entries) => import.document(Section::of("", tree.at, entries)),
            _ => {
                import.problem(tree.at, "", format!("the file holds {}, not a mapping", tree.described()), "");
                None
            }
        },
    };
    let Import { sources, mut notes, .. } = import;
    let problems = sources.problems();
    let Some(body) = written.filter(|_| problems.0.is_empty()) else { return Err(problems) };
    notes.sort_by_key(|n| n.line);
    let yaml = head(name, &notes) + &body;
    // What does not fit together is said of the experiment, which has no lines in the file.
    let vars = ["MORPH_HOME", "VGG19_WEIGHTS"].map(|v| (v.to_owned(), "x".to_owned())).into();
    match super::text(
        &yaml,
        &format!("the experiment made of {name}"),
        Path::new(""),
        &Options { vars, set: Vec::new() },
    ) {
        Ok(Document::Experiment(_)) => Ok(Imported { yaml, notes }),
        Ok(_) => Err(Problems(Vec::new())),
        Err(problems) => Err(problems),
    }
}

/// What stands above the experiment.
fn head(name: &str, notes: &[Note]) -> String {
    let file = Path::new(name).file_name().map_or_else(|| name.to_owned(), |n| n.to_string_lossy().into_owned());
    let mut out = format!(
        "# Made by `morphctl import` of {}: the run as the published code really trains it. docs/methods.md says\n\
         # which switches mend its quirks.\n",
        one_line(&file)
    );
    if !notes.is_empty() {
        out += "#\n# What has no counterpart, or must be looked after:\n";
    }
    for note in notes {
        out += &format!("#   {}\n", one_line(&note.to_string()));
    }
    out
}

/// Fit for a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text as YAML has it whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::to_string(&vars::escape(text)).unwrap_or_else(|_| "\"\"".to_owned())
}

/// Lines of one mapping.
#[derive(Default)]
struct Lines(String);

/// Column of comments.
const COMMENTS: usize = 46;

impl Lines {
    fn put(&mut self, line: impl fmt::Display) {
        self.0 += &format!("  {line}\n");
    }

    fn comment(&mut self, line: impl fmt::Display, comment: &str) {
        let line = format!("  {line}");
        self.0 += &format!("{line:COMMENTS$} # {comment}\n");
    }
}

struct Import {
    sources: Sources,
    notes: Vec<Note>,
    /// Sides of the image, as it says in several places.
    sizes: Vec<(At, String, u32)>,
}

impl Import {
    fn problem(&mut self, at: At, field: &str, message: impl Into<String>, help: &str) {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.sources.problem(at, field, message, "", help);
    }

    fn note(&mut self, at: At, field: &str, text: impl Into<String>) {
        self.notes.push(Note { line: at.line, field: field.to_owned(), text: text.into() });
    }

    /// None when there can be no experiment; what is wrong lies in `sources`.
    fn document(&mut self, mut top: Section) -> Option<String> {
        if top.get("kind").is_some() && top.get("model").is_none_or(|m| m.get("class_name").is_none()) {
            let at = top.at("kind");
            self.problem(at, "kind", "this is morph's own YAML already", "`morphctl validate` looks at it");
            return None;
        }
        let name = self.text(&mut top, "name").unwrap_or_else(|| "imported".to_owned());
        let mut experiment = self.section(&mut top, "experiment");
        let project = self.text(&mut experiment, "name");
        let task_at = experiment.at("task");
        let task = self.text(&mut experiment, "task");
        let scored = match task.as_deref() {
            None | Some("train") => false,
            Some(_) => true,
        };
        let weights = self.text_at(&mut experiment, "weights");
        let device = match self.text(&mut top, "device").as_deref() {
            None | Some("gpu") => "auto",
            Some(_) => "cpu",
        };
        let mut configurator = self.section(&mut top, "configurator");
        let class = self.text_at(&mut configurator, "class_name");
        configurator.drop(&["module_name", "params"]);
        if let Some((at, class)) = class.filter(|(_, c)| c != "DLConfigurator") {
            self.note(
                at,
                "configurator.class_name",
                format!("{class} is not looked at: morph configures the run itself"),
            );
        }

        let model = self.section(&mut top, "model");
        let trainer = self.section(&mut top, "trainer");
        let tasks = self.section(&mut top, "downstream_tasks");
        // Set apart as anchors: `target_size: &target_size …`.
        top.drop(&["target_size", "dbatch_size", "checkpoint_path"]);
        let model = self.model(model);
        let goal = trainer::Goal { scored, device, resumes: weights.is_some() && !scored };
        let trainer = model.as_ref().and_then(|m| self.trainer(trainer, m, goal));
        let evaluation = self.evaluation(tasks);
        let size = self.size();
        self.leftovers(experiment);
        self.leftovers(configurator);
        self.leftovers(top);
        let (model, trainer, size) = (model?, trainer?, size?);

        if let (true, None) = (scored, &weights) {
            self.problem(
                task_at,
                "experiment.weights",
                "there is nothing to score: the task is not `train`, and no weights are named",
                "",
            );
            return None;
        }
        let mut own = Lines::default();
        own.put(format!("method: {}", model.method.name()));
        own.put(format!("image_size: {size}"));
        if let Some((at, path)) = &weights {
            let comment =
                if scored { "scored as they are" } else { "its optimizers and its epoch, too: trainer.resume" };
            own.comment(format!("weights: {}", quoted(path)), comment);
            self.note(*at, "experiment.weights", "a path where morph-worker runs, or a URL");
        }
        let title = project.map_or_else(|| name.clone(), |p| format!("{p}, {name}"));
        Some(format!(
            "kind: experiment\nname: {}\ndescription: {}\n\n\
             dataset:\n  url: ${{MORPH_HOME}}/datasets/rsna                # morphctl data prepare configs/datasets/rsna.yaml\n  \
             train: {{split: train, labels: [Normal]}}\n  validation: {{split: val, labels: [Normal]}}\n\n\
             model:\n{}{}\ntrainer:\n{}\nevaluation:\n{}",
            plain_name(&name),
            quoted(&format!("{title}: as the published code trains it.")),
            own.0,
            model.lines.0,
            trainer.0,
            evaluation.0,
        ))
    }

    /// The side of the image, when all places agree.
    fn size(&mut self) -> Option<u32> {
        let sizes = std::mem::take(&mut self.sizes);
        let Some((_, first_field, first)) = sizes.first().cloned() else {
            let at = At { line: 1, column: 1, width: 1, ..At::default() };
            self.problem(at, "", "nothing says how large the images are", "data_loader.params.args.target_size does");
            return None;
        };
        for (at, field, size) in sizes {
            if size != first {
                let message = format!("{size} pixels here, {first} in {first_field}");
                self.problem(at, &field, message, "");
            }
        }
        Some(first)
    }
}

/// A name as ours are.
fn plain_name(text: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = text.chars().map(good).take(63).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "imported".to_owned() } else { quoted(name) }
}

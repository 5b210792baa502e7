//! What serde cannot see: bounds, and fields that must agree with each other.

mod cluster;
mod dataset;
mod experiment;
mod method;
mod sweep;

use std::fmt;

pub(crate) use experiment::fields;

/// A field whose value makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Dotted; items of lists by number (`model.channels.0`).
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: Option<String>,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

impl std::error::Error for FieldProblem {}

/// Splits that a prepared dataset has.
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Collects problems.
#[derive(Debug, Default)]
struct Checks(Vec<FieldProblem>);

impl Checks {
    fn problem(&mut self, field: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        let help = help.into();
        self.0.push(FieldProblem {
            field: field.into(),
            message: message.into(),
            help: (!help.is_empty()).then_some(help),
        });
    }

    /// A problem unless `ok`.
    fn that(&mut self, ok: bool, field: &str, message: impl Into<String>, help: &str) {
        if !ok {
            self.problem(field, message, help);
        }
    }

    fn at_least(&mut self, least: u64, value: u64, field: &str) {
        self.that(value >= least, field, format!("{value} is too small: it must be {least} or more"), "");
    }

    fn at_most(&mut self, most: u64, value: u64, field: &str) {
        self.that(value <= most, field, format!("{value} is too large: at most {most}"), "");
    }

    fn positive(&mut self, value: f64, field: &str) {
        self.that(value.is_finite() && value > 0.0, field, format!("{value} must be above 0"), "");
    }

    fn not_negative(&mut self, value: f64, field: &str) {
        self.that(value.is_finite() && value >= 0.0, field, format!("{value} must be 0 or more"), "");
    }

    fn not_empty(&mut self, value: &str, field: &str, help: &str) {
        self.that(!value.trim().is_empty(), field, "it is empty", help);
    }

    /// Names become parts of other names, of folders and of arguments.
    fn name(&mut self, value: &str, field: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let ok = !value.is_empty()
            && value.len() <= 63
            && value.chars().all(good)
            && value.starts_with(|c: char| c.is_ascii_alphanumeric());
        self.that(
            ok,
            field,
            format!("{:?} is no name", value.chars().take(80).collect::<String>()),
            "1 to 63 letters, digits, `.`, `_` or `-`, a letter or digit first",
        );
    }

    fn split(&mut self, value: &str, field: &str) {
        if !SPLITS.contains(&value) {
            self.problem(field, format!("there is no split {value:?}"), crate::nearest::suggest(value, &SPLITS));
        }
    }

    fn done(self) -> Result<(), Vec<FieldProblem>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// The dotted fields of the kind of document in which `root` is a field at the top.
pub(crate) fn fields_of_any(root: &str) -> Vec<String> {
    let own = fields(&experiment::blank());
    // In a sweep the experiment's fields lie one deeper.
    if root == "experiment" { own.into_iter().map(|f| format!("experiment.{f}")).collect() } else { own }
}

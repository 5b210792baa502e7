//! What only sweeps have: an experiment in another file, and W&B's nested parameters.

use std::path::Path;

use super::{
    Loader, read,
    set::Set,
    tree::{At, Key, Node, Value},
};
use crate::sweep::EXPERIMENT;

/// The fields of a sweep itself.
const OWN: [&str; 11] = [
    "kind",
    "name",
    "description",
    "experiment",
    "method",
    "metric",
    "parameters",
    "run_cap",
    "max_parallel",
    "seed",
    "max_retries",
];
/// The fields of a parameter.
const PARAMETER: [&str; 5] = ["value", "values", "min", "max", "distribution"];

/// Whether the field that begins with `first` is the experiment's and not the sweep's.
pub(super) fn belongs_to_experiment(first: &str) -> bool {
    !OWN.contains(&first) && ["dataset", "model", "trainer", "evaluation", "scheduling"].contains(&first)
}

/// Makes `set`'s path one of this tree: `trainer.…` of a sweep is its experiment's, and `parameters.a.b.values` is the
/// field `values` of the parameter `a.b`. Some: the field is varied by the sweep, with what to do instead.
pub(super) fn prepare(tree: &Node, set: &mut Set, inner: &impl Fn(&str) -> bool) -> Option<String> {
    let (first, at) = set.path.first().map(|k| (k.text.clone(), k.at))?;
    if inner(&first) {
        set.path.insert(0, Key { text: EXPERIMENT.to_owned(), at });
    }
    if first == "parameters" && set.path.len() > 2 {
        let field = set.path.pop()?;
        let (name, field) = if PARAMETER.contains(&field.text.as_str()) {
            (set.path.split_off(1), Some(field))
        } else {
            let mut name = set.path.split_off(1);
            name.push(field);
            (name, None)
        };
        let text = name.iter().map(|k| k.text.as_str()).collect::<Vec<_>>().join(".");
        set.path.push(Key { text, at: name.first().map_or(at, |k| k.at) });
        set.path.extend(field);
    }
    let path: Vec<&str> = set.path.iter().map(|k| k.text.as_str()).collect();
    let inner = path.strip_prefix(&[EXPERIMENT])?;
    let is_one_of_several = inner.first().is_some_and(|first| first.parse::<usize>().is_ok());
    let name = inner[usize::from(is_one_of_several)..].join(".");
    let Value::Map(parameters) = &tree.get("parameters")?.value else { return None };
    parameters
        .iter()
        .any(|(k, _)| k.text == name)
        .then(|| format!("set `parameters.{name}.value`, or take it out of the sweep's parameters"))
}

/// `set` for each experiment that it means: for all, if the sweep has several and it names none by its number.
pub(super) fn for_each(tree: &Node, set: Set) -> Vec<Set> {
    let [first, second, ..] = set.path.as_slice() else { return vec![set] };
    let several = match tree.get(EXPERIMENT).map(|n| &n.value) {
        Some(Value::List(items)) if first.text == EXPERIMENT && second.text.parse::<usize>().is_err() => items.len(),
        _ => return vec![set],
    };
    let numbered = |i: usize| {
        let mut set = set.clone();
        set.path.insert(1, Key { text: i.to_string(), at: first.at });
        set
    };
    (0..several).map(numbered).collect()
}

impl Loader<'_> {
    /// Replaces `experiment: path`, and each path in a list of them, by what lies there. None when one cannot be read.
    pub(super) fn include(&mut self, tree: &mut Node, base: &Path) -> Option<()> {
        let (found, at, _) = tree.find(&[EXPERIMENT]);
        let Some(node) = tree.get_mut(EXPERIMENT).filter(|_| found == 1) else { return Some(()) };
        match &mut node.value {
            Value::List(items) => {
                let place = |item: &Node| if item.at.width > 0 { item.at } else { at };
                let mut all = Some(());
                // To the end: what is wrong with each is to be said.
                for (i, item) in items.iter_mut().enumerate() {
                    let one = self.include_one(item, place(item), &format!("{EXPERIMENT}.{i}"), base);
                    all = all.and(one);
                }
                all
            }
            _ => self.include_one(node, at, EXPERIMENT, base),
        }
    }

    fn include_one(&mut self, node: &mut Node, at: At, field: &str, base: &Path) -> Option<()> {
        let Value::Text(path) = &node.value else {
            // Inline, `kind` goes without saying.
            if let Value::Map(entries) = &mut node.value
                && !entries.iter().any(|(k, _)| k.text == "kind")
            {
                let key = Key { text: "kind".to_owned(), at: node.at };
                entries.push((key, Node::new(Value::Text("experiment".to_owned()), node.at)));
            }
            return Some(());
        };
        let place = base.join(path);
        match read(&place) {
            Err((message, help)) => {
                let help = help.unwrap_or_else(|| "the path is relative to the sweep's file".to_owned());
                self.sources.problem(at, field, message, "", Some(help));
                None
            }
            Ok(text) => {
                *node = self.tree(&text, &place.display().to_string())?;
                Some(())
            }
        }
    }

    /// `parameters: {a: {parameters: {b: …}}}` → `parameters: {a.b: …}`.
    pub(super) fn flatten(&mut self, tree: &mut Node) {
        let Some(Node { value: Value::Map(entries), .. }) = tree.get_mut("parameters") else { return };
        let mut flat: Vec<(Key, Node)> = Vec::new();
        for (key, node) in std::mem::take(entries) {
            nested(key, node, &mut flat);
        }
        let mut kept: Vec<(Key, Node)> = Vec::new();
        for (key, node) in flat {
            if kept.iter().any(|(k, _)| k.text == key.text) {
                let at = At { width: key.at.width.max(1), ..key.at };
                let message = format!("the parameter `{}` is there twice", key.text);
                self.sources.problem(at, &format!("parameters.{}", key.text), message, "", Some("keep one".to_owned()));
            } else {
                kept.push((key, node));
            }
        }
        *entries = kept;
    }
}

fn nested(key: Key, mut node: Node, flat: &mut Vec<(Key, Node)>) {
    // With anything beside it, `parameters` is reported as a field that a parameter does not have.
    let inner = match &mut node.value {
        Value::Map(entries) if entries.len() == 1 && entries[0].0.text == "parameters" => match &mut entries[0].1.value
        {
            Value::Map(inner) => std::mem::take(inner),
            _ => return flat.push((key, node)),
        },
        _ => return flat.push((key, node)),
    };
    for (k, n) in inner {
        nested(Key { text: format!("{}.{}", key.text, k.text), at: k.at }, n, flat);
    }
}

//! A mapping that is emptied as it is read: what is left in the end nobody has asked for.

use super::{
    super::tree::{At, Key, Node, Value, short},
    Import,
};

/// A mapping and where it is.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    at: At,
    entries: Vec<(Key, Node)>,
}

impl Section {
    pub(super) fn of(path: &str, at: At, entries: Vec<(Key, Node)>) -> Self {
        Self { path: path.to_owned(), at, entries }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v)
    }

    /// Where `key` is, or this mapping where it is not.
    pub(super) fn at(&self, key: &str) -> At {
        self.entries.iter().find(|(k, _)| k.text == key).map_or(self.here(), |(k, _)| k.at)
    }

    /// Where it is itself.
    pub(super) fn here(&self) -> At {
        At { line: self.at.line.max(1), column: self.at.column.max(1), width: 1, ..self.at }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<(At, Node)> {
        let i = self.entries.iter().position(|(k, _)| k.text == key)?;
        let (key, node) = self.entries.remove(i);
        // A value of no width is shown by its key; what comes through an alias, where it is used.
        Some((if node.at.width == 0 || node.at.via.is_some() { key.at } else { node.at }, node))
    }

    /// Keys that mean nothing by themselves.
    pub(super) fn drop(&mut self, keys: &[&str]) {
        self.entries.retain(|(k, _)| !keys.contains(&k.text.as_str()));
    }

    /// All keys, in their order.
    pub(super) fn keys(&self) -> Vec<String> {
        self.entries.iter().map(|(k, _)| k.text.clone()).collect()
    }
}

impl Import {
    /// The mapping `key`; an empty one where it is missing or nothing.
    pub(super) fn section(&mut self, parent: &mut Section, key: &str) -> Section {
        let (path, at) = (parent.path_of(key), parent.at(key));
        match parent.take(key) {
            Some((_, Node { value: Value::Map(entries), .. })) => Section { path, at, entries },
            None | Some((_, Node { value: Value::Null, .. })) => Section { path, at, entries: Vec::new() },
            Some((at, node)) => {
                self.problem(at, &path, format!("`{key}` cannot be {}: it is a mapping", node.described()), "");
                Section { path, at, entries: Vec::new() }
            }
        }
    }

    pub(super) fn text_at(&mut self, section: &mut Section, key: &str) -> Option<(At, String)> {
        let path = section.path_of(key);
        let (at, node) = section.take(key)?;
        match &node.value {
            Value::Text(text) => Some((at, text.clone())),
            Value::Null => None,
            // A name like `5`.
            Value::Number(n) => Some((at, n.to_string())),
            _ => {
                self.problem(at, &path, format!("`{key}` cannot be {}: it is a text", node.described()), "");
                None
            }
        }
    }

    pub(super) fn text(&mut self, section: &mut Section, key: &str) -> Option<String> {
        self.text_at(section, key).map(|(_, text)| text)
    }

    pub(super) fn number(&mut self, section: &mut Section, key: &str, default: f64) -> f64 {
        let path = section.path_of(key);
        let Some((at, node)) = section.take(key) else { return default };
        match &node.value {
            Value::Number(n) => n.as_f64().unwrap_or(default),
            _ => {
                self.problem(at, &path, format!("`{key}` cannot be {}: it is a number", node.described()), "");
                default
            }
        }
    }

    pub(super) fn int_at(&mut self, section: &mut Section, key: &str) -> Option<(At, u32)> {
        let path = section.path_of(key);
        let (at, node) = section.take(key)?;
        let found = self.whole(&node, at, &path);
        found.map(|n| (at, n))
    }

    pub(super) fn int(&mut self, section: &mut Section, key: &str, default: u32) -> u32 {
        self.int_at(section, key).map_or(default, |(_, n)| n)
    }

    fn whole(&mut self, node: &Node, at: At, path: &str) -> Option<u32> {
        let number =
            if let Value::Number(n) = &node.value { n.as_u64().and_then(|n| u32::try_from(n).ok()) } else { None };
        if number.is_none() {
            self.problem(at, path, format!("it cannot be {}: it is a whole number", node.described()), "");
        }
        number
    }

    /// Whole numbers in a list or a tuple.
    pub(super) fn ints(&mut self, section: &mut Section, key: &str) -> Option<(At, Vec<u32>)> {
        let path = section.path_of(key);
        let (at, node) = section.take(key)?;
        let Value::List(items) = &node.value else {
            self.problem(at, &path, format!("`{key}` cannot be {}: it is a list", node.described()), "");
            return None;
        };
        let numbers: Vec<u32> = items.iter().filter_map(|item| self.whole(item, item.at, &path)).collect();
        (numbers.len() == items.len()).then_some((at, numbers))
    }

    /// Whole numbers that must be there.
    pub(super) fn needed(&mut self, section: &mut Section, key: &str) -> Vec<u32> {
        if section.get(key).is_none() {
            let (at, path) = (section.here(), section.path_of(key));
            self.problem(at, &path, format!("`{key}` is missing"), "");
        }
        self.ints(section, key).map(|(_, numbers)| numbers).unwrap_or_default()
    }

    pub(super) fn flag(&mut self, section: &mut Section, key: &str, default: bool) -> (At, bool) {
        let (path, place) = (section.path_of(key), section.at(key));
        let Some((at, node)) = section.take(key) else { return (place, default) };
        match node.value {
            Value::Bool(b) => (at, b),
            _ => {
                self.problem(at, &path, format!("`{key}` cannot be {}: it is true or false", node.described()), "");
                (at, default)
            }
        }
    }

    /// A value that there is but one of here.
    pub(super) fn only(&mut self, section: &mut Section, key: &str, wanted: &str, why: &str) {
        let path = section.path_of(key);
        let Some((at, node)) = section.take(key) else { return };
        let found = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            _ => node.described(),
        };
        if found != wanted {
            self.problem(at, &path, format!("`{}` is not trained here", short(&found)), &format!("{why}: {wanted}"));
        }
    }

    /// The side of a square image of one channel: `[128, 128]`, or `[1, 128, 128]`.
    pub(super) fn side(&mut self, section: &mut Section, key: &str) {
        let path = section.path_of(key);
        let Some((at, sizes)) = self.ints(section, key) else { return };
        match sizes[..] {
            [height, width] | [1, height, width] if height == width => self.sizes.push((at, path, height)),
            _ => self.problem(
                at,
                &path,
                format!("{sizes:?} is no square image of one channel"),
                "morph trains on squares",
            ),
        }
    }

    /// Names what is left of `section`.
    pub(super) fn leftovers(&mut self, section: Section) {
        let Section { path, entries, .. } = section;
        for (key, node) in entries {
            let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
            if !matches!(node.value, Value::Null) {
                self.note(key.at, &path, format!("has no counterpart ({})", node.described()));
            }
        }
    }
}

//! `--set a.b.c=value`.

use super::tree::{At, Key, Node, Value, parse};

/// A path and its value.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// The parts of the path, each with its place in the argument.
    pub(super) path: Vec<Key>,
    pub(super) value: Node,
}

/// Reads one argument, which is source number `source`.
///
/// # Errors
/// What is wrong, and the marked characters.
pub(super) fn read(argument: &str, source: usize) -> Result<Set, (String, At)> {
    let at = |column: usize, width: usize| At { source, line: 1, column, width, via: None };
    let whole = at(1, argument.chars().count());
    let (path, text) = argument.split_once('=').ok_or_else(|| ("this has no `=`".to_owned(), whole))?;
    let mut parts = Vec::new();
    let mut column = 1;
    for part in path.split('.') {
        let width = part.chars().count();
        if part.trim().is_empty() {
            return Err(("a part of the field's name is empty".to_owned(), at(column, 1)));
        }
        parts.push(Key { text: part.trim().to_owned(), at: at(column, width) });
        column += width + 1;
    }
    let begin = column;
    let mut value = parse(text, source).map_err(|e| (e.message, at(begin + e.column.saturating_sub(1), 1)))?;
    value.each(&mut |node| {
        node.at.column += begin - 1;
        node.at.via = None;
    });
    // The shell's user does not think of quotes: `--set name=2024` is a name.
    if matches!(value.value, Value::Null | Value::Bool(_) | Value::Number(_)) {
        value.raw = Some(text.trim().to_owned());
    }
    if value.at.width == 0 {
        value.at = at(begin, text.chars().count().max(1));
    }
    Ok(Set { path: parts, value })
}

/// Puts `set` into `tree`; mappings on the way are made where they are missing.
///
/// # Errors
/// The part of the path below which nothing can be.
pub(super) fn apply(tree: &mut Node, set: Set) -> Result<(), Key> {
    put(tree, &set.path, set.value)
}

fn put(node: &mut Node, path: &[Key], value: Node) -> Result<(), Key> {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    if matches!(node.value, Value::Null | Value::Hole) {
        node.value = Value::Map(Vec::new());
    }
    match &mut node.value {
        Value::Map(entries) => {
            // A key may have dots in it, as a sweep's parameters do: the longest that is there counts.
            let joined = |n: usize| path[..n].iter().map(|k| k.text.as_str()).collect::<Vec<_>>().join(".");
            let known = (1..=path.len()).rev().find_map(|n| {
                let name = joined(n);
                entries.iter().position(|(k, _)| k.text == name).map(|i| (n, i))
            });
            if let Some((n, i)) = known {
                return put(&mut entries[i].1, &path[n..], value);
            }
            let mut inner = Node::new(Value::Null, first.at);
            put(&mut inner, rest, value)?;
            entries.push((first.clone(), inner));
            Ok(())
        }
        Value::List(items) => match first.text.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
            Some(item) => put(item, rest, value),
            None => Err(first.clone()),
        },
        _ => Err(first.clone()),
    }
}

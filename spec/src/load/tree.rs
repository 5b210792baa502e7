//! YAML as a tree that knows where each piece came from.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, Spanned};

/// Where a piece of text came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct At {
    /// Index among the sources that were read.
    pub(crate) source: usize,
    /// Line, from 1; 0: nowhere in particular.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// Characters.
    pub(crate) width: usize,
    /// Line and column of the alias or merge key through which it is used.
    pub(crate) via: Option<(usize, usize)>,
}

/// A piece of YAML.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: At,
    /// The text of a scalar that is a text or a number as its field wants: from `--set` or `${VAR}`.
    pub(crate) raw: Option<String>,
    /// A mapping that was a [`Value::Hole`]: what misses in it is nobody's mistake.
    pub(crate) hollow: bool,
}

/// What a piece of YAML holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Stands for what is missing or was wrong, so that the rest can be looked at.
    Hole,
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) at: At,
}

/// Parts of a key that is looked for: names of fields have four or five.
const MOST_PARTS: usize = 32;

impl Node {
    pub(crate) fn new(value: Value, at: At) -> Self {
        Self { value, at, raw: None, hollow: false }
    }

    /// JSON as a tree that came from nowhere in particular.
    pub(crate) fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => Value::Number(n.clone()),
            Json::String(s) => Value::Text(s.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(fields) => Value::Map(
                fields.iter().map(|(k, v)| (Key { text: k.clone(), at: At::default() }, Self::from_json(v))).collect(),
            ),
        };
        Self::new(value, At::default())
    }

    /// The value of `key`, when this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// As [`Node::get`].
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The piece at a dotted path (keys may hold dots themselves, numbers index lists), as far as it exists: how many
    /// parts were found, the place to show, and the piece.
    pub(crate) fn find(&self, path: &[&str]) -> (usize, At, &Self) {
        let (mut node, mut at, mut found) = (self, self.at, 0);
        'deeper: while found < path.len() {
            for end in (found + 1..=path.len().min(found + MOST_PARTS)).rev() {
                let name = path[found..end].join(".");
                let step = match &node.value {
                    Value::Map(entries) => entries
                        .iter()
                        .find(|(k, _)| k.text == name)
                        .map(|(k, v)| (v, if v.is_scalar() { v.at } else { k.at })),
                    Value::List(items) => {
                        name.parse::<usize>().ok().and_then(|i| items.get(i)).map(|v| (v, v.item_at().unwrap_or(at)))
                    }
                    _ => None,
                };
                if let Some((next, place)) = step {
                    (node, at, found) = (next, place, end);
                    continue 'deeper;
                }
            }
            break;
        }
        (found, at, node)
    }

    /// Where it is shown as an item of a list, which has no key: itself, or where a mapping begins.
    fn item_at(&self) -> Option<At> {
        let begins = matches!(self.value, Value::Map(_)) && self.at.line > 0;
        if begins { Some(At { width: 1, ..self.at }) } else { self.is_scalar().then_some(self.at) }
    }

    /// Neither list nor mapping nor hole, and of some width: worth being marked itself instead of by its key.
    fn is_scalar(&self) -> bool {
        self.at.width > 0 && matches!(self.value, Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Null)
    }

    /// What it is, for a sentence.
    pub(crate) fn described(&self) -> String {
        match &self.value {
            Value::Null | Value::Hole => "nothing".to_owned(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Number(n) => format!("`{n}`"),
            Value::Text(s) => format!("the text `{}`", short(s)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Calls `f` on this piece and all below.
    pub(crate) fn each(&mut self, f: &mut impl FnMut(&mut Self)) {
        f(self);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|n| n.each(f)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, n)| n.each(f)),
            _ => {}
        }
    }
}

/// A text that fits into a sentence.
pub(crate) fn short(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

/// A text that is no YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Bytes of all texts in a tree, those that aliases repeat among them; a file has no more than a quarter.
const LONGEST: usize = 4 << 20;

/// Parses `text`, which is source number `source`. An empty text is [`Value::Null`].
pub(crate) fn parse(text: &str, source: usize) -> Result<Node, SyntaxError> {
    // A configuration is small. The limits keep aliases of aliases from filling the memory.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 50_000, max_replay_stack_depth: 16 },
        budget: serde_saphyr::budget! {
            max_events: 100_000,
            max_nodes: 50_000,
            max_aliases: 2_000,
            max_anchors: 2_000,
            max_recorded_anchor_events: 100_000,
            max_depth: 48,
            flow_nesting_limit: 48,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: LONGEST,
            max_recorded_anchor_bytes: LONGEST,
        },
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|e| syntax(&e))?;
    Ok(raw_node(raw, source))
}

fn syntax(error: &serde_saphyr::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((0, 0), |l| (l.line() as usize, l.column() as usize));
    let whole = error.without_snippet().to_string();
    let said = whole.split_once(" at line ").map_or(whole.as_str(), |(said, _)| said);
    let said = said.split(", set DuplicateKeyPolicy").next().unwrap_or(said);
    let (message, help) = match said {
        s if s.starts_with("multiple YAML documents") => {
            ("a second YAML document begins here", "keep one document per file")
        }
        s if s.contains("budget") || s.contains("limit") => (s, "a configuration is smaller and flatter than this"),
        s if s.contains("non-finite") => ("this number is not finite", "numbers must be finite"),
        s if s.contains("weak recursion") => {
            ("this alias refers to what it is part of", "an alias cannot contain itself")
        }
        s if s.contains("cannot deserialize null into string") => {
            ("a key is missing before the colon", "`null` and `~` need quotes as keys")
        }
        s if s.contains("tabs disallowed") || s.contains("found a tab") => (s, "indent with spaces"),
        s if s.contains("mapping values are not allowed") => {
            (s, "indent it as its neighbours are, or put a text that contains `: ` in quotes")
        }
        s if s.contains("illegal placement of ':'") => (s, "is a bracket or a quote not closed above?"),
        s if s.contains("flow mapping") || s.contains("flow sequence") => {
            (s, "a bracket may be missing, and inside brackets `${VAR}` needs quotes")
        }
        s if s.contains("duplicate mapping key") => (s, "keep one of the two"),
        s => (s, ""),
    };
    SyntaxError { line, column, message: message.to_owned(), help: (!help.is_empty()).then(|| help.to_owned()) }
}

fn place(referenced: Location, defined: Location, source: usize) -> At {
    // What has to be mended is where it is defined, not where an alias repeats it.
    let at = if defined.line() == 0 { referenced } else { defined };
    let same = at.line() == referenced.line() && at.column() == referenced.column();
    At {
        source,
        line: at.line() as usize,
        column: at.column() as usize,
        width: at.span().len() as usize,
        via: (!same && referenced.line() > 0).then(|| (referenced.line() as usize, referenced.column() as usize)),
    }
}

fn raw_node(raw: Spanned<Raw>, source: usize) -> Node {
    let at = place(raw.referenced, raw.defined, source);
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|r| raw_node(r, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(k, v)| (Key { at: place(k.referenced, k.defined, source), text: k.value }, raw_node(v, source)))
                .collect(),
        ),
    };
    Node::new(value, at)
}

/// What the YAML library is asked for.
#[derive(Debug)]
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Number(v.into())))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Number(v.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Raw, E> {
        Number::from_f64(v).map(|n| Raw::Scalar(Value::Number(n))).ok_or_else(|| E::custom("a non-finite number"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(v.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

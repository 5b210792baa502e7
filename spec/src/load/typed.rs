//! From a tree to a typed value, with everything that is wrong on the way and not only the first thing.
//!
//! serde stops at the first error. So a piece that is wrong is reported and taken out of the tree, and reading starts
//! anew, until the rest is a value: a key that nobody knows is removed, a wrong value gives way to its default, and what
//! has no default becomes a [`Value::Hole`], which reads as anything.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
    value::{StrDeserializer, StringDeserializer},
};

use super::tree::{Node, Value};

/// A step from a node to one in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(k) => f.write_str(k),
            Self::Index(i) => write!(f, "{i}"),
        }
    }
}

/// What serde did not like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    UnknownField {
        name: String,
        known: &'static [&'static str],
    },
    UnknownVariant {
        name: String,
        known: &'static [&'static str],
    },
    Missing(&'static str),
    /// What was expected instead.
    Wrong(String),
}

/// [`Kind`], and where. The path is that of the key for an unknown field, of the mapping for a missing one.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Innermost step first while the error travels outwards.
    pub(crate) path: Vec<Step>,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, path: Vec::new() }
    }

    fn wrong(expected: impl Into<String>) -> Self {
        Self::new(Kind::Wrong(expected.into()))
    }

    fn below(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self::wrong(msg.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::wrong(in_words(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::wrong(in_words(&expected.to_string()))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::wrong(in_words(&expected.to_string()))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownVariant { name: name.to_owned(), known })
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownField { name: name.to_owned(), known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }
}

/// What serde expects, in the words of somebody who writes YAML.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" => "expected a small whole number".to_owned(),
        "u32" => format!("expected a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "expected a whole number, 0 or more".to_owned(),
        "i64" | "i32" => "expected a whole number".to_owned(),
        "f64" | "f32" | "a JSON number" => "expected a number".to_owned(),
        "a boolean" => "expected true or false".to_owned(),
        "a string" => "expected a text".to_owned(),
        "a sequence" => "expected a list".to_owned(),
        "a map" => "expected a mapping".to_owned(),
        other => match (other.strip_prefix("an array of length "), other.starts_with("struct ")) {
            (Some(n), _) => format!("expected a list of {n}"),
            (None, true) => "expected a mapping".to_owned(),
            (None, false) => format!("expected {other}"),
        },
    }
}

/// A wrong piece, and what stands there.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<Step>,
}

/// More than this is not read by anybody.
const MOST: usize = 60;

/// Reads `tree` as a `T`. `found` gets what is wrong, together with the tree as it was then; afterwards the tree holds
/// what was readable. None: nothing could be made of it.
pub(crate) fn read<T: DeserializeOwned>(tree: &mut Node, mut found: impl FnMut(&Finding, &Node)) -> Option<T> {
    let mut removed: Vec<Vec<Step>> = Vec::new();
    for _ in 0..4 * MOST {
        let fault = match T::deserialize(&*tree) {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        let path: Vec<Step> = fault.path.into_iter().rev().collect();
        let finding = Finding { kind: fault.kind, path };
        let mut at = finding.path.clone();
        if let Kind::Missing(field) = &finding.kind {
            at.push(Step::Key((*field).to_owned()));
            if !removed.contains(&at) && !in_hole(tree, &finding.path) {
                found(&finding, tree);
            }
            fill(tree, &finding.path, field)?;
            continue;
        }
        found(&finding, tree);
        take_out(tree, &at)?;
        removed.push(at);
    }
    None
}

fn walk<'a>(mut node: &'a mut Node, path: &[Step]) -> Option<&'a mut Node> {
    for step in path {
        node = match (step, &mut node.value) {
            (Step::Key(k), Value::Map(entries)) => {
                entries.iter_mut().find(|(key, _)| key.text == *k).map(|(_, v)| v)?
            }
            (Step::Index(i), Value::List(items)) => items.get_mut(*i)?,
            _ => return None,
        };
    }
    Some(node)
}

fn in_hole(tree: &mut Node, path: &[Step]) -> bool {
    walk(tree, path).is_none_or(|n| n.hollow || matches!(n.value, Value::Hole))
}

fn fill(tree: &mut Node, path: &[Step], field: &str) -> Option<()> {
    let node = walk(tree, path)?;
    if matches!(node.value, Value::Hole) {
        node.hollow = true;
    }
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let at = node.at;
    let Value::Map(entries) = &mut node.value else { return None };
    if entries.iter().any(|(k, _)| k.text == field) {
        return None;
    }
    entries.push((super::tree::Key { text: field.to_owned(), at }, Node::new(Value::Hole, at)));
    Some(())
}

fn take_out(tree: &mut Node, path: &[Step]) -> Option<()> {
    let (last, parent) = path.split_last()?;
    let parent = walk(tree, parent)?;
    match (last, &mut parent.value) {
        (Step::Key(k), Value::Map(entries)) => {
            let before = entries.len();
            entries.retain(|(key, _)| key.text != *k);
            (entries.len() < before).then_some(())
        }
        (Step::Index(i), Value::List(items)) => {
            let item = items.get_mut(*i)?;
            (!matches!(item.value, Value::Hole)).then(|| item.value = Value::Hole)
        }
        _ => None,
    }
}

fn number<'de, V: Visitor<'de>>(n: &serde_json::Number, visitor: V) -> Result<V::Value, Fault> {
    match (n.as_u64(), n.as_i64(), n.as_f64()) {
        (Some(v), ..) => visitor.visit_u64(v),
        (_, Some(v), _) => visitor.visit_i64(v),
        (.., Some(v)) => visitor.visit_f64(v),
        _ => Err(Fault::wrong("expected a number of at most 64 bits")),
    }
}

macro_rules! numbers {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match &self.value {
                Value::Hole => visitor.visit_u64(0),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null | Value::Hole => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => number(n, visitor),
            Value::Text(s) => visitor.visit_str(s),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0, holes: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
    }

    numbers!(
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_f32,
        deserialize_f64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Hole => visitor.visit_bool(false),
            // YAML 1.1's words, which many still write.
            Value::Text(s) if ["yes", "on"].contains(&s.to_lowercase().as_str()) => visitor.visit_bool(true),
            Value::Text(s) if ["no", "off"].contains(&s.to_lowercase().as_str()) => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match (&self.value, &self.raw) {
            (Value::Hole, _) => visitor.visit_str(""),
            (Value::Null | Value::Bool(_) | Value::Number(_), Some(raw)) => visitor.visit_str(raw),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null | Value::Hole => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            // A list of which everything is commented out.
            Value::Null | Value::Hole => visitor.visit_seq(Items { items: [].iter(), index: 0, holes: 0 }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Hole => visitor.visit_seq(Items { items: [].iter(), index: 0, holes: len }),
            Value::List(items) if items.len() == len => self.deserialize_any(visitor),
            _ => Err(Fault::wrong(format!("expected a list of {len}"))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null | Value::Hole => visitor.visit_map(Entries { entries: [].iter(), value: None }),
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(Fault::wrong("expected a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match (&self.value, &self.raw) {
            (Value::Text(s), _) | (Value::Bool(_) | Value::Number(_), Some(s)) => visitor.visit_enum(Word(s)),
            (Value::Hole, _) => visitor.visit_enum(Word(variants.first().copied().unwrap_or_default())),
            _ => Err(Fault::wrong(format!("expected {}", crate::nearest::one_of(variants)))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple_struct }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
    holes: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if self.holes > 0 {
            self.holes -= 1;
            return seed.deserialize(0u64.into_deserializer()).map(Some);
        }
        let Some(item) = self.items.next() else { return Ok(None) };
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|e| e.below(Step::Index(self.index - 1)))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (super::tree::Key, Node)>,
    value: Option<(&'de str, &'de Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((&key.text, value));
        let deserializer: StringDeserializer<Fault> = key.text.clone().into_deserializer();
        seed.deserialize(deserializer).map(Some).map_err(|e| e.below(Step::Key(key.text.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, value) = self.value.take().ok_or_else(|| Fault::wrong("a key before its value"))?;
        seed.deserialize(value).map_err(|e| e.below(Step::Key(key.to_owned())))
    }
}

struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Fault;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), Fault> {
        let deserializer: StrDeserializer<'_, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(deserializer)?, Unit))
    }
}

/// The configuration's enums are plain words.
struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::wrong("expected a plain word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::wrong("expected a plain word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::wrong("expected a plain word"))
    }
}

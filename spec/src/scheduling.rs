//! How runs are scheduled: whose they are, what they need, and what may be done with them. None of it changes what is
//! trained.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The project of whoever names none.
pub const DEFAULT_PROJECT: &str = "default";
/// Priorities lie between minus this and this.
pub const HIGHEST_PRIORITY: i32 = 1000;

/// `scheduling:` of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduling {
    /// Whose run it is: projects share the cluster by weight and have quotas.
    pub project: String,
    /// Runs of higher priority go first, and may take the slots of lower ones, which then go on later from a checkpoint.
    pub priority: i32,
    /// Whether others may take its slots. Only such a run fills gaps in front of a wider one.
    pub preemptible: bool,
    /// Start with fewer ranks than `trainer.world_size` when there is no room for all, but not with fewer than this.
    /// 0: never with fewer. Sums round differently with another number of ranks, the method stays the same.
    pub min_world_size: u32,
    /// Part of a slot (a GPU, a share of the CPU) that each rank takes: above 0, up to 1.
    pub slot_share: f64,
    /// Main memory that each rank takes, like 8GiB; 0: it is not counted.
    pub memory: Bytes,
    /// Only nodes with these labels, like {zone: a, device: cuda}.
    pub nodes: BTreeMap<String, String>,
    /// The run is stopped with a checkpoint, and has failed, when its attempts took longer than this; 0: no limit.
    pub time_limit: Span,
    /// Names or ids of runs and sweeps that must have succeeded before.
    pub after: Vec<String>,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            project: DEFAULT_PROJECT.into(),
            priority: 0,
            preemptible: true,
            min_world_size: 0,
            slot_share: 1.0,
            memory: Bytes(0),
            nodes: BTreeMap::new(),
            time_limit: Span(Duration::ZERO),
            after: Vec::new(),
        }
    }
}

/// A length of time in whole seconds: `90s`, `30m`, `6h`, `1d12h`, or a plain number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub Duration);

/// An amount of memory: `512MiB`, `8GiB`, `8G` (the same), or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

/// A text that is no [`Span`] or no [`Bytes`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct ParseError(&'static str);

const SPAN: ParseError = ParseError("a time like 90s, 30m, 6h or 1d12h");
const BYTES: ParseError = ParseError("an amount of memory like 512MiB or 8GiB");
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
const SIZES: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if let Ok(seconds) = text.parse() {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        let mut total = 0u64;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SPAN)?;
            let n: u64 = rest[..digits].parse().map_err(|_| SPAN)?;
            let unit = rest[digits..].chars().next().ok_or(SPAN)?;
            let seconds = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SPAN)?.1;
            total = n.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or(SPAN)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        if text.is_empty() { Err(SPAN) } else { Ok(Self(Duration::from_secs(total))) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, seconds) in UNITS {
            if rest >= seconds {
                write!(f, "{}{name}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

impl FromStr for Bytes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let n: u64 = text[..digits].parse().map_err(|_| BYTES)?;
        let unit = text[digits..].trim();
        let short =
            |name: &str| name.strip_suffix("iB").is_some_and(|s| unit == s || unit.strip_suffix('i') == Some(s));
        let shift = match unit {
            "" => 0,
            _ => SIZES.iter().find(|(name, _)| *name == unit || short(name)).ok_or(BYTES)?.1,
        };
        n.checked_mul(1 << shift).map(Self).ok_or(BYTES)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: &u32| self.0 > 0 && self.0.is_multiple_of(1 << shift);
        let (name, shift) = SIZES.iter().find(|(_, shift)| whole(shift)).unwrap_or(&("B", 0));
        write!(f, "{}{name}", self.0 >> shift)
    }
}

/// Reads a number or a text.
struct Quantity<T>(std::marker::PhantomData<T>, ParseError);

impl<T: FromStr<Err = ParseError>> serde::de::Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1.0)
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity(std::marker::PhantomData, SPAN))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity(std::marker::PhantomData, BYTES))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("90s", 90), ("1d12h", 129_600), ("30m", 1800), ("45", 45), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_secs(), seconds);
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for wrong in ["", "6 hours", "h", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_read_and_written() {
        for (text, bytes) in [("512MiB", 512 << 20), ("8GiB", 8 << 30), ("8G", 8 << 30), ("8Gi", 8 << 30), ("100", 100)]
        {
            let memory: Bytes = text.parse().unwrap();
            assert_eq!(memory.0, bytes);
            assert_eq!(memory.to_string().parse(), Ok(memory));
        }
        for wrong in ["", "GiB", "8 apples", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn they_travel_as_texts() {
        let json = r#"{"project":"thorax","time_limit":"6h","memory":"8GiB"}"#;
        let read: Scheduling = serde_json::from_str(json).unwrap();
        assert_eq!((read.time_limit.0.as_secs(), read.memory.0), (21_600, 8 << 30));
        let again: Scheduling = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(again, read);
        assert!(serde_json::from_str::<Scheduling>(r#"{"time_limit":"soon"}"#).is_err());
    }
}

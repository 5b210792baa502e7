//! A strict reader of OpenMetrics' text format (https://prometheus.io/docs/specs/om/open_metrics_spec/): what it takes, Prometheus
//! takes.

use std::collections::{BTreeMap, BTreeSet};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A family of samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// All families by name.
pub type Page = BTreeMap<String, Family>;

/// Reads `text`, or panics with what is wrong and where.
pub fn parse(text: &str) -> Page {
    let mut page = Page::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let [word, name, rest] = meta.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if name != current {
                assert!(!page.contains_key(name), "{name} is in two places");
                assert!(is_name(name), "{line}");
                name.clone_into(&mut current);
            }
            let family = page.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "after samples: {line}");
            match word {
                "HELP" => rest.clone_into(&mut family.help),
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let sample = sample(line);
        let family = page.get_mut(&current).unwrap_or_else(|| panic!("before any family: {line}"));
        let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("not of {current}: {line}"));
        let (suffixes, label): (&[&str], &str) = match family.kind.as_str() {
            "counter" => (&["_total"], ""),
            "gauge" => (&[""], ""),
            "info" => (&["_info"], ""),
            "histogram" => (&["_bucket", "_sum", "_count"], "le"),
            kind => panic!("type {kind:?} of {current}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert_eq!(sample.labels.contains_key("le"), suffix == "_bucket" && label == "le", "{line}");
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
        assert!(family.kind == "gauge" || sample.value >= 0.0, "{line}");
        family.samples.push(sample);
    }
    page.values().filter(|f| f.kind == "histogram").for_each(buckets);
    page.iter().for_each(|(name, f)| assert!(!f.help.is_empty(), "{name} has no help"));
    page
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
    let (name, labels) = match head.split_once('{') {
        None => (head, BTreeMap::new()),
        Some((name, labels)) => (name, self::labels(labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))),
    };
    assert!(is_name(name), "{line}");
    Sample { name: name.to_owned(), labels, value }
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let one = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or_else(|| panic!("{text}"));
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or_else(|| panic!("{text}"));
        assert!(is_name(name) && !value.contains(['"', '\\']), "{text}");
        (name.to_owned(), value.to_owned())
    };
    text.split(',').filter(|p| !p.is_empty()).map(one).collect()
}

/// Buckets rise, the last is +Inf and as many as the count.
fn buckets(family: &Family) {
    let mut series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for s in &family.samples {
        let mut labels = s.labels.clone();
        if let Some(le) = labels.remove("le") {
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            series.entry(labels).or_default().push((le, s.value));
        } else if s.name.ends_with("_count") {
            counts.insert(labels, s.value);
        }
    }
    assert_eq!(series.len(), counts.len());
    for (labels, all) in series {
        assert!(all.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{labels:?} {all:?}");
        assert_eq!(*all.last().unwrap(), (f64::INFINITY, counts[&labels]));
    }
}

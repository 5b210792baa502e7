//! OpenMetrics' text as OTLP's messages, by the rules of OpenTelemetry's "Prometheus and OpenMetrics Compatibility": what is
//! counted once for Prometheus need not be counted again.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric::Data,
        number_data_point,
    },
};

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family of samples that is being read.
#[derive(Debug)]
struct Family {
    name: String,
    help: String,
    unit: String,
    kind: Kind,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<HistogramDataPoint>,
}

/// When the counting began and when it was read.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its beginning, in nanoseconds since the Unix epoch.
    pub start: u64,
    /// Its end, as well.
    pub now: u64,
}

/// The families in `text`, which the encoder of `prometheus-client` wrote. Lines that it does not write are left out.
pub fn metrics(text: &str, span: Span) -> Vec<Metric> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            header(comment, &mut families);
        } else if let (Some((name, labels, value)), Some(family)) = (sample(line), families.last_mut()) {
            family.take(name, labels, value, span);
        }
    }
    families.into_iter().filter_map(Family::metric).collect()
}

fn header(comment: &str, families: &mut Vec<Family>) {
    let mut words = comment.splitn(3, ' ');
    let (Some(what), Some(name)) = (words.next(), words.next()) else { return };
    let rest = words.next().unwrap_or_default();
    if families.last().is_none_or(|f| f.name != name) {
        let family = Family {
            name: name.into(),
            help: String::new(),
            unit: String::new(),
            kind: Kind::Gauge,
            numbers: Vec::new(),
            histograms: Vec::new(),
        };
        families.push(family);
    }
    let Some(family) = families.last_mut() else { return };
    match what {
        "HELP" => family.help = unescaped(rest.trim_end_matches('.')),
        // UCUM's word.
        "UNIT" if rest == "seconds" => family.unit = "s".into(),
        "UNIT" if rest == "bytes" => family.unit = "By".into(),
        "UNIT" => family.unit = rest.into(),
        "TYPE" if rest == "counter" => family.kind = Kind::Counter,
        "TYPE" if rest == "histogram" => family.kind = Kind::Histogram,
        _ => {}
    }
}

/// Names and values.
type Labels = Vec<(String, String)>;

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = value.split_whitespace().next()?;
    Some((name, labels, value.parse().ok()?))
}

/// The labels up to the closing brace, and what comes after it.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = quoted.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        })?;
        labels.push((name.to_owned(), unescaped(&quoted[..end])));
        rest = &quoted[end + 1..];
    }
}

fn unescaped(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let value = |text| Some(AnyValue { value: Some(Value::StringValue(text)) });
    labels.into_iter().map(|(key, text)| KeyValue { key, value: value(text), ..KeyValue::default() }).collect()
}

impl Family {
    fn take(&mut self, name: &str, mut labels: Labels, value: f64, Span { start, now }: Span) {
        if self.kind != Kind::Histogram {
            let value = Some(number_data_point::Value::AsDouble(value));
            let (attributes, start) = (attributes(labels), if self.kind == Kind::Counter { start } else { 0 });
            let point = NumberDataPoint {
                attributes,
                start_time_unix_nano: start,
                time_unix_nano: now,
                value,
                ..NumberDataPoint::default()
            };
            self.numbers.push(point);
            return;
        }
        let le = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
        let attributes = attributes(labels);
        let known = self.histograms.iter().position(|h| h.attributes == attributes);
        let at = known.unwrap_or_else(|| {
            let point = HistogramDataPoint {
                attributes,
                start_time_unix_nano: start,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            };
            self.histograms.push(point);
            self.histograms.len() - 1
        });
        let histogram = &mut self.histograms[at];
        match (name.strip_prefix(self.name.as_str()), le) {
            (Some("_sum"), _) => histogram.sum = Some(value),
            (Some("_count"), _) => histogram.count = value as u64,
            (Some("_bucket"), Some(le)) => {
                // OpenMetrics' buckets hold all that is smaller too, OTLP's do not.
                let below: u64 = histogram.bucket_counts.iter().sum();
                histogram.bucket_counts.push((value as u64).saturating_sub(below));
                if let Some(bound) = le.parse().ok().filter(|bound: &f64| bound.is_finite()) {
                    histogram.explicit_bounds.push(bound);
                }
            }
            _ => {}
        }
    }

    /// `None`: it has no samples.
    fn metric(self) -> Option<Metric> {
        let temporality = AggregationTemporality::Cumulative.into();
        if self.numbers.is_empty() && self.histograms.is_empty() {
            return None;
        }
        let data = match self.kind {
            Kind::Gauge => Data::Gauge(Gauge { data_points: self.numbers }),
            Kind::Counter => {
                Data::Sum(Sum { data_points: self.numbers, aggregation_temporality: temporality, is_monotonic: true })
            }
            Kind::Histogram => {
                Data::Histogram(Histogram { data_points: self.histograms, aggregation_temporality: temporality })
            }
        };
        Some(Metric { name: self.name, description: self.help, unit: self.unit, data: Some(data), ..Metric::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP morph_build The program.
# TYPE morph_build info
morph_build_info{version="0.1.0"} 1
# HELP morph_events Events recorded, by kind.
# TYPE morph_events counter
morph_events_total{kind="run_placed"} 3
morph_events_total{kind="a \"b\\c\"\nd"} 1.5
# HELP morph_commit_seconds Time.
# TYPE morph_commit_seconds histogram
# UNIT morph_commit_seconds seconds
morph_commit_seconds_sum{x="1"} 0.75
morph_commit_seconds_count{x="1"} 6
morph_commit_seconds_bucket{le="0.5",x="1"} 2
morph_commit_seconds_bucket{le="1.0",x="1"} 5
morph_commit_seconds_bucket{le="+Inf",x="1"} 6
# HELP morph_slots Slots.
# TYPE morph_slots gauge
morph_slots -2
# HELP morph_none Nothing yet.
# TYPE morph_none counter
# EOF
"#;

    fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
        let text = |a: &KeyValue| match a.value.clone().and_then(|v| v.value) {
            Some(Value::StringValue(text)) => (a.key.clone(), text),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(text).collect()
    }

    #[test]
    fn families_become_metrics() {
        let all = metrics(TEXT, Span { start: 5, now: 9 });
        let names: Vec<_> = all.iter().map(|m| (m.name.as_str(), m.unit.as_str(), m.description.as_str())).collect();
        let expected = [
            ("morph_build", "", "The program"),
            ("morph_events", "", "Events recorded, by kind"),
            ("morph_commit_seconds", "s", "Time"),
            ("morph_slots", "", "Slots"),
        ];
        assert_eq!(names, expected, "what has no samples is left out");
        let Some(Data::Gauge(build)) = &all[0].data else { panic!("{:?}", all[0]) };
        assert_eq!(texts(&build.data_points[0].attributes), [("version".to_owned(), "0.1.0".to_owned())]);
        let Some(Data::Sum(events)) = &all[1].data else { panic!("{:?}", all[1]) };
        assert!(events.is_monotonic && events.aggregation_temporality == AggregationTemporality::Cumulative as i32);
        assert_eq!((events.data_points[0].start_time_unix_nano, events.data_points[0].time_unix_nano), (5, 9));
        assert_eq!(texts(&events.data_points[1].attributes)[0].1, "a \"b\\c\"\nd");
        assert_eq!(events.data_points[1].value, Some(number_data_point::Value::AsDouble(1.5)));
        let Some(Data::Histogram(commits)) = &all[2].data else { panic!("{:?}", all[2]) };
        let [point] = &commits.data_points[..] else { panic!("{commits:?}") };
        assert_eq!((point.sum, point.count), (Some(0.75), 6));
        assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[0.5, 1.0][..], &[2, 3, 1][..]));
        assert_eq!(texts(&point.attributes), [("x".to_owned(), "1".to_owned())]);
        let Some(Data::Gauge(slots)) = &all[3].data else { panic!("{:?}", all[3]) };
        assert_eq!(slots.data_points[0].value, Some(number_data_point::Value::AsDouble(-2.0)));
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in ["", "x", "x{", "x{a=\"", "x{a=\"b} 1", "# TYPE", "# TYPE a counter\na_total{b=\"c\"} x\n", "a 1"] {
            assert_eq!(metrics(text, Span { start: 0, now: 0 }), [], "{text}");
        }
    }
}

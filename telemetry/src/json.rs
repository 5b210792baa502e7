//! One event as one line of JSON: `{"at":…,"level":…,"program":…,"message":…}` with the fields of the event and of the spans
//! around it beside them, and run, attempt and rank where the process is a rank.

use std::{fmt, sync::OnceLock};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::Identity;

/// The format.
#[derive(Debug)]
pub(crate) struct Json {
    pub(crate) program: &'static str,
    pub(crate) identity: &'static OnceLock<Identity>,
}

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let mut at = String::new();
        SystemTime.format_time(&mut Writer::new(&mut at))?;
        line.insert("at".into(), at.into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("program".into(), self.program.into());
        if let Some(Identity { run, attempt, rank }) = self.identity.get() {
            line.insert("run".into(), run.clone().into());
            line.insert("attempt".into(), (*attempt).into());
            line.insert("rank".into(), (*rank).into());
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(fields))) = fields.map(|f| serde_json::from_str(f.as_str())) {
                line.extend(fields);
            }
        }
        line.insert("target".into(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Adds an event's fields.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{Registry, fmt, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(identity: &'static OnceLock<Identity>, say: impl FnOnce()) -> Vec<Value> {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = fmt::layer()
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(Json { program: "test", identity })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(Registry::default().with(layer), say);
        let bytes = sink.0.lock().unwrap();
        std::str::from_utf8(&bytes).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn a_line_is_an_object_whatever_is_said() {
        static NOBODY: OnceLock<Identity> = OnceLock::new();
        let lines = logged(&NOBODY, || {
            let _span = tracing::info_span!("rank", run = %"01J", attempt = 2u32).entered();
            tracing::warn!(step = 7u64, loss = 0.5, ok = true, "a \"quoted\"\nline with \u{1b}[31m");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(line["message"], "a \"quoted\"\nline with \u{1b}[31m");
        assert_eq!((&line["level"], &line["program"]), (&"WARN".into(), &"test".into()));
        assert_eq!((&line["run"], &line["attempt"]), (&"01J".into(), &2.into()));
        assert_eq!((&line["step"], &line["loss"], &line["ok"]), (&7.into(), &0.5.into(), &true.into()));
        assert!(line["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    }

    #[test]
    fn a_rank_says_who_it_is_from_every_thread() {
        static RANK: OnceLock<Identity> = OnceLock::new();
        RANK.set(Identity { run: "01J".into(), attempt: 3, rank: 1 }).unwrap();
        let lines = logged(&RANK, || tracing::info!("hello"));
        assert_eq!((&lines[0]["run"], &lines[0]["attempt"], &lines[0]["rank"]), (&"01J".into(), &3.into(), &1.into()));
    }
}

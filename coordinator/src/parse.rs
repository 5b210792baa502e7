//! What agents say, from the wire's words into the core's: parsed at the border, or refused with the field's name.

use std::collections::BTreeSet;

use morph_control::{Checkpoint, Exit, Hello, Report, leases};
use morph_proto::v1::{self, report};
use morph_spec::{Digest, Fence, Timestamp};

use crate::store::{Line, Point};

/// A report, sorted by what is done with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// For the core.
    Core(Fence, Report),
    /// How far training is: shown, not kept.
    Progress(Fence, v1::Progress),
    /// Kept beside the events.
    Metrics(Fence, Vec<Point>),
    /// Kept beside the events.
    Lines(Vec<Line>),
    /// The agent is about to leave.
    Leaving,
    /// A kind of report that this version does not know.
    Nothing,
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| format!("{what}: {e}"))
}

/// Most bytes of a metric's name: PostgreSQL must be able to hold it in an index.
const LONGEST_NAME: usize = 255;
/// Most slots of a node: the core keeps account of each.
const MOST_SLOTS: u32 = 4096;
/// A metric's value beyond this says as little as one that is not finite; the sum of any number of others is finite, and is a
/// number that databases can hold.
const LARGEST_VALUE: f64 = 1e200;

/// A number that databases can hold: their integers are signed.
fn number(what: &str, n: u64) -> Result<u64, String> {
    if i64::try_from(n).is_ok() { Ok(n) } else { Err(format!("{what}: {n} is more than {}", i64::MAX)) }
}

fn fence(fence: Option<&v1::Fence>) -> Result<Fence, String> {
    let fence = fence.ok_or("fence: missing")?;
    Ok(Fence { run: parsed("fence.run", &fence.run)?, attempt: fence.attempt })
}

/// Starts of an agent whose journal the next one may go on with: each of them found no coordinator.
const MOST_BEFORE: usize = 10_000;

/// Attempts that an agent may still run: more than it has slots.
const MOST_LIVE: usize = 2 * MOST_SLOTS as usize;
/// Datasets in an agent's cache.
const MOST_CACHED: usize = 1024;
/// Labels of a node.
const MOST_LABELS: usize = 256;
/// Bytes of a name.
const LONGEST: usize = 1024;

/// What is recorded for ever, and printed into logs, is short and has no control characters.
fn word(field: &str, text: &str) -> Result<(), String> {
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(format!("hello.{field}: more than {LONGEST} bytes, or control characters"));
    }
    Ok(())
}

/// An agent's introduction, on a connection with a certificate of the name `certificate`, if that is not empty.
///
/// # Errors
/// Names the field that makes no sense.
pub fn hello(hello: &v1::Hello, certificate: String) -> Result<Hello, String> {
    if hello.incarnation.is_empty() {
        return Err("hello.incarnation: missing".into());
    }
    if hello.slots > MOST_SLOTS {
        return Err(format!("hello.slots: {}, {MOST_SLOTS} are the most", hello.slots));
    }
    if hello.before.len() > MOST_BEFORE {
        return Err(format!("hello.before: {} processes, {MOST_BEFORE} are the most", hello.before.len()));
    }
    for (field, found, most) in [("live", hello.live.len(), MOST_LIVE), ("labels", hello.labels.len(), MOST_LABELS)] {
        if found > most {
            return Err(format!("hello.{field}: {found}, {most} are the most"));
        }
    }
    let labels = hello.labels.iter().flat_map(|(name, value)| [("labels", name), ("labels", value)]);
    let texts = [("host", &hello.host), ("incarnation", &hello.incarnation), ("process", &hello.process)];
    for (field, text) in texts.into_iter().chain(labels) {
        word(field, text)?;
    }
    Ok(Hello {
        worker: parsed("hello.worker", &hello.worker)?,
        incarnation: hello.incarnation.clone(),
        process: hello.process.clone(),
        before: hello.before.clone(),
        host: hello.host.clone(),
        slots: hello.slots,
        version: hello.version.clone(),
        live: hello.live.iter().map(|f| fence(Some(f))).collect::<Result<_, _>>()?,
        cached: datasets("hello.cached", &hello.cached)?,
        labels: hello.labels.clone().into_iter().collect(),
        memory: hello.memory,
        certificate,
    })
}

fn datasets(field: &str, digests: &[String]) -> Result<BTreeSet<Digest>, String> {
    if digests.len() > MOST_CACHED {
        return Err(format!("{field}: {}, {MOST_CACHED} are the most", digests.len()));
    }
    digests.iter().map(|digest| parsed(field, digest)).collect()
}

/// The number of a report, by which it is acknowledged.
///
/// # Errors
/// When it is none that can be recorded.
pub fn seq(report: &v1::Report) -> Result<u64, String> {
    number("report.seq", report.seq)
}

/// A report.
///
/// # Errors
/// Names the field that makes no sense.
pub fn report(report: report::Report) -> Result<Said, String> {
    use report::Report as R;
    Ok(match report {
        R::Ready(r) => {
            let cached = datasets("ready.cached", &r.cached)?;
            let report = Report::RankReady { rank: r.rank, step: r.step, total_steps: r.total_steps, cached };
            Said::Core(fence(r.fence.as_ref())?, report)
        }
        R::Store(s) => Said::Core(fence(s.fence.as_ref())?, Report::StoreReady { address: s.address }),
        R::Checkpoint(c) => {
            let fence = fence(c.fence.as_ref())?;
            let c = c.checkpoint.ok_or("checkpoint: missing")?;
            Said::Core(
                fence,
                Report::Checkpoint(Checkpoint {
                    url: c.url,
                    digest: parsed("checkpoint.digest", &c.digest)?,
                    step: c.step,
                    epoch: c.epoch,
                    attempt: fence.attempt,
                    bytes: c.bytes,
                    score: c.score.filter(|s| s.is_finite()),
                    best: c.best,
                    at: Timestamp(c.at),
                }),
            )
        }
        R::Evaluated(e) => {
            let summary = e.summary.into_iter().filter(|(_, v)| v.is_finite()).collect();
            let report = Report::Evaluated { summary, summary_json: e.summary_json, artifacts: e.artifacts };
            Said::Core(fence(e.fence.as_ref())?, report)
        }
        R::Exited(e) => {
            let exit = match e.exit() {
                v1::Exit::Succeeded => Exit::Succeeded,
                v1::Exit::Stopped => Exit::Stopped,
                v1::Exit::PeerLost => Exit::PeerLost,
                v1::Exit::User => Exit::User,
                v1::Exit::Crashed => Exit::Crashed,
                v1::Exit::NoCheckpoint => Exit::NoCheckpoint,
                v1::Exit::Infra | v1::Exit::Unspecified => Exit::Infra,
            };
            Said::Core(fence(e.fence.as_ref())?, Report::RankExited { rank: e.rank, exit, error: e.error })
        }
        R::NotHere(n) => Said::Core(fence(n.fence.as_ref())?, Report::NotHere),
        R::Leaving(_) => Said::Leaving,
        R::Progress(p) => Said::Progress(fence(p.fence.as_ref())?, p),
        R::Metrics(m) => {
            let points = m.points.into_iter().filter(|p| p.value.abs() <= LARGEST_VALUE).map(point);
            Said::Metrics(fence(m.fence.as_ref())?, points.collect::<Result<_, _>>()?)
        }
        R::Logs(l) => Said::Lines(l.lines.into_iter().map(line).collect::<Result<_, _>>()?),
    })
}

/// Lines for people in one report of a shard, and bytes of one.
const MOST_NOTES: usize = 1000;
const LONGEST_NOTE: usize = 2000;

/// What an agent says of a shard: of which preparation, of which shard, what, and lines for people.
///
/// # Errors
/// Names the field that makes no sense.
pub fn shard(report: v1::ShardReport) -> Result<(Digest, String, leases::Said, Vec<String>), String> {
    use leases::Said;
    use v1::shard_report::Said as S;
    let v1::ShardReport { key, shard, notes, said } = report;
    let cut = |mut line: String| {
        line.truncate(line.floor_char_boundary(LONGEST_NOTE));
        line
    };
    let said = match said.ok_or("shard.said: missing")? {
        S::Working(images) => Said::Working(images),
        S::Made(_) => Said::Made,
        S::Refused(why) => Said::Refused(cut(why)),
        S::Failed(why) => Said::Failed(cut(why)),
    };
    Ok((parsed("shard.key", &key)?, shard, said, notes.into_iter().take(MOST_NOTES).map(cut).collect()))
}

fn point(p: v1::MetricPoint) -> Result<Point, String> {
    let v1::MetricPoint { step, at, name, value } = p;
    if name.len() > LONGEST_NAME {
        return Err(format!("point.name: {} bytes, {LONGEST_NAME} are the most", name.len()));
    }
    Ok(Point { step: number("point.step", step)?, at: number("point.at", at)?, name, value })
}

fn line(line: v1::LogLine) -> Result<Line, String> {
    Ok(Line {
        fence: Fence { run: parsed("line.run", &line.run)?, attempt: line.attempt },
        rank: line.rank,
        seq: number("line.seq", line.seq)?,
        at: number("line.at", line.at)?,
        stream: line.stream,
        text: line.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "01J00000000000000000000000";

    #[test]
    fn what_makes_no_sense_is_named() {
        let bad = v1::Hello { worker: "nobody".into(), incarnation: "a".into(), ..v1::Hello::default() };
        assert!(hello(&bad, String::new()).unwrap_err().contains("hello.worker"));
        let many = v1::Hello { slots: MOST_SLOTS + 1, ..bad.clone() };
        assert!(hello(&many, String::new()).unwrap_err().contains("hello.slots"));
        let loud = v1::Hello { host: "a\nfake log line".into(), ..bad.clone() };
        assert!(hello(&loud, String::new()).unwrap_err().contains("hello.host"));
        let labels = [("x".repeat(LONGEST + 1), "y".to_owned())].into();
        assert!(hello(&v1::Hello { labels, ..bad.clone() }, String::new()).unwrap_err().contains("hello.labels"));
        let cached = vec![Digest::of(b"x").to_string(); MOST_CACHED + 1];
        let cached = v1::Hello { cached, worker: RUN.into(), ..bad.clone() };
        assert!(hello(&cached, String::new()).unwrap_err().contains("hello.cached: 1025"));
        let live = vec![v1::Fence { run: RUN.into(), attempt: 1 }; MOST_LIVE + 1];
        assert!(hello(&v1::Hello { live, ..bad }, String::new()).unwrap_err().contains("hello.live"));
        assert!(report(report::Report::Store(v1::StoreReady::default())).unwrap_err().contains("fence"));
    }

    #[test]
    fn numbers_that_are_none_are_left_out() {
        let fence = Some(v1::Fence { run: RUN.into(), attempt: 1 });
        let point = |value| v1::MetricPoint { step: 1, at: 2, name: "x".into(), value };
        let points = [f64::NAN, 1.0, f64::INFINITY, f64::MIN].map(point).to_vec();
        let metrics = v1::Metrics { fence, points };
        let Said::Metrics(_, points) = report(report::Report::Metrics(metrics)).unwrap() else { panic!("metrics") };
        assert_eq!(points.len(), 1);
    }

    #[test]
    fn what_no_database_can_hold_is_refused() {
        let fence = || Some(v1::Fence { run: RUN.into(), attempt: 1 });
        let good = v1::MetricPoint { step: 1, at: 2, name: "x".into(), value: 1.0 };
        let said = |point| report(report::Report::Metrics(v1::Metrics { fence: fence(), points: vec![point] }));
        assert!(said(good.clone()).is_ok());
        assert!(said(v1::MetricPoint { step: u64::MAX, ..good.clone() }).unwrap_err().contains("point.step"));
        assert!(said(v1::MetricPoint { at: 1 << 63, ..good.clone() }).unwrap_err().contains("point.at"));
        assert!(said(v1::MetricPoint { name: "x".repeat(256), ..good }).unwrap_err().contains("point.name"));
        let line = v1::LogLine { run: RUN.into(), seq: u64::MAX, ..v1::LogLine::default() };
        let logs = v1::Logs { lines: vec![line] };
        assert!(report(report::Report::Logs(logs)).unwrap_err().contains("line.seq"));
        let last = |seq| super::seq(&v1::Report { seq, report: None });
        assert_eq!(last(7), Ok(7));
        assert!(last(1 << 63).unwrap_err().contains("report.seq"));
    }

    #[test]
    fn what_is_said_of_a_shard_is_held_short() {
        let why = "ä".repeat(LONGEST_NOTE);
        let said = Some(v1::shard_report::Said::Failed(why));
        let key = Digest([1; 32]).to_string();
        let report = v1::ShardReport { key, shard: "s".into(), notes: vec!["x".into(); 5000], said };
        let (_, _, said, notes) = shard(report.clone()).unwrap();
        assert!(matches!(said, leases::Said::Failed(why) if why.len() == LONGEST_NOTE));
        assert_eq!(notes.len(), MOST_NOTES);
        let bad = v1::ShardReport { key: "x".into(), ..report.clone() };
        assert!(shard(bad).unwrap_err().contains("shard.key"));
        assert!(shard(v1::ShardReport { said: None, ..report }).unwrap_err().contains("shard.said"));
    }

    #[test]
    fn an_unknown_way_to_end_is_worth_another_try() {
        let fence = Some(v1::Fence { run: RUN.into(), attempt: 1 });
        let exited = v1::RankExited { fence, exit: 99, ..v1::RankExited::default() };
        let said = report(report::Report::Exited(exited)).unwrap();
        assert!(matches!(said, Said::Core(_, Report::RankExited { exit: Exit::Infra, .. })));
    }
}

//! Reports that the coordinator has not acknowledged yet: kept in memory, in order, sent again after a reconnect.

use std::collections::VecDeque;

use morph_proto::v1::{self, report::Report};
use prost::Message as _;

/// Above this many bytes the agent stops listening to its ranks, which then wait: nothing is lost.
const FULL: usize = 256 << 20;
/// Above this many bytes log lines are counted instead of kept.
const LOGS_FULL: usize = 32 << 20;
/// A report that has not been sent yet grows to at most this many points or lines.
const MERGE: usize = 512;

/// Unacknowledged reports of one incarnation.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Each with its size in bytes.
    reports: VecDeque<(v1::Report, usize)>,
    /// Sequence number of the newest report.
    last: u64,
    /// Highest number sent on the present connection.
    sent: u64,
    /// Highest number sent on any connection: what was sent under a number never changes.
    ever_sent: u64,
    bytes: usize,
    dropped_logs: u64,
}

impl Outbox {
    /// Appends a report.
    pub fn push(&mut self, report: Report) {
        if self.merge(&report) {
            return;
        }
        self.last += 1;
        let report = v1::Report { seq: self.last, report: Some(report) };
        let size = report.encoded_len();
        self.bytes += size;
        self.reports.push_back((report, size));
    }

    /// Appends a log line, unless too much waits already.
    pub fn push_log(&mut self, mut line: v1::LogLine) {
        if self.bytes > LOGS_FULL {
            self.dropped_logs += 1;
            return;
        }
        if self.dropped_logs > 0 {
            line.text =
                format!("[{} lines were dropped while the coordinator was away] {}", self.dropped_logs, line.text);
            self.dropped_logs = 0;
        }
        self.push(Report::Logs(v1::Logs { lines: vec![line] }));
    }

    /// Puts `report` into the newest one when that is of the same kind and was not sent yet.
    fn merge(&mut self, report: &Report) -> bool {
        if self.last <= self.ever_sent {
            return false;
        }
        let Some((v1::Report { report: Some(newest), .. }, size)) = self.reports.back_mut() else { return false };
        let added = match (newest, report) {
            (Report::Logs(a), Report::Logs(b)) if a.lines.len() + b.lines.len() <= MERGE => {
                a.lines.extend(b.lines.iter().cloned());
                b.encoded_len()
            }
            (Report::Metrics(a), Report::Metrics(b))
                if a.fence == b.fence && a.points.len() + b.points.len() <= MERGE =>
            {
                a.points.extend(b.points.iter().cloned());
                b.encoded_len()
            }
            (Report::Progress(a), Report::Progress(b)) if a.fence == b.fence => {
                *a = b.clone();
                0
            }
            _ => return false,
        };
        *size += added;
        self.bytes += added;
        true
    }

    /// The coordinator has everything up to `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while let Some((_, size)) = self.reports.pop_front_if(|(r, _)| r.seq <= seq) {
            self.bytes -= size;
        }
        self.sent = self.sent.max(seq.min(self.last));
    }

    /// A new connection: everything that is not acknowledged must be sent again.
    pub fn rewind(&mut self) {
        self.sent = self.reports.front().map_or(self.last, |(r, _)| r.seq - 1);
    }

    /// The next report to send on this connection.
    pub fn take(&mut self) -> Option<v1::Report> {
        let first = self.reports.front()?.0.seq;
        let (report, _) = self.reports.get(usize::try_from((self.sent + 1).checked_sub(first)?).ok()?)?;
        self.sent = report.seq;
        self.ever_sent = self.ever_sent.max(report.seq);
        Some(report.clone())
    }

    /// Whether [`Self::take`] has something.
    pub fn unsent(&self) -> bool {
        self.sent < self.last
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Whether so much waits that the ranks must wait too.
    pub fn is_full(&self) -> bool {
        self.bytes > FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64) -> Report {
        let fence = Some(v1::Fence { run: "r".into(), attempt: 1 });
        let point = v1::MetricPoint { step, at: 0, name: "train/loss".into(), value: 1.0 };
        Report::Metrics(v1::Metrics { fence, points: vec![point] })
    }

    fn ready(rank: u32) -> Report {
        Report::Ready(v1::RankReady { fence: None, rank, step: 0, total_steps: 0 })
    }

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take().map(|r| r.seq)).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        (0..4).for_each(|r| outbox.push(ready(r)));
        assert_eq!(drain(&mut outbox), [1, 2, 3, 4]);
        outbox.acknowledge(2);
        assert!(!outbox.unsent());
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [3, 4]);
        outbox.push(ready(9));
        assert_eq!(drain(&mut outbox), [5]);
        outbox.acknowledge(5);
        assert!(outbox.is_empty() && !outbox.unsent());
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [0u64; 0]);
        outbox.push(ready(1));
        assert_eq!(drain(&mut outbox), [6]);
    }

    #[test]
    fn an_acknowledgement_of_the_last_connection_counts_before_anything_is_sent() {
        let mut outbox = Outbox::default();
        (0..3).for_each(|r| outbox.push(ready(r)));
        outbox.acknowledge(2);
        assert_eq!(drain(&mut outbox), [3]);
    }

    #[test]
    fn only_unsent_reports_grow() {
        let mut outbox = Outbox::default();
        outbox.push(metric(1));
        outbox.push(metric(2));
        let Some(Report::Metrics(first)) = outbox.take().and_then(|r| r.report) else { panic!("metrics first") };
        assert_eq!(first.points.len(), 2);
        outbox.push(metric(3));
        assert_eq!(drain(&mut outbox), [2], "what was sent under a number never changes");
        outbox.rewind();
        outbox.push(metric(4));
        assert_eq!(drain(&mut outbox), [1, 2, 3], "not on another connection either");
    }

    #[test]
    fn logs_are_counted_when_too_many_wait() {
        let mut outbox = Outbox::default();
        let line = v1::LogLine { text: "x".repeat(1 << 20), ..v1::LogLine::default() };
        (0..100).for_each(|_| outbox.push_log(line.clone()));
        assert!(outbox.dropped_logs > 0 && !outbox.is_full());
        outbox.take();
        outbox.acknowledge(1000);
        outbox.push_log(v1::LogLine::default());
        let Some(Report::Logs(logs)) = outbox.take().and_then(|r| r.report) else { panic!("logs") };
        assert!(logs.lines[0].text.contains("lines were dropped"), "{}", logs.lines[0].text);
    }
}

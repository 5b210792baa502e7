//! Reports that the coordinator has not acknowledged yet: kept in memory, in order, sent again after a reconnect.

use std::collections::VecDeque;

use super::{Letter, Line, journal::Entry};
use crate::sabotage::{Mechanism, is_broken};

/// Above this many bytes the agent stops listening to its ranks, which then wait: nothing is lost.
const FULL: usize = 256 << 20;
/// Above this many bytes log lines are counted instead of kept.
const LOGS_FULL: usize = 32 << 20;

#[derive(Debug)]
struct Sealed<L> {
    seq: u64,
    letter: L,
    bytes: usize,
}

/// Unacknowledged reports of one incarnation.
#[derive(Debug)]
pub(super) struct Outbox<L> {
    reports: VecDeque<Sealed<L>>,
    /// Sequence number of the newest report.
    last: u64,
    /// Highest number sent on the present connection.
    sent: u64,
    /// Highest number sent on any connection: what was sent under a number never changes.
    ever_sent: u64,
    bytes: usize,
    dropped_logs: u64,
    /// What the agent's disk does not know yet; `None`: it need not know.
    pub journal: Option<Vec<Entry<L>>>,
}

impl<L> Default for Outbox<L> {
    fn default() -> Self {
        Self { reports: VecDeque::new(), last: 0, sent: 0, ever_sent: 0, bytes: 0, dropped_logs: 0, journal: None }
    }
}

impl<L: Letter> Outbox<L> {
    /// Appends a report.
    pub fn push(&mut self, letter: L) {
        let kept = self.journal.is_some() && !is_broken(Mechanism::Journal);
        let copy = kept.then(|| letter.clone());
        self.add(letter);
        if let Some(letter) = copy {
            self.note(Entry::Report { seq: self.last, letter });
        }
    }

    /// For the journal, if there is one.
    pub fn note(&mut self, entry: Entry<L>) {
        if let Some(journal) = &mut self.journal {
            journal.push(entry);
        }
    }

    /// What an agent must remember of this to go on where it was.
    pub fn entries(&self) -> impl Iterator<Item = Entry<L>> + '_ {
        let reports = self.reports.iter().map(|r| Entry::Report { seq: r.seq, letter: r.letter.clone() });
        [Entry::Numbered(self.last)].into_iter().chain(reports)
    }

    /// Puts back what an agent remembered. All of it may have been sent.
    pub fn put_back(&mut self, entry: Entry<L>) {
        match entry {
            Entry::Report { seq, letter } => {
                let newest = self.reports.back_mut().filter(|newest| newest.seq == seq);
                let added = newest.and_then(|n| n.letter.merge(&letter).inspect(|added| n.bytes += added));
                self.bytes += added.unwrap_or_else(|| letter.size());
                if added.is_none() {
                    let bytes = letter.size();
                    self.reports.push_back(Sealed { seq, letter, bytes });
                }
                self.last = self.last.max(seq);
            }
            Entry::Numbered(last) => self.last = self.last.max(last),
            Entry::Started(_) | Entry::Ended(_) | Entry::Stopped(_) => {}
        }
        self.ever_sent = self.last;
    }

    fn add(&mut self, letter: L) {
        if (self.last > self.ever_sent || is_broken(Mechanism::SealedReports))
            && let Some(newest) = self.reports.back_mut()
            && let Some(added) = newest.letter.merge(&letter)
        {
            newest.bytes += added;
            self.bytes += added;
            return;
        }
        self.last += 1;
        let bytes = letter.size();
        self.bytes += bytes;
        self.reports.push_back(Sealed { seq: self.last, letter, bytes });
    }

    /// Appends a log line, unless too much waits already.
    pub fn push_log(&mut self, mut line: Line) {
        if self.bytes > LOGS_FULL {
            self.dropped_logs += 1;
            return;
        }
        if self.dropped_logs > 0 {
            line.text =
                format!("[{} lines were dropped while the coordinator was away] {}", self.dropped_logs, line.text);
            self.dropped_logs = 0;
        }
        self.push(L::line(line));
    }

    /// The coordinator has everything up to `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while let Some(known) = self.reports.pop_front_if(|r| r.seq <= seq) {
            self.bytes -= known.bytes;
        }
        self.sent = self.sent.max(seq.min(self.last));
    }

    /// A new connection: everything that is not acknowledged must be sent again.
    pub fn rewind(&mut self) {
        if is_broken(Mechanism::Resend) {
            return;
        }
        self.sent = self.reports.front().map_or(self.last, |r| r.seq - 1);
    }

    /// The next report to send on this connection.
    pub fn take(&mut self) -> Option<(u64, L)> {
        let first = self.reports.front()?.seq;
        let report = self.reports.get(usize::try_from((self.sent + 1).checked_sub(first)?).ok()?)?;
        self.sent = report.seq;
        self.ever_sent = self.ever_sent.max(report.seq);
        Some((report.seq, report.letter.clone()))
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
    use crate::agent::tests::{Mail, key};

    fn metric(step: u64) -> Mail {
        Mail::Steps(vec![step])
    }

    fn ready(rank: u32) -> Mail {
        Mail::Ready(rank)
    }

    fn drain(outbox: &mut Outbox<Mail>) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take().map(|(seq, _)| seq)).collect()
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
        assert_eq!(outbox.take(), Some((1, Mail::Steps(vec![1, 2]))));
        outbox.push(metric(3));
        assert_eq!(drain(&mut outbox), [2], "what was sent under a number never changes");
        outbox.rewind();
        outbox.push(metric(4));
        assert_eq!(drain(&mut outbox), [1, 2, 3], "not on another connection either");
    }

    #[test]
    fn logs_are_counted_when_too_many_wait() {
        let mut outbox = Outbox::default();
        let line = |text: String| Line { key: key(1, 0), seq: 0, at: 0, stream: "stderr", text };
        (0..100).for_each(|_| outbox.push_log(line("x".repeat(1 << 20))));
        assert!(outbox.dropped_logs > 0 && !outbox.is_full());
        outbox.take();
        outbox.acknowledge(1000);
        outbox.push_log(line("y".into()));
        let Some((_, Mail::Lines(lines))) = outbox.take() else { panic!("logs") };
        assert!(lines[0].text.contains("lines were dropped"), "{}", lines[0].text);
    }
}

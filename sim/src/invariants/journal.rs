//! What was sent under a number never changes, and an agent's disk knows all that its coordinator has not heard.

use morph_control::agent::{Agent, Entry, Heard};

use super::Truth;
use crate::mail::Mail;

/// All that `agent` would say to a coordinator that has heard nothing.
fn unheard(mut agent: Agent<Mail>) -> Vec<(u64, Mail)> {
    drop(agent.hear::<()>(Heard::Welcome { acked: 0 }, 0));
    std::iter::from_fn(|| agent.next_report()).collect()
}

impl Truth {
    /// An agent sends a report.
    pub fn sent(&mut self, node: usize, incarnation: u64, seq: u64, mail: &Mail) {
        let known = self.sent.entry((node, incarnation)).or_default().entry(seq).or_insert_with(|| mail.clone());
        if known != mail {
            let what =
                format!("journal: node {node} has sent {mail:?} under number {seq}, where it had sent {known:?}");
            self.unlike.get_or_insert(what);
        }
    }

    /// `twin` begins with a copy of the home of `node`, and with what that says.
    pub fn forked(&mut self, node: usize, twin: usize) {
        let said: Vec<_> = self.sent.range((node, 0)..=(node, u64::MAX)).map(|((_, i), s)| (*i, s.clone())).collect();
        self.sent.extend(said.into_iter().map(|(incarnation, sent)| ((twin, incarnation), sent)));
    }

    /// An agent has died that kept a journal: the next one has as much to say.
    pub fn left_behind(&mut self, node: usize, dead: Agent<Mail>, journal: &[Entry<Mail>]) {
        let (mut next, had) = (unheard(Agent::recovered(journal.iter().cloned())), unheard(dead));
        // That it is about to leave is its own.
        next.pop();
        // Nor does the disk know what was acknowledged; the coordinator does.
        let first = had.first().map_or(u64::MAX, |(seq, _)| *seq);
        next.retain(|(seq, _)| *seq >= first);
        if next != had {
            let what = format!("journal: the agent of node {node} had {had:?} to say, the next one has {next:?}");
            self.unlike.get_or_insert(what);
        }
    }
}

/// When everything is over.
///
/// # Errors
/// When it was not so.
pub fn kept(truth: &Truth) -> Result<(), String> {
    truth.unlike.clone().map_or(Ok(()), Err)
}

//! What an agent writes to its disk while the coordinator has not heard everything, so that what its ranks reported is
//! delivered even when the agent dies meanwhile: once, under the incarnation and the numbers that it had.

use morph_spec::Fence;

use super::{Agent, Key, Letter, Mode};

/// One thing to remember.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry<L> {
    /// Reports up to this number were given out.
    Numbered(u64),
    /// A report that is not acknowledged, or what was added to the newest before it was sent.
    Report {
        /// Its number.
        seq: u64,
        /// The report, or the addition.
        letter: L,
    },
    /// A rank runs here.
    Started(Key),
    /// A rank has ended, and must not be started again.
    Ended(Key),
    /// An attempt was ordered to stop, and must not be started any more.
    Stopped(Fence),
}

impl<L: Letter> Agent<L> {
    /// Begins a journal: all that there is to remember now. What follows, [`Self::journal`] has.
    pub fn remember(&mut self) -> Vec<Entry<L>> {
        self.outbox.journal = Some(Vec::new());
        let ended = self.ended.iter().map(|k| Entry::Ended(*k));
        let stopped = self.stopped.iter().map(|f| Entry::Stopped(*f));
        let started = self.ranks.keys().map(|k| Entry::Started(*k));
        ended.chain(stopped).chain(started).chain(self.outbox.entries()).collect()
    }

    /// What is new since the last time; it must be on the disk before anybody else learns of it.
    pub fn journal(&mut self) -> Vec<Entry<L>> {
        self.outbox.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether the coordinator has heard everything.
    pub fn is_settled(&self) -> bool {
        self.welcomed && self.outbox.is_empty()
    }

    /// Whether there is something that the coordinator is not known to have heard.
    pub fn owes(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Ends the journal: the agent [`Self::is_settled`], or nothing can be written.
    pub fn forget(&mut self) {
        self.outbox.journal = None;
    }

    /// The agent that wrote `entries`, after it has died and its ranks with it: it says what was still to be said, starts
    /// nothing, and is [`Self::done`] when all is acknowledged. That its ranks are lost the coordinator notices when the
    /// next incarnation does not have them. Its own journal goes on where `entries` end.
    pub fn recovered(entries: impl IntoIterator<Item = Entry<L>>) -> Self {
        let mut agent = Self { mode: Mode::Leaving, ..Self::default() };
        for entry in entries {
            match entry {
                Entry::Started(key) | Entry::Ended(key) => drop(agent.ended.insert(key)),
                Entry::Stopped(fence) => drop(agent.stopped.insert(fence)),
                other => agent.outbox.put_back(other),
            }
        }
        agent.outbox.journal = Some(Vec::new());
        // Or it would be given ranks to start before it is done.
        agent.outbox.push(L::leaving());
        agent
    }
}

//! The state in pieces of text, so that a restart need not begin with the oldest event.
//!
//! A snapshot is a cache of the history and never more: what is in it follows from the events, and only the build that made it
//! ([`BUILD`]) may read it, because another one may fold the same events to something else.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use morph_spec::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    Cluster, Dataset, Policy, Run, Submission, Sweep, Worker,
    sabotage::{Mechanism, is_broken},
    test_use::Tested,
};

/// Which sources fold events in this build.
pub const BUILD: &str = env!("MORPH_FOLD");

/// A piece of a state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one lives at a time")]
pub enum Piece<'a> {
    /// A dataset.
    Dataset(Cow<'a, Dataset>),
    /// Folders of datasets.
    Urls(Cow<'a, BTreeMap<String, Digest>>),
    /// A worker.
    Worker(Cow<'a, Worker>),
    /// A sweep.
    Sweep(Cow<'a, Sweep>),
    /// A run; the oldest comes first.
    Run(Cow<'a, Run>),
    /// Submission keys.
    Keys(Cow<'a, BTreeMap<String, Submission>>),
    /// How often checkpoints were scored by hand on what.
    Rescored(Vec<(Cow<'a, Tested>, u32)>),
    /// Why nothing is started.
    Draining(Option<String>),
}

impl Cluster {
    /// Everything that is history, in the order in which [`Restore`] takes it.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let datasets = self.datasets.values().map(|d| Piece::Dataset(Cow::Borrowed(d)));
        let workers = self.workers.values().map(|w| Piece::Worker(Cow::Borrowed(w)));
        let sweeps = self.sweeps.values().map(|s| Piece::Sweep(Cow::Borrowed(s)));
        let runs = self.in_order().map(|r| Piece::Run(Cow::Borrowed(r)));
        let rest = [
            Piece::Urls(Cow::Borrowed(&self.urls)),
            Piece::Keys(Cow::Borrowed(&self.keys)),
            Piece::Draining(self.draining.clone()),
        ];
        let rescored = || Piece::Rescored(self.rescored.iter().map(|(test, n)| (Cow::Borrowed(test), *n)).collect());
        // Histories of before have none.
        let rescored = (!self.rescored.is_empty()).then(rescored);
        datasets.chain(workers).chain(sweeps).chain(runs).chain(rest).chain(rescored)
    }
}

/// A state that is being put together again.
#[derive(Debug)]
pub struct Restore(Cluster);

impl Restore {
    /// Of nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self(Cluster::new(policy))
    }

    /// Puts in the next piece.
    pub fn put(&mut self, piece: Piece<'_>) {
        let Self(cluster) = self;
        match piece {
            Piece::Dataset(dataset) => {
                cluster.datasets.insert(dataset.digest, Arc::new(dataset.into_owned()));
            }
            Piece::Urls(urls) => cluster.urls = urls.into_owned(),
            Piece::Worker(worker) => cluster.remember(worker.into_owned()),
            Piece::Sweep(sweep) => {
                let sweep = sweep.into_owned();
                cluster.index.sweep_names.insert(sweep.name.clone(), sweep.id);
                cluster.sweeps.insert(sweep.id, sweep);
            }
            Piece::Run(run) => {
                cluster.order.push(run.id);
                cluster.index.name_run(&run.name, run.id);
                cluster.index.add(&cluster.policy, &run);
                cluster.runs.insert(run.id, run.into_owned());
            }
            Piece::Keys(keys) => cluster.keys = keys.into_owned(),
            Piece::Rescored(all) => cluster.rescored = all.into_iter().map(|(t, n)| (t.into_owned(), n)).collect(),
            Piece::Draining(why) => cluster.draining = why,
        }
    }

    /// The state, when all pieces are in.
    pub fn done(self) -> Cluster {
        let Self(mut cluster) = self;
        for sweep in cluster.sweeps.values().filter(|s| !s.runs.is_empty()) {
            cluster.index.sweep_ended(sweep.id, sweep.end);
        }
        cluster
    }
}

impl Cluster {
    fn remember(&mut self, worker: Worker) {
        if !is_broken(Mechanism::Snapshot) {
            self.index.place(worker.id, worker.state);
        }
        if worker.is_struck() {
            self.index.struck.insert(worker.id);
        }
        self.workers.insert(worker.id, worker);
    }
}

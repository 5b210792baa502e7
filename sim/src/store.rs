//! The object store: slow, sometimes failing, sometimes having done what it says it has not.

use std::collections::BTreeMap;

use morph_spec::Rng;

/// How an attempt to write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Written, or there already.
    Done,
    /// An error; `written`: although it was.
    Failed { written: bool },
}

/// See the module.
#[derive(Debug, Default)]
pub struct ObjectStore {
    /// Checkpoints: URL → step and weights.
    objects: BTreeMap<String, (u64, u64)>,
    /// Everything fails until then (microseconds).
    pub down_until: u64,
    /// Chance of an error, in thousandths.
    pub flaky: u64,
}

impl ObjectStore {
    /// An empty one that fails `flaky` times of a thousand.
    pub fn new(flaky: u64) -> Self {
        Self { flaky, ..Self::default() }
    }

    /// Writes unless it is there: the first one stays.
    pub fn put(&mut self, now: u64, rng: &mut Rng, url: &str, step: u64, weights: u64) -> Put {
        if now < self.down_until {
            return Put::Failed { written: false };
        }
        let failed = rng.below(1000) < self.flaky;
        let written = !failed || rng.below(2) == 0;
        if written {
            self.objects.entry(url.to_owned()).or_insert((step, weights));
        }
        if failed { Put::Failed { written } } else { Put::Done }
    }

    /// What lies at `url`.
    pub fn get(&self, url: &str) -> Option<(u64, u64)> {
        self.objects.get(url).copied()
    }

    /// What lies in the folder `url`, which ends with a slash: the URL and step of each checkpoint.
    pub fn list(&self, url: &str) -> impl Iterator<Item = (&str, u64)> {
        let from = self.objects.range(url.to_owned()..);
        from.take_while(move |(found, _)| found.starts_with(url)).map(|(found, (step, _))| (found.as_str(), *step))
    }

    /// Removes `url`.
    pub fn delete(&mut self, url: &str) {
        self.objects.remove(url);
    }
}

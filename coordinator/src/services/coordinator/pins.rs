//! What runs are scored on beside their own dataset, as it lay there when they were submitted.

use std::collections::{BTreeMap, btree_map::Entry};

use morph_spec::{Digest, Experiment};
use tonic::Status;

use super::Coordinator;

impl Coordinator {
    /// Adds the digests of the other datasets that `experiment` is scored on to `pins`, by their folders. Those that it brings must be
    /// what lies there.
    pub(super) async fn pin(&self, experiment: &Experiment, pins: &mut BTreeMap<String, Digest>) -> Result<(), Status> {
        for url in experiment.evaluation.elsewhere() {
            let wanted = experiment.evaluation.digests.get(&url).copied();
            let found = match pins.entry(url.clone()) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(self.manifest(&url).await?.1),
            };
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(Status::failed_precondition(format!(
                    "evaluation.comparisons: the dataset at {url} is not the one that was asked for: its digest is {found}, not {wanted}"
                )));
            }
        }
        Ok(())
    }
}

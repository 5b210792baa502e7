//! From samples to tensors, and the sets of samples that a run needs.

use std::path::Path;

use morph_data::Samples;
use morph_objects::{NodeCache, Objects};
use morph_spec::{Digest, Experiment, Manifest};
use tch::{Kind, Tensor};

use crate::rank::{failure::Failure, group::Place};

/// All samples of one run.
#[derive(Debug)]
pub struct Sets {
    /// Trained on.
    pub train: Samples,
    /// Early stopping and model selection.
    pub validation: Samples,
    /// Scored.
    pub test: TestSets,
}

/// The samples that are scored.
#[derive(Debug)]
pub struct TestSets {
    /// The negative set.
    pub healthy: Samples,
    /// The positive sets, by name.
    pub pathology: Vec<(String, Samples)>,
}

/// A dataset that can be read here.
#[derive(Debug)]
pub struct Dataset {
    folder: Objects,
    manifest: Manifest,
    /// BLAKE3 of the manifest.
    pub digest: Digest,
    cache: NodeCache,
}

impl Dataset {
    /// Reads the manifest in the folder `url` and opens the node's cache at `cache`. With `expected`, the manifest must be
    /// that one.
    ///
    /// # Errors
    /// When there is no dataset, or another than the run was submitted with.
    pub async fn open(url: &str, expected: Option<Digest>, cache: &Path, cache_bytes: u64) -> Result<Self, Failure> {
        let folder = Objects::open(url)?;
        let (manifest, digest) = morph_data::manifest::read(&folder).await?;
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(Failure::User(format!(
                "{url}: the dataset has changed since the run was submitted: its manifest is {digest}, it was {expected}; \
                 submit the run again"
            )));
        }
        let cache = NodeCache::open(cache, cache_bytes)?;
        Ok(Self { folder, manifest, digest, cache })
    }

    /// All samples that `experiment` names. An empty set is an error now, not after hours of training.
    ///
    /// # Errors
    /// When a set is empty, a shard is missing or corrupt, or images are of another size than the model's.
    pub async fn sets(&self, experiment: &Experiment) -> Result<Sets, Failure> {
        let [height, width] = self.manifest.image_size;
        let side = experiment.model.image_size;
        if [height, width] != [side, side] {
            return Err(Failure::User(format!(
                "model.image_size is {side}, but images of dataset {:?} are {height}×{width}; set one to the other's size",
                self.manifest.name
            )));
        }
        Ok(Sets {
            train: self.subset(&experiment.dataset.train).await?,
            validation: self.subset(&experiment.dataset.validation).await?,
            test: self.test(experiment).await?,
        })
    }

    /// The samples that `experiment` scores.
    ///
    /// # Errors
    /// As [`Self::sets`].
    pub async fn test(&self, experiment: &Experiment) -> Result<TestSets, Failure> {
        let healthy = self.subset(&experiment.evaluation.healthy).await?;
        let mut pathology = Vec::new();
        for (name, subset) in &experiment.evaluation.pathology {
            pathology.push((name.clone(), self.subset(subset).await?));
        }
        Ok(TestSets { healthy, pathology })
    }

    /// The samples of one subset.
    ///
    /// # Errors
    /// As [`Self::sets`].
    pub async fn subset(&self, subset: &morph_spec::experiment::Subset) -> Result<Samples, Failure> {
        Ok(Samples::open(&self.folder, &self.manifest, subset, &self.cache).await?)
    }
}

/// Images `indices` of `samples` as `[n, 1, height, width]` in 0..1.
pub fn tensor(samples: &Samples, indices: impl IntoIterator<Item = u64>, place: Place) -> Tensor {
    let [height, width] = samples.image_size().map(i64::from);
    let mut bytes = Vec::new();
    let mut n = 0;
    for index in indices {
        bytes.extend_from_slice(
            samples.image(usize::try_from(index).expect("invariant: an index of a sample in memory")),
        );
        n += 1;
    }
    // Pixels become numbers on the device: a fourth of the traffic.
    Tensor::from_slice(&bytes).reshape([n, 1, height, width]).to_device(place.device).to_kind(place.kind) / 255.0
}

/// A tensor's elements in order, as f64.
///
/// # Errors
/// When libtorch cannot copy them.
pub fn values(t: &Tensor) -> Result<Vec<f64>, Failure> {
    Vec::<f64>::try_from(t.to_kind(Kind::Double).flatten(0, -1))
        .map_err(|e| Failure::Infra(format!("copy values out of a tensor: {e}")))
}

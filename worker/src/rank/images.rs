//! From samples to tensors, and the sets of samples that a run needs.

use std::{collections::BTreeMap, path::Path, sync::Arc, thread};

use morph_data::{Samples, augment::Augmenter};
use morph_objects::{NodeCache, Objects};
use morph_scores::evaluation as scores;
use morph_spec::{Digest, Experiment, Manifest, dataset::Preprocess, experiment::Residency, manifest::PatientIds};
use tch::{Kind, Tensor};

use crate::rank::{failure::Failure, group::Place};

/// All samples of one run.
#[derive(Debug)]
pub struct Sets {
    /// Trained on.
    pub train: Arc<Samples>,
    /// Early stopping and model selection.
    pub validation: Arc<Samples>,
    /// Scored.
    pub test: TestSets,
}

/// The samples that are scored.
#[derive(Debug)]
pub struct TestSets {
    /// Each set, once.
    pub sets: Vec<TestSamples>,
    /// Comparison → the healthy set's name, the pathology's.
    pub comparisons: BTreeMap<String, [String; 2]>,
    /// The sets that make the score a probability, if there are any; they are no test sets.
    pub calibration: Option<[String; 2]>,
    /// The datasets that the sets are of; the first is that of the validation samples.
    pub datasets: Vec<scores::Dataset>,
}

impl TestSets {
    /// Whether this set only makes the score a probability.
    pub fn calibrates(&self, set: &TestSamples) -> bool {
        self.calibration.iter().flatten().any(|name| *name == set.name)
    }
}

/// The samples of one set.
#[derive(Debug)]
pub struct TestSamples {
    /// Its name.
    pub name: String,
    /// Whether it is the positive set of a comparison.
    pub sick: bool,
    /// Which of [`TestSets::datasets`] it is of.
    pub dataset: usize,
    /// How that dataset's images were made.
    pub preprocess: Preprocess,
    /// The samples.
    pub samples: Samples,
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
        let (folder, manifest, digest) = Self::look(url, expected).await?;
        let cache = NodeCache::open(cache, cache_bytes)?;
        Ok(Self { folder, manifest, digest, cache })
    }

    async fn look(url: &str, expected: Option<Digest>) -> Result<(Objects, Manifest, Digest), Failure> {
        let folder = Objects::open(url)?;
        let (manifest, digest) = morph_data::manifest::read(&folder).await?;
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(Failure::User(format!(
                "{url}: the dataset has changed since the run was submitted: its manifest is {digest}, it was {expected}; \
                 submit the run again"
            )));
        }
        Ok((folder, manifest, digest))
    }

    /// All samples that `experiment` names. An empty set is an error now, not after hours of training.
    ///
    /// # Errors
    /// When a set is empty, a shard is missing or corrupt, or images are of another size than the model's.
    pub async fn sets(&self, experiment: &Experiment) -> Result<Sets, Failure> {
        self.fits(experiment)?;
        let plan = experiment.evaluation.plan();
        let tested = plan.sets.iter().filter(|set| set.dataset.is_none()).map(|set| &set.subset);
        let subsets: Vec<_> =
            [&experiment.dataset.train, &experiment.dataset.validation].into_iter().chain(tested).collect();
        // Held until all are open: none is evicted for the next.
        let _held = Samples::fetch(&self.folder, &self.manifest, self.digest, &subsets, &self.cache).await?;
        Ok(Sets {
            train: Arc::new(self.subset(&experiment.dataset.train).await?),
            validation: Arc::new(self.subset(&experiment.dataset.validation).await?),
            test: self.test(experiment).await?,
        })
    }

    /// The samples that `experiment` scores; those of other datasets than this are opened by their URL.
    ///
    /// # Errors
    /// As [`Self::sets`].
    pub async fn test(&self, experiment: &Experiment) -> Result<TestSets, Failure> {
        let plan = experiment.evaluation.plan();
        let mut others: Vec<Self> = Vec::new();
        let mut sets = Vec::new();
        for set in plan.sets {
            let pinned = set.dataset.as_ref().and_then(|url| experiment.evaluation.digests.get(url)).copied();
            let url = set.dataset.map(|url| Objects::open(&url).map(|folder| folder.url())).transpose()?;
            let (dataset, samples) = match url.filter(|url| *url != self.folder.url()) {
                None => (0, self.subset(&set.subset).await?),
                Some(url) => {
                    let at = others.iter().position(|other| other.folder.url() == url);
                    if at.is_none() {
                        let (folder, manifest, digest) = Self::look(&url, pinned).await?;
                        let other = Self { folder, manifest, digest, cache: self.cache.clone() };
                        other.fits(experiment)?;
                        others.push(other);
                    }
                    let at = at.unwrap_or(others.len() - 1);
                    (at + 1, others[at].subset(&set.subset).await?)
                }
            };
            let of = dataset.checked_sub(1).map_or(self, |other| &others[other]);
            let preprocess = of.manifest.preprocess.clone();
            sets.push(TestSamples { name: set.name, sick: set.sick, dataset, preprocess, samples });
        }
        let described = |other: &Self| scores::Dataset {
            prepared_otherwise: otherwise(&other.manifest.preprocess, &self.manifest.preprocess),
            ..other.described()
        };
        let datasets = std::iter::once(self).chain(&others).map(described).collect();
        Ok(TestSets { sets, comparisons: plan.comparisons, calibration: plan.calibration, datasets })
    }

    /// Refuses images of another size than the model's.
    ///
    /// # Errors
    /// When they are.
    pub fn fits(&self, experiment: &Experiment) -> Result<(), Failure> {
        let [height, width] = self.manifest.image_size;
        let side = experiment.model.image_size;
        if [height, width] == [side, side] {
            return Ok(());
        }
        Err(Failure::User(format!(
            "model.image_size is {side}, but images of dataset {:?} are {height}×{width}: prepare them with preprocess.size: {side}, or \
             train with model.image_size: {height}",
            self.manifest.name
        )))
    }

    /// The datasets that lie in the node's cache, each by its manifest's digest.
    pub fn cached(&self) -> Vec<Digest> {
        self.cache.sets()
    }

    /// What an evaluation says of it.
    pub fn described(&self) -> scores::Dataset {
        scores::Dataset {
            name: self.manifest.name.clone(),
            url: self.folder.url(),
            digest: self.digest.to_string(),
            persons_known: self.manifest.patient_ids == PatientIds::Person,
            synthetic: self.manifest.synthetic,
            prepared_otherwise: String::new(),
        }
    }

    /// The samples of one subset.
    ///
    /// # Errors
    /// As [`Self::sets`].
    pub async fn subset(&self, subset: &morph_spec::experiment::Subset) -> Result<Samples, Failure> {
        Ok(Samples::open(&self.folder, &self.manifest, subset, &self.cache).await?)
    }
}

/// In what `this` differs from what is trained on, in words.
fn otherwise(this: &Preprocess, own: &Preprocess) -> String {
    let differences = this.differences(own).into_iter();
    let told = differences.map(|(name, this, own)| format!("{name}: {this} instead of {own}"));
    told.collect::<Vec<_>>().join("; ")
}

/// Images `indices` of `samples` as `[n, 1, height, width]` in 0..1.
pub fn tensor(samples: &Samples, indices: impl IntoIterator<Item = u64>, place: Place) -> Tensor {
    let indices: Vec<u64> = indices.into_iter().collect();
    scaled(&pixels(samples, &indices), samples.image_size(), place)
}

/// Images `indices` of `samples` as `[n, height · width]`, one byte a pixel.
fn pixels(samples: &Samples, indices: &[u64]) -> Tensor {
    let size: usize = samples.image_size().iter().map(|side| *side as usize).product();
    let mut bytes = Vec::with_capacity(indices.len() * size);
    for index in indices {
        bytes.extend_from_slice(samples.image(at(*index)));
    }
    Tensor::from_slice(&bytes).reshape([indices.len() as i64, size as i64])
}

fn at(index: u64) -> usize {
    usize::try_from(index).expect("invariant: an index of a sample in memory")
}

fn scaled(pixels: &Tensor, image_size: [u32; 2], place: Place) -> Tensor {
    let [height, width] = image_size.map(i64::from);
    // Pixels become numbers on the device: a fourth of the traffic.
    pixels.reshape([-1, 1, height, width]).to_device(place.device).to_kind(place.kind) / 255.0
}

/// The images of a set, where batches are made of them.
#[derive(Debug)]
pub struct Images {
    samples: Arc<Samples>,
    /// All of them on the device, `[n, height · width]`.
    copy: Option<Tensor>,
    place: Place,
}

/// Bytes that are copied to a device at a time.
const AT_ONCE: u64 = 64 << 20;

impl Images {
    /// Puts `samples` where `residency` says.
    ///
    /// # Errors
    /// When they do not fit there.
    pub fn new(samples: Arc<Samples>, residency: Residency, place: Place) -> Result<Self, Failure> {
        let cuda = place.device.is_cuda();
        let copy = match residency {
            Residency::Mmap => None,
            Residency::Ram => {
                fits_in_memory(&samples)?;
                if !samples.keep_in_memory() {
                    tracing::warn!(
                        "trainer.residency is ram: the images are read into memory, but this process may not lock them there; raise \
                         its limit of locked memory (ulimit -l)"
                    );
                }
                None
            }
            Residency::Device => {
                if !cuda {
                    fits_in_memory(&samples)?;
                }
                Some(copied(&samples, place).map_err(|e| {
                    Failure::User(format!(
                        "trainer.residency is device, but the {} of images do not fit there; use auto or mmap ({e})",
                        megabytes(samples.pixels())
                    ))
                })?)
            }
            // The rest is for the network: as much again must still be free.
            Residency::Auto if cuda => copied(&samples, place)
                .and_then(|copy| Tensor::f_empty_like(&copy).map(|_| copy))
                .inspect_err(|e| tracing::info!("the images stay on disk, the device has no room for them: {e}"))
                .ok(),
            Residency::Auto => None,
        };
        Ok(Self { samples, copy, place })
    }

    /// Images `indices` as `[n, 1, height, width]` in 0..1; the same bits wherever they are kept.
    pub fn batch(&self, indices: &[u64]) -> Tensor {
        let pixels = match &self.copy {
            None => pixels(&self.samples, indices),
            Some(copy) => {
                let indices: Vec<i64> = indices.iter().map(|i| i.cast_signed()).collect();
                copy.index_select(0, &Tensor::from_slice(&indices).to_device(self.place.device))
            }
        };
        scaled(&pixels, self.samples.image_size(), self.place)
    }

    /// Images `indices` as they are seen in `epoch`, as [`Self::batch`] has them; made on the processor by `threads` threads, wherever
    /// images are kept. What is drawn for an image is its own, so it does not matter who varies it.
    pub fn varied(&self, indices: &[u64], epoch: u32, augmenter: &Augmenter, threads: usize) -> Tensor {
        let (samples, size) = (&self.samples, self.samples.image_size());
        let pixels = size.iter().product::<u32>() as usize;
        let vary = |indices: &[u64], out: &mut [f32]| {
            for (index, out) in indices.iter().zip(out.chunks_exact_mut(pixels)) {
                out.copy_from_slice(&augmenter.image(samples.image(at(*index)), size, epoch, *index));
            }
        };
        let mut values = vec![0.0; indices.len() * pixels];
        let part = indices.len().div_ceil(threads.max(1)).max(1);
        if part >= indices.len() {
            vary(indices, &mut values);
        } else {
            thread::scope(|scope| {
                for (indices, out) in indices.chunks(part).zip(values.chunks_mut(part * pixels)) {
                    scope.spawn(move || vary(indices, out));
                }
            });
        }
        let [height, width] = size.map(i64::from);
        let x = Tensor::from_slice(&values).reshape([indices.len() as i64, 1, height, width]);
        x.to_device(self.place.device).to_kind(self.place.kind)
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "never empty: opening nothing is an error")]
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

/// All images on the device, in parts, so that there is no second copy of all in memory.
fn copied(samples: &Samples, place: Place) -> Result<Tensor, tch::TchError> {
    let (n, size) = (samples.len() as u64, samples.pixels() / samples.len() as u64);
    let copy = Tensor::f_empty([n as i64, size as i64], (Kind::Uint8, place.device))?;
    let rows = (AT_ONCE / size.max(1)).max(1);
    for start in (0..n).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
        let end = n.min(start + rows);
        let part = pixels(samples, &(start..end).collect::<Vec<_>>());
        copy.f_narrow(0, start as i64, (end - start) as i64)?.f_copy_(&part)?;
    }
    Ok(copy)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

/// Refuses what would only push everything else out of memory.
fn fits_in_memory(samples: &Samples) -> Result<(), Failure> {
    let Some(free) = available() else { return Ok(()) };
    if samples.pixels() <= free {
        return Ok(());
    }
    Err(Failure::User(format!(
        "the {} of images do not fit into the {} of memory that are free; set trainer.residency to mmap",
        megabytes(samples.pixels()),
        megabytes(free)
    )))
}

/// Bytes that the kernel could give to programs.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A tensor's elements in order, as f64.
///
/// # Errors
/// When libtorch cannot copy them.
pub fn values(t: &Tensor) -> Result<Vec<f64>, Failure> {
    Vec::<f64>::try_from(t.to_kind(Kind::Double).flatten(0, -1))
        .map_err(|e| Failure::Crashed(format!("copy values out of a tensor: {e}")))
}

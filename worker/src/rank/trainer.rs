//! The training loop of one rank.
//!
//! Contract:
//! 1. All ranks take the same steps with the same batches, and stop at the same step.
//! 2. Stopping after any step and resuming gives the same bits as never having stopped (CPU, same world size).
//! 3. What a step or an epoch reports is the mean over all ranks' images, so it does not depend on their number but by
//!    rounding.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use morph_checkpoint::Best;
use morph_collective::native;
use morph_data::{augment::Augmenter, sampler::Sampler};
use morph_model::{At, Keyed, Step};
use morph_spec::{
    Experiment,
    experiment::{Precision, Residency, Trainer as Settings},
};
use morph_telemetry::TRACE;
use tch::Tensor;

use crate::{
    rank::{
        batches::{Batch, Batches, Order},
        events::Events,
        failure::Failure,
        group::{Group, Place},
        images::{Images, Sets, values},
        orders::Orders,
        progress::Position,
        saver::{Occasion, Saver},
        snapshot::{self, Net, Provenance},
        updates::{Reducers, Shared},
    },
    wire::Event,
};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);
/// Steps whose metrics are told, at most, over the whole training; more are thinned out evenly.
const TOLD_STEPS: u64 = 20_000;

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All epochs are done, or early stopping said so.
    Finished,
    /// As ordered; everything is saved.
    Stopped,
}

/// What a trainer works with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// The samples.
    pub sets: &'a Sets,
    /// The ranks.
    pub group: &'a Group,
    /// Where tensors live.
    pub place: Place,
    /// Orders.
    pub orders: &'a Orders,
    /// Reports.
    pub events: &'a Events,
    /// What checkpoints say of their origin.
    pub provenance: &'a Provenance,
}

/// One rank's trainer.
#[derive(Debug)]
pub struct Trainer<'a> {
    bench: Bench<'a>,
    sampler: Sampler,
    net: Net,
    at: Position,
    saver: Option<Saver>,
    reducers: Reducers,
    pace: Pace,
    spent: Spent,
}

/// Where a training's images come from.
struct Source {
    batches: Batches,
    validation: Images,
}

/// Seconds since they were last told, beside those of steps.
#[derive(Debug, Default)]
struct Spent {
    data: f64,
    checkpoint: f64,
    validation: f64,
}

#[derive(Debug)]
struct Pace {
    since: Instant,
    images: f64,
    epoch_since: Instant,
    epoch_images: f64,
}

impl<'a> Trainer<'a> {
    /// A trainer that goes on from `at`. Rank 0 has a `saver`.
    pub fn new(bench: Bench<'a>, net: Net, at: Position, saver: Option<Saver>) -> Self {
        let settings = &bench.experiment.trainer;
        let sampler = Sampler {
            samples: bench.sets.train.len() as u64,
            batch_size: settings.batch_size,
            seed: settings.seed,
            drop_last: settings.drop_last,
        };
        let now = Instant::now();
        let pace = Pace { since: now, images: 0.0, epoch_since: now, epoch_images: 0.0 };
        let mut trainer =
            Self { bench, sampler, net, at, saver, reducers: Reducers::default(), pace, spent: Spent::default() };
        if trainer.at.step == 0 {
            // Files of the published code know their epoch only.
            trainer.at.step = u64::from(trainer.at.epoch) * trainer.batches();
        }
        trainer
    }

    fn settings(&self) -> &'a Settings {
        &self.bench.experiment.trainer
    }

    /// Batches of an epoch. A last batch that leaves a rank without images is left out: there is no gradient of nothing.
    fn batches(&self) -> u64 {
        let all = self.sampler.batches();
        let rest = self.sampler.samples % u64::from(self.sampler.batch_size.max(1));
        let too_small = !self.sampler.drop_last && rest > 0 && rest < u64::from(self.bench.group.world());
        if too_small { all - 1 } else { all }
    }

    /// Steps of the whole training, should it not stop early.
    pub fn total_steps(&self) -> u64 {
        self.batches() * u64::from(self.settings().epochs)
    }

    /// Where training stands.
    pub fn position(&self) -> &Position {
        &self.at
    }

    /// The network, when training is over.
    pub fn into_parts(self) -> (Net, Position, Option<Saver>) {
        (self.net, self.at, self.saver)
    }

    /// Trains to the end, or until ordered to stop.
    ///
    /// # Errors
    /// NaN, I/O, lost peers.
    pub fn train(&mut self) -> Result<End, Failure> {
        if self.is_over() && self.at.best.is_none() {
            // Given weights, which are scored as they are: a checkpoint like any other's.
            self.save(Occasion::default())?;
            return self.finish(End::Finished);
        }
        let batches = self.batches();
        if batches == 0 {
            return Err(Failure::User(format!(
                "the training set holds {} samples, which make no batch of {} for {} ranks; lower trainer.batch_size",
                self.sampler.samples,
                self.sampler.batch_size,
                self.bench.group.world()
            )));
        }
        let mut source = self.source()?;
        while self.at.epoch < self.settings().epochs && !self.at.early_stopping.stopped {
            let _epoch = tracing::info_span!(target: TRACE, "epoch", epoch = self.at.epoch).entered();
            let steps = tracing::info_span!(target: TRACE, "steps", after = self.at.step).entered();
            let mut stop = false;
            while self.at.batch < batches && !stop {
                stop = self.step(&mut source.batches)?;
                let last = self.at.batch == batches;
                let due = divides(u64::from(self.settings().checkpoint.every_steps), self.at.step);
                if !last && (stop || due) {
                    self.save(Occasion::default())?;
                }
            }
            drop(steps);
            if self.at.batch < batches {
                return self.finish(End::Stopped);
            }
            self.end_epoch(&source.validation, stop)?;
            if stop && !self.is_over() {
                return self.finish(End::Stopped);
            }
            if !self.is_over() {
                self.tell_spent();
            }
        }
        self.finish(End::Finished)
    }

    /// Puts the images where they belong, and begins to make batches from where training stands.
    fn source(&mut self) -> Result<Source, Failure> {
        let since = Instant::now();
        let (settings, sets, group) = (self.settings(), self.bench.sets, self.bench.group);
        let images = |samples, residency| Images::new(samples, residency, self.bench.place);
        let augmenter = Augmenter::new(settings.augment, settings.seed);
        // Varied on the processor, they have no use on a device before.
        let varied = augmenter.is_some() && settings.residency == Residency::Auto;
        let residency = if varied { Residency::Mmap } else { settings.residency };
        let order = Order {
            sampler: self.sampler,
            batches: self.batches(),
            epochs: settings.epochs,
            rank: group.rank(),
            world: group.world(),
            augmenter,
            threads: settings.threads as usize,
        };
        let batches = Batches::begin(images(Arc::clone(&sets.train), residency)?, order, self.at.epoch, self.at.batch)?;
        let validation = images(Arc::clone(&sets.validation), settings.residency)?;
        self.spent.data += since.elapsed().as_secs_f64();
        Ok(Source { batches, validation })
    }

    fn finish(&mut self, end: End) -> Result<End, Failure> {
        self.finish_saving()?;
        self.tell_spent();
        Ok(end)
    }

    /// Reports what time went into beside steps, since it was last told. Its sum over a run is what goodput is reckoned by.
    fn tell_spent(&mut self) {
        let Spent { data, checkpoint, validation } = std::mem::take(&mut self.spent);
        if self.bench.group.rank() == 0 {
            let all = [("data", data), ("checkpoint", checkpoint), ("validation", validation)];
            let values = all.into_iter().map(|(name, seconds)| (format!("perf/{name}_seconds"), seconds));
            self.bench.events.metrics(self.at.step, values);
        }
    }

    fn is_over(&self) -> bool {
        self.at.early_stopping.stopped || self.at.epoch >= self.settings().epochs
    }

    /// One optimizer step; whether all ranks are to stop after it.
    fn step(&mut self, batches: &mut Batches) -> Result<bool, Failure> {
        let group = self.bench.group;
        let since = Instant::now();
        let Batch { epoch, index, images: all, share, x } = batches.take()?;
        self.spent.data += since.elapsed().as_secs_f64();
        assert_eq!((epoch, index), (self.at.epoch, self.at.batch), "invariant: batches come in the order of steps");
        let settings = self.settings();
        self.net.optimizers.set_lr(self.at.schedule.rate(settings.optimizer.lr, &settings.schedule));
        self.reducers.arm(group, self.net.method.as_ref(), epoch)?;
        let at = self.at(0);
        // A draw belongs to an image's place in the batch of all ranks, so it is the same for any number of them.
        let images = share.start as u64..share.end as u64;
        let mut draws = Keyed::new(settings.seed, format!("step {}", at.step), images);
        let weight = share.len() as f64 * f64::from(group.world()) / all as f64;
        let mut updates = Shared { optimizers: &mut self.net.optimizers, reducers: &self.reducers, weight };
        let tf32 = self.bench.place.device.is_cuda() && settings.precision == Precision::Tf32;
        if tf32 {
            native::set_tf32(true)?;
        }
        let losses =
            self.net.method.step(&x, &mut Step { at, stats: group, draws: &mut draws, updates: &mut updates })?;
        if tf32 {
            native::set_tf32(false)?;
        }

        let terms = || losses.terms.iter().filter(|(name, _)| *name != "loss");
        let names: Vec<&str> = std::iter::once("loss").chain(terms().map(|(name, _)| *name)).collect();
        let means = std::iter::once(&losses.total).chain(terms().map(|(_, t)| t));
        let mut sums: Vec<f64> = scalars(means)?.into_iter().map(|v| v * share.len() as f64).collect();
        sums.push(f64::from(u8::from(self.bench.orders.stop_requested())));
        group.sum(&mut sums)?;
        let stop = sums.pop().is_some_and(|votes| votes > 0.0);
        let images = all as f64;
        let terms: Vec<(&str, f64)> = names.into_iter().zip(sums.iter().map(|s| s / images)).collect();
        if let Some((name, value)) = terms.iter().find(|(_, v)| !v.is_finite()) {
            return Err(Failure::User(format!(
                "train/{name} is {value} at step {} (epoch {epoch}); a lower trainer.optimizer.lr may help",
                self.at.step + 1
            )));
        }
        self.at.add(terms.iter().copied(), images);
        self.tell(&terms, images);
        if let Some(saver) = &self.saver {
            self.bench.orders.acknowledged().into_iter().for_each(|step| saver.recorded(step));
        }
        Ok(stop)
    }

    /// Where losses are on their schedules, when `images` images of the running validation are done. The published code validates
    /// in batches of the training's size.
    fn at(&self, images: usize) -> At {
        let batches = |images: usize| (images as u64).div_ceil(u64::from(self.settings().batch_size.max(1)));
        let epochs = u64::from(self.at.epoch) * batches(self.bench.sets.validation.len());
        At { epoch: self.at.epoch, step: self.at.step, validated: epochs + batches(images) }
    }

    /// Reports a step: rank 0 for all.
    fn tell(&mut self, terms: &[(&str, f64)], images: f64) {
        self.pace.images += images;
        self.pace.epoch_images += images;
        if self.bench.group.rank() != 0 {
            return;
        }
        let total_steps = self.total_steps();
        if divides(total_steps.div_ceil(TOLD_STEPS), self.at.step) {
            let values = terms.iter().map(|(name, value)| (format!("train/{name}"), *value));
            self.bench.events.metrics(self.at.step, values);
        }
        let elapsed = self.pace.since.elapsed();
        if elapsed >= PROGRESS {
            self.progress(self.pace.images / elapsed.as_secs_f64());
        }
    }

    fn progress(&mut self, images_per_second: f64) {
        let (step, epoch, total_steps) = (self.at.step, self.at.epoch, self.total_steps());
        self.bench.events.say(&Event::Progress { step, epoch, total_steps, images_per_second });
        self.pace.since = Instant::now();
        self.pace.images = 0.0;
    }

    /// Validates, judges, reports and saves.
    fn end_epoch(&mut self, validation: &Images, stop: bool) -> Result<(), Failure> {
        let trained = self.pace.epoch_since.elapsed().as_secs_f64();
        let since = Instant::now();
        let score = tracing::info_span!(target: TRACE, "validate").in_scope(|| self.validate(validation))?;
        self.spent.validation += since.elapsed().as_secs_f64();
        if !score.is_finite() {
            return Err(Failure::User(format!(
                "val/score is {score} after epoch {} (step {})",
                self.at.epoch, self.at.step
            )));
        }
        if self.settings().early_stopping.anew && self.grown_up() {
            self.at.judge_anew();
        }
        let best = self.at.judge(score, &self.settings().early_stopping);
        self.at.schedule.end_epoch(score, &self.settings().schedule);
        let means = self.at.end_epoch();
        if best {
            // Ranks that do not save need not know where it lies: rank 0 tells them when it matters.
            let url = self.saver.as_ref().map(|s| s.url(self.at.step)).unwrap_or_default();
            self.at.best = Some(Best { url, step: self.at.step, score });
        }
        if self.bench.group.rank() == 0 {
            let rate = self.pace.epoch_images / trained.max(f64::MIN_POSITIVE);
            let values = [("val/score".to_owned(), score), ("perf/images_per_second".to_owned(), rate)];
            let means = means.into_iter().map(|(name, mean)| (format!("epoch/{name}"), mean));
            self.bench.events.metrics(self.at.step, values.into_iter().chain(means));
            self.progress(rate);
            tracing::info!(
                epoch = self.at.epoch,
                step = self.at.step,
                "val/score {score:.6}{}, {rate:.1} images/s",
                if best { " (best)" } else { "" }
            );
        }
        let checkpoint = &self.settings().checkpoint;
        let due = divides(u64::from(checkpoint.every_epochs), u64::from(self.at.epoch))
            || divides(u64::from(checkpoint.every_steps), self.at.step);
        if best || due || stop || self.is_over() {
            self.save(Occasion { score: Some(score), best })?;
        }
        self.pace.epoch_since = Instant::now();
        self.pace.epoch_images = 0.0;
        Ok(())
    }

    /// Whether the epoch that ends is the first in which all of the network was trained.
    fn grown_up(&self) -> bool {
        let partial = |epoch: u32| self.net.method.partial(epoch);
        let epoch = self.at.epoch;
        epoch > 0 && partial(epoch - 1) && !partial(epoch)
    }

    /// The mean validation score: whole batches are dealt to the ranks, so that every image is computed in the same company
    /// and the sum has the same order, whatever the number of ranks.
    fn validate(&self, set: &Images) -> Result<f64, Failure> {
        // With `sync: false` each rank has statistics of its own images. DDP gives rank 0's to all before each forward; training
        // reads none, so it is enough to do so here. It is rank 0's network that is saved, so it is the one to judge.
        let buffers: Vec<Tensor> = self.net.method.buffers().into_iter().map(|(_, t)| t).collect();
        self.bench.group.broadcast(&buffers)?;
        let (rank, world) = (self.bench.group.rank() as usize, self.bench.group.world() as usize);
        let size = self.bench.experiment.evaluation.batch_size.max(1) as usize;
        let mut scores = vec![0.0; set.len()];
        for start in (0..set.len()).step_by(size).skip(rank).step_by(world) {
            let range = start..set.len().min(start + size);
            let x = set.batch(&range.clone().map(|i| i as u64).collect::<Vec<_>>());
            let at = self.at(range.start);
            let images = range.start as u64..range.end as u64;
            let mut draws = Keyed::new(self.settings().seed, format!("validation {}", self.at.step), images);
            scores[range].copy_from_slice(&values(&self.net.method.validation_score(&x, at, &mut draws)?)?);
        }
        self.bench.group.sum(&mut scores)?;
        Ok(scores.iter().sum::<f64>() / scores.len() as f64)
    }

    fn save(&mut self, occasion: Occasion) -> Result<(), Failure> {
        let Some(saver) = &mut self.saver else { return Ok(()) };
        let since = Instant::now();
        let _save = tracing::info_span!(target: TRACE, "save", step = self.at.step).entered();
        let saved = saver.save(snapshot::take(&self.net, &self.at, self.bench.provenance)?, occasion);
        self.spent.checkpoint += since.elapsed().as_secs_f64();
        saved
    }

    /// Waits until rank 0 has written everything.
    fn finish_saving(&mut self) -> Result<(), Failure> {
        let since = Instant::now();
        let saver = &mut self.saver;
        self.bench.group.wait_for(|| saver.as_mut().map_or(Ok(true), |s| s.finished(Duration::from_secs(1))))?;
        self.spent.checkpoint += since.elapsed().as_secs_f64();
        Ok(())
    }
}

/// Whether something that happens every `every` steps (0: never) happens at `step`.
fn divides(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The values of one-element tensors, fetched at once.
fn scalars<'t>(tensors: impl Iterator<Item = &'t Tensor>) -> Result<Vec<f64>, Failure> {
    let detached: Vec<Tensor> = tensors.map(|t| t.detach().to_kind(tch::Kind::Double).reshape([1])).collect();
    values(&Tensor::cat(&detached, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_never() {
        assert!(!divides(0, 4) && divides(2, 4) && !divides(3, 4) && divides(1, 1));
    }

    #[test]
    fn scalars_come_in_order() {
        let (a, b) = (Tensor::from(1.5), Tensor::from_slice(&[2.5f32]));
        assert_eq!(scalars([&a, &b].into_iter()).unwrap(), [1.5, 2.5]);
    }
}

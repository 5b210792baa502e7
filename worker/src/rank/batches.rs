//! Batches, made ahead of the step that takes them, by a thread of their own.
//!
//! Contract:
//! 1. They come in the order of the sampler, from any batch of any epoch on, each with this rank's share of the images.
//! 2. No more than [`AHEAD`] are made ahead; the thread ends when nobody wants them any more.

use std::{
    ops::Range,
    panic::resume_unwind,
    sync::mpsc::{Receiver, sync_channel},
    thread::{Builder, JoinHandle},
};

use morph_data::{
    augment::Augmenter,
    sampler::{Sampler, share},
};
use tch::Tensor;

use crate::rank::{failure::Failure, images::Images};

/// Batches in memory besides the one that is trained with.
pub const AHEAD: usize = 2;

/// Which batches a rank takes.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// The order of all ranks' samples.
    pub sampler: Sampler,
    /// Batches of an epoch.
    pub batches: u64,
    /// The epoch after the last.
    pub epochs: u32,
    /// This rank.
    pub rank: u32,
    /// Number of ranks.
    pub world: u32,
    /// Varies images.
    pub augmenter: Option<Augmenter>,
    /// By how many threads at a time.
    pub threads: usize,
}

/// One rank's share of a batch.
#[derive(Debug)]
pub struct Batch {
    /// Its epoch.
    pub epoch: u32,
    /// Its place in the epoch.
    pub index: u64,
    /// Images of all ranks.
    pub images: usize,
    /// Which of them are this rank's.
    pub share: Range<usize>,
    /// Those, in 0..1, varied if they are to be.
    pub x: Tensor,
}

/// The batches of a training, in order.
#[derive(Debug)]
pub struct Batches {
    // In this order: the thread ends when it finds that nobody listens.
    queue: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Batches {
    /// Begins to make batches, the first of them batch `index` of `epoch`.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(images: Images, order: Order, epoch: u32, index: u64) -> Result<Self, Failure> {
        // One lies in the queue, and one waits in the thread for its place there.
        let (sender, queue) = sync_channel(AHEAD - 1);
        let make = move || {
            let all = (epoch..order.epochs).flat_map(|e| {
                let first = if e == epoch { index } else { 0 };
                (first..order.batches).map(move |i| (e, i))
            });
            for (epoch, index) in all {
                let samples = order.sampler.batch(epoch, index);
                let share = share(samples.len(), order.rank, order.world);
                let own = &samples[share.clone()];
                let x = match &order.augmenter {
                    None => images.batch(own),
                    Some(augmenter) => images.varied(own, epoch, augmenter, order.threads),
                };
                if sender.send(Batch { epoch, index, images: samples.len(), share, x }).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name("batches".into()).spawn(make);
        let thread = thread.map_err(|e| Failure::Infra(format!("start the thread that makes batches: {e}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Waits for the next batch.
    ///
    /// # Errors
    /// When there is none after the last.
    ///
    /// # Panics
    /// When the thread did.
    pub fn take(&mut self) -> Result<Batch, Failure> {
        if let Some(Ok(batch)) = self.queue.as_ref().map(Receiver::recv) {
            return Ok(batch);
        }
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(panic);
        }
        Err(Failure::Infra("there is no batch after the last".into()))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.queue = None;
        // What it panicked with has no use any more.
        self.thread.take().map(JoinHandle::join);
    }
}

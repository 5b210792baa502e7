//! Where images are kept and that batches are made ahead changes no bit.

use std::{collections::BTreeMap, sync::Arc};

use morph_data::{
    augment::Augmenter,
    sampler::{Sampler, share},
};
use morph_spec::{Augment, experiment::Residency};
use morph_worker::rank::{
    batches::{Batches, Order},
    group::Group,
    images::{Images, tensor},
    orders::Orders,
};
use tch::Tensor;

use crate::resume::{PLACE, Rank, write_dataset};

const ALL: [Residency; 4] = [Residency::Auto, Residency::Mmap, Residency::Ram, Residency::Device];

fn rank() -> (tempfile::TempDir, Rank) {
    let folder = tempfile::tempdir().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(write_dataset(folder.path()));
    let rank = Rank::new(Group::solo(), folder.path());
    (folder, rank)
}

fn bytes(x: &Tensor) -> Vec<f32> {
    Vec::try_from(x.flatten(0, -1)).unwrap()
}

#[test]
fn batches_come_in_order_from_anywhere() {
    let (_folder, rank) = rank();
    let sampler = Sampler { samples: rank.sets.train.len() as u64, batch_size: 5, seed: 7, drop_last: false };
    let (batches, epochs) = (sampler.batches(), 3);
    for residency in ALL {
        for (epoch, index, number, world) in [(0, 0, 0, 1), (1, 3, 1, 2), (2, batches, 0, 2), (3, 0, 0, 1)] {
            let images = Images::new(Arc::clone(&rank.sets.train), residency, PLACE).unwrap();
            let order = Order { sampler, batches, epochs, rank: number, world, augmenter: None, threads: 1 };
            let mut made = Batches::begin(images, order, epoch, index).unwrap();
            for at in u64::from(epoch) * batches + index..u64::from(epochs) * batches {
                let (epoch, index) = ((at / batches) as u32, at % batches);
                let batch = made.take().unwrap();
                let samples = sampler.batch(epoch, index);
                let share = share(samples.len(), number, world);
                let x = tensor(&rank.sets.train, samples[share.clone()].iter().copied(), PLACE);
                assert_eq!((batch.epoch, batch.index, batch.images), (epoch, index, samples.len()));
                assert_eq!((batch.share, batch.x.size()), (share, x.size()));
                assert!(bytes(&batch.x) == bytes(&x), "{residency:?}: {epoch} {index}");
            }
            assert!(made.take().unwrap_err().to_string().contains("after the last"));
        }
        let whole = Order { sampler, batches, epochs, rank: 0, world: 1, augmenter: None, threads: 1 };
        // Nobody wants the rest: the thread ends, or this would wait for it for ever.
        let images = Images::new(Arc::clone(&rank.sets.train), residency, PLACE).unwrap();
        let mut made = Batches::begin(images, Order { epochs: 1_000_000, ..whole }, 0, 0).unwrap();
        made.take().unwrap();
    }
}

#[test]
fn an_image_is_varied_in_the_same_way_whoever_takes_it() {
    let (_folder, rank) = rank();
    let samples = &rank.sets.train;
    let sampler = Sampler { samples: samples.len() as u64, batch_size: 5, seed: 7, drop_last: true };
    let amounts = Augment { flip: 0.5, rotate: 9.0, translate: 0.1, gamma: 0.5, noise: 0.1, ..Augment::default() };
    let augmenter = Augmenter::new(amounts, 7);
    let (batches, epochs) = (sampler.batches(), 3);
    let begin = |number, world, residency, at: (u32, u64)| {
        let images = Images::new(Arc::clone(samples), residency, PLACE).unwrap();
        // One thread; three of which the last has fewer images, or none.
        let threads = if world == 1 && at.0 == 0 { 1 } else { 3 };
        let order = Order { sampler, batches, epochs, rank: number, world, augmenter, threads };
        Batches::begin(images, order, at.0, at.1).unwrap()
    };
    let mut alone = begin(0, 1, Residency::Mmap, (0, 0));
    let mut both = [begin(0, 2, Residency::Ram, (0, 0)), begin(1, 2, Residency::Device, (0, 0))];
    let mut late = begin(0, 1, Residency::Auto, (1, 2));
    let mut seen = BTreeMap::new();
    for at in 0..u64::from(epochs) * batches {
        let batch = alone.take().unwrap();
        let shares: Vec<f32> = both.iter_mut().flat_map(|rank| bytes(&rank.take().unwrap().x)).collect();
        assert!(bytes(&batch.x) == shares, "batch {at}");
        if at >= batches + 2 {
            assert!(bytes(&late.take().unwrap().x) == shares, "batch {at}, begun in the middle");
        }
        let images = shares.chunks(shares.len() / batch.images).map(<[f32]>::to_vec);
        for (sample, image) in sampler.batch(batch.epoch, batch.index).into_iter().zip(images) {
            assert!(image != bytes(&tensor(samples, [sample], PLACE)), "sample {sample} is as it was");
            seen.entry(sample).or_insert_with(Vec::new).push(image);
        }
    }
    // An image that comes again is another one.
    assert!(seen.values().any(|images| images.len() > 1));
    for (sample, images) in seen {
        assert!((1..images.len()).all(|i| !images[..i].contains(&images[i])), "sample {sample}");
    }
}

#[test]
fn training_does_not_depend_on_where_images_are_kept() {
    let (_folder, mut rank) = rank();
    let mut states = Vec::new();
    for (attempt, residency) in (1..).zip(ALL) {
        rank.experiment.trainer.residency = residency;
        // Stopped early by itself: batches that were made ahead are left.
        rank.experiment.trainer.early_stopping.patience = 1;
        rank.experiment.trainer.early_stopping.min_delta = 1e9;
        rank.experiment.trainer.early_stopping.anew = false;
        let (_, net, at) = rank.train(attempt, None, &Orders::default());
        assert_eq!(at.step, 10, "two of three epochs");
        states.push(Rank::state(&net, &at));
    }
    assert!(states.iter().all(|s| *s == states[0]), "{states:?}");
}

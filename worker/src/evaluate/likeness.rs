//! How alike two sets of images are: the Fréchet distance of what Inception sees of them (FID).
//!
//! Features are brought together batch by batch, and rank 0 takes them in in the order of the images. So no bit depends on the number
//! of ranks, and no rank keeps more of a set than its sums: 34 MB, however many images there are.

use std::ops::Range;

use morph_model::inception::Inception;
use morph_scores::{
    Gaussian, Moments,
    evaluation::{Evaluation, Fid},
    frechet_distance_while,
};
use tch::Tensor;

use crate::{
    evaluate::{Scene, passes::Pass},
    rank::{failure::Failure, group::Group, images::values, orders::Orders},
};

const FEATURES: usize = Inception::FEATURES;

/// What Inception sees of a set; on ranks but 0 it stays empty.
#[derive(Debug, Default)]
pub struct Seen {
    images: Moments,
    restored: Moments,
}

/// A batch of images, with what a method makes of them: both `[B, 1, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The images.
    pub x: &'a Tensor,
    /// Their reconstructions.
    pub reconstruction: &'a Tensor,
}

impl Seen {
    /// Takes in the images `all` of the set, whose batches the ranks have between them; `mine` is this rank's, if it has one.
    /// `fail` says which image one of the set is.
    ///
    /// # Errors
    /// When a peer is gone, or a feature is no number: the image is named.
    pub fn take(
        &mut self,
        inception: &Inception,
        group: &Group,
        all: &Range<usize>,
        mine: Option<(Range<usize>, Batch<'_>)>,
        fail: impl Fn(usize, &morph_scores::Error) -> Failure,
    ) -> Result<(), Failure> {
        // Of each image first the features of itself, then those of its reconstruction.
        let mut features = vec![0.0; all.len() * 2 * FEATURES];
        if let Some((range, batch)) = mine {
            let own = &mut features[(range.start - all.start) * 2 * FEATURES..];
            let (x, restored) = (inception.features(batch.x)?, inception.features(batch.reconstruction)?);
            let (x, restored) = (values(&x)?, values(&restored)?);
            for ((image, x), restored) in
                own.chunks_exact_mut(2 * FEATURES).zip(x.chunks_exact(FEATURES)).zip(restored.chunks_exact(FEATURES))
            {
                image[..FEATURES].copy_from_slice(x);
                image[FEATURES..].copy_from_slice(restored);
            }
        }
        group.sum(&mut features)?;
        if group.rank() != 0 {
            return Ok(());
        }
        for (i, image) in all.clone().zip(features.chunks_exact(2 * FEATURES)) {
            let added = self.images.add(&image[..FEATURES]).and_then(|()| self.restored.add(&image[FEATURES..]));
            added.map_err(|e| fail(i, &e))?;
        }
        Ok(())
    }
}

/// Writes every distance into `evaluation`, on rank 0; a set of a single image has none, which a note says. `false` when ordered to stop
/// before the end: the others have nothing left to do then, so rank 0 may go by itself.
///
/// # Errors
/// When covariances are none, which no features have.
pub fn fill(scene: &Scene<'_>, passes: &[Pass], evaluation: &mut Evaluation) -> Result<bool, Failure> {
    let Some(inception) = scene.fid else { return Ok(true) };
    let network = inception.variant().name();
    let distance = |a: &Moments, b: &Moments| distance(network, a, b, scene.orders);
    let seen = |name: &str| {
        let found = scene.test.sets.iter().zip(passes).find(|(set, _)| set.name == name);
        found.and_then(|(_, pass)| pass.seen.as_ref())
    };
    let mut few = Vec::new();
    for (name, set) in &mut evaluation.sets {
        let Some(seen) = seen(name) else { continue };
        if seen.images.images() < 2 {
            evaluation.notes.push(format!("set {name:?} has a single image, so there is no FID of it"));
            continue;
        }
        if seen.images.images() <= FEATURES {
            few.push(name.as_str());
        }
        set.fid = distance(&seen.restored, &seen.images)?;
        if set.fid.is_none() {
            return Ok(false);
        }
    }
    if !few.is_empty() {
        evaluation.notes.push(format!(
            "FID of fewer images than Inception has features ({FEATURES}) is larger than that of many: compare it with that of the \
             same images only ({})",
            few.join(", ")
        ));
    }
    for comparison in evaluation.comparisons.values_mut() {
        let Some((healthy, sick)) = seen(&comparison.sets.healthy).zip(seen(&comparison.sets.pathology)) else {
            continue;
        };
        if healthy.images.images().min(sick.images.images()) < 2 {
            continue;
        }
        comparison.healthy_fid = distance(&sick.restored, &healthy.images)?;
        comparison.untouched_fid = distance(&sick.images, &healthy.images)?;
        if comparison.untouched_fid.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None` when ordered to stop meanwhile.
fn distance(network: &str, a: &Moments, b: &Moments, orders: &Orders) -> Result<Option<Fid>, Failure> {
    let (first, second): (Gaussian, Gaussian) = (a.gaussian()?, b.gaussian()?);
    let value = frechet_distance_while(&first, &second, &|| !orders.stop_requested())?;
    Ok(value.map(|value| Fid { value, images: a.images(), against: b.images(), network: network.to_owned() }))
}

#[cfg(test)]
mod tests {
    use morph_checkpoint::weights;

    use super::*;

    /// What the package computes of features that it has computed itself: model/tests/golden/inception.py.
    #[test]
    fn the_distance_is_pytorch_fids() {
        let facts: serde_json::Value =
            serde_json::from_str(include_str!("../../../model/tests/golden/inception.json")).unwrap();
        let bytes = include_bytes!("../../../model/tests/golden/inception.safetensors");
        for (network, features) in weights::read(bytes, "inception").unwrap() {
            let all: Vec<f64> =
                features.bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
            let mut sets = [Moments::default(), Moments::default()];
            for (i, image) in all.chunks_exact(FEATURES).enumerate() {
                sets[usize::from(i >= 2)].add(image).unwrap();
            }
            let orders = Orders::default();
            let found = distance(&network, &sets[0], &sets[1], &orders).unwrap().unwrap();
            let recorded = facts["fid"][&network].as_f64().unwrap();
            assert!((found.value / recorded - 1.0).abs() < 1e-5, "{network}: {} instead of {recorded}", found.value);
            assert_eq!((found.images, found.against), (2, 3));
            orders.request_stop();
            assert_eq!(distance(&network, &sets[0], &sets[1], &orders).unwrap(), None, "{network}");
        }
    }
}

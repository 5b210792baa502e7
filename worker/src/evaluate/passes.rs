//! One pass over a set: what the method makes of each image, measured by the ranks together.

use std::{fmt::Display, ops::Range};

use morph_data::{
    Samples,
    truth::{self, Truth},
};
use morph_model::{Keyed, Method, Reconstruction};
use morph_objects::Objects;
use morph_scores::{Error, PixelHistogram, Region, evaluation::VALIDATION_SET, regions};
use tch::Tensor;

use crate::{
    evaluate::{
        Scene, gather,
        inputs::Files,
        likeness::{Batch, Seen},
        measure::{self, Image, Row},
    },
    rank::{
        failure::Failure,
        images::{TestSamples, tensor, values},
    },
};

/// Bins of the histogram of residuals, which lie in 0..1.
const BINS: usize = 2048;
/// Share of the validation set's residuals that heat maps show darker than white.
const SHARE: f64 = 0.995;
/// Bins of the histograms of smoothed residuals, whose values lie closer.
const FINE: usize = 8192;
/// Share of the validation set's smoothed residuals that are part of no region.
const REGIONS: f64 = 0.975;
/// Rounds of batches between two votes on stopping.
const ROUNDS: usize = 4;

/// The numbers of a set's images, and what was seen where.
pub(super) struct Pass {
    pub rows: Vec<Row>,
    /// Regions of each image; empty where nobody looked for any.
    pub regions: Vec<Vec<Region>>,
    /// Smoothed residuals of the images with boxes.
    pub pixels: PixelHistogram,
    /// What Inception saw, where it is asked.
    pub seen: Option<Seen>,
    /// What was known of the images beside their dataset.
    pub truth: Files,
}

/// What the healthy validation images say.
pub(super) struct Validated {
    pub rows: Vec<Row>,
    /// What was known of the images beside their dataset.
    pub truth: Files,
    /// The scale of all heat maps.
    pub scale: f64,
    /// The smoothed residual from which on pixels form regions.
    pub regions: f64,
}

pub(super) fn validate(scene: &Scene<'_>, method: &dyn Method, places: bool) -> Result<Option<Validated>, Failure> {
    let mut mine: Vec<Option<Row>> = vec![None; scene.validation.len()];
    let mut residuals = vec![0.0; BINS];
    let mut smooth = vec![0.0; FINE];
    let mut truth = Files::default();
    let count = |histogram: &mut [f64], v: f64| {
        let last = histogram.len() - 1;
        histogram[((v * histogram.len() as f64) as usize).min(last)] += 1.0;
    };
    let complete = images(scene, method, VALIDATION_SET, scene.validation, None, |i, image| {
        for y in [image.prior, image.reconstruction] {
            image.x.iter().zip(y).for_each(|(x, y)| count(&mut residuals, (x - y).abs()));
        }
        if places {
            image.smoothed()?.into_iter().for_each(|v| count(&mut smooth, v));
        }
        truth.add(&image.truth.files);
        mine[i] = Some(image.measure(None)?);
        Ok::<_, Error>(())
    })?;
    if !complete {
        return Ok(None);
    }
    scene.group.sum(&mut residuals)?;
    scene.group.sum(&mut smooth)?;
    Ok(Some(Validated {
        rows: gather::rows(scene.group, &mine)?,
        truth: truth.of_all(scene.group)?,
        scale: quantile(&residuals, SHARE),
        regions: quantile(&smooth, REGIONS),
    }))
}

/// Measures the images of one set, on all ranks; `None` when ordered to stop. With a `threshold`, findings are looked for, too.
pub(super) fn measure_set(
    scene: &Scene<'_>,
    method: &dyn Method,
    set: &TestSamples,
    threshold: Option<f64>,
) -> Result<Option<Pass>, Failure> {
    let mut mine: Vec<Option<Row>> = vec![None; set.samples.len()];
    let mut found: Vec<Vec<Region>> = vec![Vec::new(); set.samples.len()];
    let mut pixels = PixelHistogram::new(FINE, 1.0)?;
    let mut seen = scene.fid.map(|_| Seen::default());
    let mut truth = Files::default();
    let complete = images(scene, method, &set.name, &set.samples, seen.as_mut(), |i, image| {
        let map = threshold.map(|_| image.smoothed()).transpose()?;
        if let Some((threshold, map)) = threshold.zip(map.as_ref()) {
            found[i] = regions(map, image.height, image.width, threshold, 1)?;
            if !image.boxes.is_empty() {
                pixels.add(map, image.height, image.width, &image.boxes)?;
            }
        }
        truth.add(&image.truth.files);
        mine[i] = Some(image.measure(map.as_deref())?);
        Ok::<_, Error>(())
    })?;
    if !complete {
        return Ok(None);
    }
    Ok(Some(Pass {
        rows: gather::rows(scene.group, &mine)?,
        regions: gather::regions(scene.group, &found)?,
        pixels: gather::pixels(scene.group, &pixels, 1.0)?,
        seen,
        truth: truth.of_all(scene.group)?,
    }))
}

/// The boxes of sample `i`; one that the image's edge cut away is none.
pub(super) fn boxes(samples: &Samples, i: usize) -> Vec<morph_scores::Rect> {
    let all = samples.meta(i).boxes.into_iter().map(|b| b.map(f64::from));
    all.filter(|[_, _, w, h]| *w > 0.0 && *h > 0.0).collect()
}

/// Calls `each` for every round of batches, one a rank, with the images of all and of this rank's; whether it got to the end.
fn rounds(
    scene: &Scene<'_>,
    images: usize,
    mut each: impl FnMut(Range<usize>, Option<Range<usize>>) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let size = scene.experiment.evaluation.batch_size.max(1) as usize;
    let (rank, world) = (scene.group.rank() as usize, scene.group.world() as usize);
    for (i, start) in (0..images).step_by(size * world).enumerate() {
        if i % ROUNDS == 0 && scene.group.any(scene.orders.stop_requested())? {
            return Ok(false);
        }
        let own = start + rank * size;
        let mine = (own < images).then(|| own..images.min(own + size));
        each(start..images.min(start + size * world), mine)?;
    }
    Ok(true)
}

/// Calls `each` for this rank's images of a set, with what the method makes of them; whether it got to the end. What Inception sees
/// of all is added to `seen`.
pub(super) fn images<E: Display>(
    scene: &Scene<'_>,
    method: &dyn Method,
    set: &str,
    samples: &Samples,
    mut seen: Option<&mut Seen>,
    mut each: impl FnMut(usize, &Image<'_>) -> Result<(), E>,
) -> Result<bool, Failure> {
    let truth = scene.experiment.evaluation.truth.as_deref().map(Objects::open).transpose()?;
    rounds(scene, samples.len(), |all, mine| {
        let mut made = None;
        if let Some(range) = mine {
            let x = tensor(samples, range.clone().map(|i| i as u64), scene.place);
            let r = method.reconstruct(&x, &mut draws(scene, range.clone()))?;
            batch(scene, set, samples, truth.as_ref(), &range, (&x, &r), &mut each)?;
            made = Some((range, x, r.reconstruction));
        }
        if let (Some(inception), Some(seen)) = (scene.fid, seen.as_mut()) {
            let mine = made.as_ref().map(|(range, x, reconstruction)| (range.clone(), Batch { x, reconstruction }));
            seen.take(inception, scene.group, &all, mine, |i, e| measure::of_case(set, &samples.meta(i).id, e))?;
        }
        Ok(())
    })
}

/// Calls `each` for the images of one batch.
fn batch<E: Display>(
    scene: &Scene<'_>,
    set: &str,
    samples: &Samples,
    truth: Option<&Objects>,
    range: &Range<usize>,
    (x, r): (&Tensor, &Reconstruction),
    each: &mut impl FnMut(usize, &Image<'_>) -> Result<(), E>,
) -> Result<(), Failure> {
    let [height, width] = samples.image_size();
    let area = height as usize * width as usize;
    let lpips = match scene.lpips {
        Some(lpips) => Some(values(&lpips.apart(x, &r.reconstruction)?)?),
        None => None,
    };
    let (x, prior, reconstruction) = (values(x)?, values(&r.prior)?, values(&r.reconstruction)?);
    let fields = match &r.displacement {
        Some(field) => Some([values(&field.select(1, 0))?, values(&field.select(1, 1))?]),
        None => None,
    };
    for (k, i) in range.clone().enumerate() {
        let meta = samples.meta(i);
        let known = match truth {
            Some(folder) => scene.runtime.block_on(truth::read(folder, &meta.id, [height, width]))?,
            None => Truth::default(),
        };
        let plane = |values: &'_ [f64]| k * area..(k * area + area).min(values.len());
        let image = Image {
            height: height as usize,
            width: width as usize,
            x: &x[plane(&x)],
            prior: &prior[plane(&prior)],
            reconstruction: &reconstruction[plane(&reconstruction)],
            displacement: fields.as_ref().map(|[a, b]| [&a[plane(a)], &b[plane(b)]]),
            lpips: lpips.as_ref().map(|all| all[k]),
            view: meta.view.as_deref(),
            boxes: boxes(samples, i),
            truth: known,
        };
        if let Some((what, value)) = image.not_finite() {
            return Err(Failure::User(format!(
                "case {} of set {set:?}: a value of its {what} is {value}, not a finite number: the network has diverged, or \
                 its weights are damaged",
                meta.id
            )));
        }
        each(i, &image).map_err(|e| measure::of_case(set, &meta.id, &e))?;
    }
    Ok(())
}

/// The random numbers of images `images` of a set, for methods that draw in scoring, too.
pub(super) fn draws(scene: &Scene<'_>, images: Range<usize>) -> Keyed {
    Keyed::new(scene.experiment.trainer.seed, "evaluation", images.map(|i| i as u64))
}

/// The upper edge of the bin in which `share` of all counts is reached.
fn quantile(histogram: &[f64], share: f64) -> f64 {
    let wanted = histogram.iter().sum::<f64>() * share;
    let mut seen = 0.0;
    let bin = histogram.iter().position(|n| {
        seen += n;
        seen >= wanted
    });
    (bin.unwrap_or(0) + 1) as f64 / histogram.len() as f64
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_is_the_edge_of_its_bin() {
        let mut histogram = vec![0.0; 10];
        histogram[0] = 99.0;
        histogram[7] = 1.0;
        assert_eq!(quantile(&histogram, 0.5), 0.1);
        assert_eq!(quantile(&histogram, 0.995), 0.8);
        assert_eq!(quantile(&[0.0; 4], 0.5), 0.25);
    }
}

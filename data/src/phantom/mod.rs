//! Phantom chest X-rays: cheap to draw, with anatomy that varies as people do and disease whose place is known exactly.
//!
//! A line integral of attenuation is built from a parametric chest, then exposed to a detector with quantum noise
//! (Beer-Lambert). Everything follows from (seed, index). Scores on phantoms say nothing about patients.

mod anatomy;
mod draw;
mod lesion;

use anatomy::{Anatomy, Subject};
use draw::{Draw, blur, cubic};
use lesion::{Kind, Lesion};
use morph_spec::Rng;

/// Attenuation per unit of the line integral.
const MU: f64 = 2.2;
/// How often lesions that hide behind the heart are drawn again.
const REDRAWS: usize = 8;

/// What a phantom shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// Nothing.
    Healthy,
    /// Consolidation or ground glass, in one to three places.
    Opacity,
    /// Effusion, an enlarged heart or a nodule.
    Other,
}

/// One phantom.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Side in pixels.
    pub size: usize,
    /// size×size grey levels in 0..1, bright is dense.
    pub image: Vec<f32>,
    /// The same person without disease (but for the enlarged heart, which is not a lesion).
    pub twin: Vec<f32>,
    /// Aerated lung per pixel, 0..1.
    pub lung: Vec<f32>,
    /// Where each lesion can be seen.
    pub masks: Vec<Vec<bool>>,
    /// x, y, width, height of each mask in 0..1.
    pub boxes: Vec<[f32; 4]>,
    /// `M` or `F`.
    pub sex: char,
    /// Years.
    pub age: u32,
    /// `PA` or `AP`; independent of the disease, unlike in the real data.
    pub view: &'static str,
}

/// Phantom number `index` under `seed`, `size` pixels wide.
///
/// # Panics
/// When `size` is below 16.
pub fn case(seed: u64, index: u64, label: Label, size: usize) -> Case {
    assert!(size >= 16, "invariant: a chest needs 16 pixels");
    let stream = |what: &str| Draw(Rng::keyed(seed, what, index));
    let mut subject = Subject::draw(&mut stream("phantom/subject"));
    let mut d = stream("phantom/lesions");
    let mut lesions = disease(&mut d, label, &mut subject);
    let anatomy = Anatomy::new(&subject, size, &mut stream("phantom/anatomy"));
    let mut effects: Vec<_> = lesions.iter().map(|l| l.effect(&anatomy)).collect();
    for _ in 0..REDRAWS {
        let mut all = true;
        for (lesion, effect) in lesions.iter_mut().zip(&mut effects) {
            let seen = effect.mask.iter().filter(|m| **m).count();
            if (seen as f64) < lesion.least(size) {
                all = false;
                *lesion = lesion.again(&mut d);
                *effect = lesion.effect(&anatomy);
            }
        }
        if all {
            break;
        }
    }
    let twin = exposure(&subject, &anatomy.attenuation, size, &mut stream("phantom/noise"));
    let image = if effects.is_empty() {
        twin.clone()
    } else {
        let mut ill = anatomy.attenuation.clone();
        for effect in &effects {
            ill.iter_mut().zip(&effect.added).for_each(|(a, more)| *a += more);
        }
        exposure(&subject, &ill, size, &mut stream("phantom/noise"))
    };
    let masks: Vec<Vec<bool>> = effects.into_iter().map(|e| e.mask).filter(|m| m.contains(&true)).collect();
    Case {
        size,
        image,
        twin,
        lung: anatomy.air.iter().map(|a| a.clamp(0.0, 1.0) as f32).collect(),
        boxes: masks.iter().filter_map(|m| bounds(m, size)).collect(),
        masks,
        sex: if subject.female { 'F' } else { 'M' },
        age: subject.age,
        view: if subject.ap { "AP" } else { "PA" },
    }
}

fn disease(d: &mut Draw, label: Label, subject: &mut Subject) -> Vec<Lesion> {
    let lung = |d: &mut Draw| usize::from(d.side() > 0.0);
    match label {
        Label::Healthy => Vec::new(),
        Label::Opacity => {
            // RSNA: of the opacity cases 43.5 % have one box, 54.5 % two, 2 % three.
            let r = d.uniform(0.0, 1.0);
            let n = if r < 0.435 {
                1
            } else if r < 0.98 {
                2
            } else {
                3
            };
            let first = lung(d);
            let one = |d: &mut Draw, side| {
                let kind = if d.chance(0.7) { Kind::Consolidation } else { Kind::GroundGlass };
                Lesion::draw(d, kind, side)
            };
            match n {
                1 => vec![one(d, first)],
                2 => vec![one(d, first), one(d, 1 - first)],
                _ => (0..n)
                    .map(|_| {
                        let side = lung(d);
                        one(d, side)
                    })
                    .collect(),
            }
        }
        Label::Other => match d.0.below(3) {
            0 => {
                let side = lung(d);
                vec![Lesion::draw(d, Kind::Effusion, side)]
            }
            1 => {
                let side = lung(d);
                vec![Lesion::draw(d, Kind::Nodule, side)]
            }
            _ => {
                subject.heart = d.uniform(0.56, 0.70);
                Vec::new()
            }
        },
    }
}

/// Photons through the chest onto the detector, and the grey levels that are made of them.
fn exposure(p: &Subject, attenuation: &[f64], n: usize, d: &mut Draw) -> Vec<f32> {
    let photons: Vec<f64> = attenuation.iter().map(|a| d.poisson(p.photons * (-MU * a.max(0.0)).exp())).collect();
    let spread = blur(&photons, n, (0.0012 * n as f64).max(0.45));
    let (low, high) = (0.02 + p.dark, 1.02 * p.bright);
    let grey = |i: &f64| {
        let density = -(i.max(1.0) / p.photons).ln() / MU;
        ((density - low) / (high - low)).clamp(0.0, 1.0).powf(p.gamma) as f32
    };
    spread.iter().map(grey).collect()
}

/// The box around a mask, in 0..1.
fn bounds(mask: &[bool], n: usize) -> Option<[f32; 4]> {
    let seen = || mask.iter().enumerate().filter(|(_, m)| **m).map(|(i, _)| (i % n, i / n));
    let (left, right) = (seen().map(|p| p.0).min()?, seen().map(|p| p.0).max()?);
    let (top, bottom) = (seen().map(|p| p.1).min()?, seen().map(|p| p.1).max()?);
    let unit = |pixels: usize| pixels as f32 / n as f32;
    Some([unit(left), unit(top), unit(right + 1 - left), unit(bottom + 1 - top)])
}

/// An n×n image brought to `to`×`to` pixels by cubic interpolation.
pub(crate) fn enlarge(image: &[f32], n: usize, to: usize) -> Vec<f32> {
    let at: Vec<([usize; 4], [f64; 4])> = (0..to)
        .map(|i| {
            let x = (i as f64 + 0.5) * n as f64 / to as f64 - 0.5;
            let base = x.floor();
            let near = [-1, 0, 1, 2].map(|o| (base as i64 + o).clamp(0, n as i64 - 1) as usize);
            (near, cubic(x - base))
        })
        .collect();
    let mut rows = vec![0f32; n * to];
    for (line, out) in image.chunks_exact(n).zip(rows.chunks_exact_mut(to)) {
        for (o, (near, weight)) in out.iter_mut().zip(&at) {
            *o = (0..4).map(|j| weight[j] as f32 * line[near[j]]).sum();
        }
    }
    let mut out = vec![0f32; to * to];
    for (line, (near, weight)) in out.chunks_exact_mut(to).zip(&at) {
        for j in 0..4 {
            let source = &rows[near[j] * to..(near[j] + 1) * to];
            line.iter_mut().zip(source).for_each(|(o, v)| *o += weight[j] as f32 * v);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_gives_the_same_person() {
        let one = case(7, 3, Label::Opacity, 48);
        assert_eq!(one, case(7, 3, Label::Opacity, 48));
        assert_ne!(one.image, case(7, 4, Label::Opacity, 48).image);
        assert_ne!(one.image, case(8, 3, Label::Opacity, 48).image);
        assert_eq!(case(7, 3, Label::Healthy, 48).image, one.twin, "the twin is the same person in health");
    }

    #[test]
    fn disease_changes_the_image_where_its_mask_is() {
        let (mut inside, mut outside, mut pixels) = (0.0, 0.0, [0usize; 2]);
        for index in 0..12 {
            let c = case(11, index, Label::Opacity, 64);
            assert!(!c.boxes.is_empty() && c.boxes.len() == c.masks.len());
            for b in &c.boxes {
                assert!(b[0] >= 0.0 && b[1] >= 0.0 && b[0] + b[2] <= 1.0 && b[1] + b[3] <= 1.0, "{b:?}");
            }
            for i in 0..64 * 64 {
                let d = f64::from((c.image[i] - c.twin[i]).abs());
                if c.masks.iter().any(|m| m[i]) {
                    (inside, pixels[0]) = (inside + d, pixels[0] + 1);
                } else {
                    (outside, pixels[1]) = (outside + d, pixels[1] + 1);
                }
            }
        }
        let (inside, outside) = (inside / pixels[0] as f64, outside / pixels[1] as f64);
        assert!(inside > 0.1 && outside < 0.03, "inside {inside}, outside {outside}");
    }

    #[test]
    fn people_differ_but_lungs_are_dark() {
        let cases: Vec<Case> = (0..8).map(|i| case(1, i, Label::Healthy, 64)).collect();
        for c in &cases {
            assert!(c.boxes.is_empty() && c.image == c.twin);
            assert!((18..=92).contains(&c.age));
            let mean = |wanted: bool| {
                let some: Vec<f32> =
                    c.image.iter().zip(&c.lung).filter(|(_, l)| (**l > 0.5) == wanted).map(|(x, _)| *x).collect();
                some.iter().sum::<f32>() / some.len() as f32
            };
            assert!(mean(true) + 0.1 < mean(false), "lung {} body {}", mean(true), mean(false));
        }
        assert!(cases.iter().any(|c| c.sex == 'F') && cases.iter().any(|c| c.sex == 'M'));
    }

    #[test]
    fn enlarging_keeps_flat_images_flat_and_corners_in_place() {
        assert!(enlarge(&[0.5; 64], 8, 20).iter().all(|v| (v - 0.5).abs() < 1e-6));
        let ramp: Vec<f32> = (0..64).map(|i| (i % 8) as f32).collect();
        let big = enlarge(&ramp, 8, 16);
        assert!(big[7] < big[8] && (big[8] - 3.75).abs() < 1e-5, "{:?}", &big[..16]);
    }
}

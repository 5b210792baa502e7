//! Pillow's antialiased bilinear resize of 8-bit images, bit for bit (Pillow 13): 22-bit integer weights, two passes with
//! rounding to 8 bit between them.

use crate::readers::Grey;

const BITS: u32 = 22;

struct Weights {
    /// First input pixel and weights of each output pixel.
    taps: Vec<(usize, Vec<i32>)>,
}

impl Weights {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let taps = (0..output)
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
        Self { taps }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn horizontal(image: &Grey, width: usize) -> Grey {
    let weights = Weights::new(image.width, width);
    let mut pixels = Vec::with_capacity(width * image.height);
    for row in image.pixels.chunks_exact(image.width) {
        pixels.extend(weights.taps.iter().map(|(first, taps)| {
            let sum: i32 = row[*first..].iter().zip(taps).map(|(p, w)| i32::from(*p) * w).sum();
            clip(sum + (1 << (BITS - 1)))
        }));
    }
    Grey { width, height: image.height, pixels }
}

fn vertical(image: &Grey, height: usize) -> Grey {
    let weights = Weights::new(image.height, height);
    let mut pixels = Vec::with_capacity(image.width * height);
    let mut sums = vec![0i32; image.width];
    for (first, taps) in &weights.taps {
        sums.fill(1 << (BITS - 1));
        for (row, weight) in image.pixels[first * image.width..].chunks_exact(image.width).zip(taps) {
            for (sum, pixel) in sums.iter_mut().zip(row) {
                *sum += i32::from(*pixel) * weight;
            }
        }
        pixels.extend(sums.iter().map(|s| clip(*s)));
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

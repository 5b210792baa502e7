//! Contrast-limited adaptive histogram equalisation as OpenCV's `createCLAHE(clip, (tiles, tiles)).apply` does it.

use morph_spec::dataset::Clahe;

use crate::readers::Grey;

const LEVELS: usize = 256;

/// Equalises a square image in place.
pub(crate) fn equalise(image: &mut Grey, options: Clahe) {
    let (side, tiles) = (image.width, (options.tiles.max(1) as usize).min(image.width));
    let tile = side.div_ceil(tiles);
    let area = tile * tile;
    // Beyond the edge the image is mirrored, so that all tiles are of one size.
    let mirrored = |i: usize| if i < side { i } else { (2 * side).saturating_sub(i + 2) };
    let mut tables = vec![[0f32; LEVELS]; tiles * tiles];
    for (at, table) in tables.iter_mut().enumerate() {
        let (left, top) = (at % tiles * tile, at / tiles * tile);
        let mut counts = [0usize; LEVELS];
        for y in (top..top + tile).map(mirrored) {
            (left..left + tile).map(mirrored).for_each(|x| counts[usize::from(image.pixels[y * side + x])] += 1);
        }
        clip(&mut counts, ((options.clip * area as f64 / LEVELS as f64) as usize).max(1));
        let scale = (LEVELS - 1) as f32 / area as f32;
        let mut sum = 0;
        for (level, n) in table.iter_mut().zip(counts) {
            sum += n;
            *level = (sum as f32 * scale).round_ties_even().clamp(0.0, 255.0);
        }
    }
    // Between the middles of tiles their tables are mixed.
    let between = |i: usize| {
        let at = i as f32 * (1.0 / tile as f32) - 0.5;
        let first = at.floor();
        let share = at - first;
        (first.max(0.0) as usize, ((first + 1.0) as usize).min(tiles - 1), share)
    };
    let columns: Vec<_> = (0..side).map(between).collect();
    for (y, row) in image.pixels.chunks_exact_mut(side).enumerate() {
        let (top, bottom, down) = between(y);
        for (pixel, (left, right, across)) in row.iter_mut().zip(&columns) {
            let level = |row: usize, column: usize| tables[row * tiles + column][usize::from(*pixel)];
            let line = |row: usize| level(row, *left) * (1.0 - across) + level(row, *right) * across;
            *pixel = (line(top) * (1.0 - down) + line(bottom) * down).round_ties_even().clamp(0.0, 255.0) as u8;
        }
    }
}

/// What is above `limit` is spread over all levels.
fn clip(counts: &mut [usize; LEVELS], limit: usize) {
    let mut excess = 0;
    for n in counts.iter_mut() {
        excess += n.saturating_sub(limit);
        *n = (*n).min(limit);
    }
    let (each, rest) = (excess / LEVELS, excess % LEVELS);
    counts.iter_mut().for_each(|n| *n += each);
    if let Some(step) = LEVELS.checked_div(rest) {
        counts.iter_mut().step_by(step).take(rest).for_each(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenCV 5.0 makes of this image: a digest of all pixels, and some of the eighth row. Made by
    /// `cv2.createCLAHE(clip, (tiles, tiles)).apply(image)`.
    #[test]
    fn opencvs_bits() {
        let image = |side: usize| {
            let pixels = (0..side * side).map(|i| {
                let (x, y) = (i % side, i / side);
                ((x * x + 3 * y * y + x * y / 2) / 16 % 256) as u8
            });
            Grey { width: side, height: side, pixels: pixels.collect() }
        };
        for (side, clip, tiles, sum, first) in OPENCV {
            let mut image = image(side);
            equalise(&mut image, Clahe { clip, tiles });
            let digest = image.pixels.iter().fold(0u64, |h, p| (h * 31 + u64::from(*p)) % 1_000_000_007);
            assert_eq!((digest, &image.pixels[side * 7..side * 7 + 6]), (sum, &first[..]), "{side} {clip} {tiles}");
        }
    }

    const OPENCV: [(usize, f64, u32, u64, [u8; 6]); 4] = [
        (64, 2.0, 8, 488853739, [33, 33, 33, 38, 40, 39]),
        (128, 2.0, 8, 19394531, [30, 30, 30, 33, 36, 36]),
        (100, 3.5, 8, 918348687, [37, 37, 37, 40, 43, 43]),
        (50, 40.0, 4, 259510049, [112, 112, 112, 119, 128, 128]),
    ];
}

//! An anomaly map laid over its image, on a scale that the caller gives.
//!
//! A map that is stretched to its own maximum shows bright spots in healthy lungs, too. So there is no way here to draw one
//! without saying what its brightest colour means; take it from the validation set's residuals, the same for all images.

use crate::{
    Error, font,
    picture::{INK, PAPER, Rgb},
    readers::Grey,
};

/// The inferno colour map (Smith & van der Walt 2015, CC0), dark to bright, as 0xRRGGBB.
#[rustfmt::skip]
const INFERNO: [u32; 256] = [
    0x000003, 0x000004, 0x000006, 0x010007, 0x010109, 0x01010b, 0x02010e, 0x020210, 0x030212, 0x040314, 0x040316,
    0x050418, 0x06041b, 0x07051d, 0x08061f, 0x090621, 0x0a0723, 0x0b0726, 0x0d0828, 0x0e082a, 0x0f092d, 0x10092f,
    0x120a32, 0x130a34, 0x140b36, 0x160b39, 0x170b3b, 0x190b3e, 0x1a0b40, 0x1c0c43, 0x1d0c45, 0x1f0c47, 0x200c4a,
    0x220b4c, 0x240b4e, 0x260b50, 0x270b52, 0x290b54, 0x2b0a56, 0x2d0a58, 0x2e0a5a, 0x300a5c, 0x32095d, 0x34095f,
    0x350960, 0x370961, 0x390962, 0x3b0964, 0x3c0965, 0x3e0966, 0x400966, 0x410967, 0x430a68, 0x450a69, 0x460a69,
    0x480b6a, 0x4a0b6a, 0x4b0c6b, 0x4d0c6b, 0x4f0d6c, 0x500d6c, 0x520e6c, 0x530e6d, 0x550f6d, 0x570f6d, 0x58106d,
    0x5a116d, 0x5b116e, 0x5d126e, 0x5f126e, 0x60136e, 0x62146e, 0x63146e, 0x65156e, 0x66156e, 0x68166e, 0x6a176e,
    0x6b176e, 0x6d186e, 0x6e186e, 0x70196e, 0x72196d, 0x731a6d, 0x751b6d, 0x761b6d, 0x781c6d, 0x7a1c6d, 0x7b1d6c,
    0x7d1d6c, 0x7e1e6c, 0x801f6b, 0x811f6b, 0x83206b, 0x85206a, 0x86216a, 0x88216a, 0x892269, 0x8b2269, 0x8d2369,
    0x8e2468, 0x902468, 0x912567, 0x932567, 0x952666, 0x962666, 0x982765, 0x992864, 0x9b2864, 0x9c2963, 0x9e2963,
    0xa02a62, 0xa12b61, 0xa32b61, 0xa42c60, 0xa62c5f, 0xa72d5f, 0xa92e5e, 0xab2e5d, 0xac2f5c, 0xae305b, 0xaf315b,
    0xb1315a, 0xb23259, 0xb43358, 0xb53357, 0xb73456, 0xb83556, 0xba3655, 0xbb3754, 0xbd3753, 0xbe3852, 0xbf3951,
    0xc13a50, 0xc23b4f, 0xc43c4e, 0xc53d4d, 0xc73e4c, 0xc83e4b, 0xc93f4a, 0xcb4049, 0xcc4148, 0xcd4247, 0xcf4446,
    0xd04544, 0xd14643, 0xd24742, 0xd44841, 0xd54940, 0xd64a3f, 0xd74b3e, 0xd94d3d, 0xda4e3b, 0xdb4f3a, 0xdc5039,
    0xdd5238, 0xde5337, 0xdf5436, 0xe05634, 0xe25733, 0xe35832, 0xe45a31, 0xe55b30, 0xe65c2e, 0xe65e2d, 0xe75f2c,
    0xe8612b, 0xe9622a, 0xea6428, 0xeb6527, 0xec6726, 0xed6825, 0xed6a23, 0xee6c22, 0xef6d21, 0xf06f1f, 0xf0701e,
    0xf1721d, 0xf2741c, 0xf2751a, 0xf37719, 0xf37918, 0xf47a16, 0xf57c15, 0xf57e14, 0xf68012, 0xf68111, 0xf78310,
    0xf7850e, 0xf8870d, 0xf8880c, 0xf88a0b, 0xf98c09, 0xf98e08, 0xf99008, 0xfa9107, 0xfa9306, 0xfa9506, 0xfa9706,
    0xfb9906, 0xfb9b06, 0xfb9d06, 0xfb9e07, 0xfba007, 0xfba208, 0xfba40a, 0xfba60b, 0xfba80d, 0xfbaa0e, 0xfbac10,
    0xfbae12, 0xfbb014, 0xfbb116, 0xfbb318, 0xfbb51a, 0xfbb71c, 0xfbb91e, 0xfabb21, 0xfabd23, 0xfabf25, 0xfac128,
    0xf9c32a, 0xf9c52c, 0xf9c72f, 0xf8c931, 0xf8cb34, 0xf8cd37, 0xf7cf3a, 0xf7d13c, 0xf6d33f, 0xf6d542, 0xf5d745,
    0xf5d948, 0xf4db4b, 0xf4dc4f, 0xf3de52, 0xf3e056, 0xf3e259, 0xf2e45d, 0xf2e660, 0xf1e864, 0xf1e968, 0xf1eb6c,
    0xf1ed70, 0xf1ee74, 0xf1f079, 0xf1f27d, 0xf2f381, 0xf2f485, 0xf3f689, 0xf4f78d, 0xf5f891, 0xf6fa95, 0xf7fb99,
    0xf9fc9d, 0xfafda0, 0xfcfea4,
];

/// How much of the colour is seen where the map is at the scale's end or beyond.
const OPACITY: f32 = 0.85;
/// Grey behind the colours of the scale's bar.
const MIDDLE: u8 = 128;
/// Pixels of an image's width for each step of the caption's size.
const WIDTH_PER_ZOOM: usize = 256;
const GAP: usize = 4;
const BAR: usize = 6;

/// How anomalous each pixel is: mostly |x − x̂|, smoothed or not; at the network's resolution, which may be coarser than the
/// image's.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// Values in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major; below 0 counts as 0.
    pub values: &'a [f32],
}

/// The colour of `v`, 0 to 1; beyond that, of the nearer end. Equal to matplotlib's.
pub fn inferno(v: f32) -> [u8; 3] {
    let [_, r, g, b] = INFERNO[((v.max(0.0) * 256.0) as usize).min(255)].to_be_bytes();
    [r, g, b]
}

/// The image in grey with the map's colours over it: none where the map is 0, so that healthy tissue stays as it is, and
/// brightest from `scale` on. The map is interpolated bilinearly over the whole image.
///
/// # Errors
/// [`Error::Picture`] when sizes do not fit, the map is finer than the image, the scale is not above 0, or a value is no number.
pub fn overlay(image: &Grey, map: &Map<'_>, scale: f32) -> Result<Rgb, Error> {
    overlay_within(image, map, [0.0, 0.0, image.width as f32, image.height as f32], scale)
}

/// [`overlay`] of a map that is of `place` only: left, top, width, height in the image's pixels, perhaps beyond its edges. What lies
/// outside has no colours.
///
/// # Errors
/// As [`overlay`].
pub fn overlay_within(image: &Grey, map: &Map<'_>, place: [f32; 4], scale: f32) -> Result<Rgb, Error> {
    let [left, top, across, down] = place;
    let bad = |why: String| Err(Error::Picture(why));
    let Grey { width, height, pixels } = image;
    if *width == 0 || *height == 0 || width * height != pixels.len() {
        return bad(format!("{} pixels are no image of {width}x{height}", pixels.len()));
    }
    if map.width == 0 || map.height == 0 || map.width * map.height != map.values.len() {
        return bad(format!("{} values are no map of {}x{}", map.values.len(), map.width, map.height));
    }
    if map.width as f32 > across || map.height as f32 > down {
        return bad(format!("a map of {}x{} is finer than the image of {across}x{down}", map.width, map.height));
    }
    if !(scale.is_finite() && scale > 0.0) {
        return bad(format!("a scale from 0 to {scale} is none"));
    }
    if let Some(i) = map.values.iter().position(|v| !v.is_finite()) {
        return bad(format!("the map's value {i} (row {}) is {}", i / map.width, map.values[i]));
    }
    let (columns, rows) = (taps(*width, left, across, map.width), taps(*height, top, down, map.height));
    let mut out = Vec::with_capacity(pixels.len() * 3);
    for (line, row) in pixels.chunks_exact(*width).zip(&rows) {
        for (grey, column) in line.iter().zip(&columns) {
            let at = |row: usize, column: usize| map.values[row * map.width + column];
            let mix = |a: f32, b: f32, part: f32| a + (b - a) * part;
            let value = match (row, column) {
                (Some((top, bottom, down)), Some((left, right, along))) => {
                    let above = mix(at(*top, *left), at(*top, *right), *along);
                    let below = mix(at(*bottom, *left), at(*bottom, *right), *along);
                    mix(above, below, *down)
                }
                _ => 0.0,
            };
            out.extend(blend(*grey, value / scale));
        }
    }
    Ok(Rgb { width: *width, height: *height, pixels: out })
}

/// For each of `output` pixels the two of `input` values that it lies between, and how far on the way to the second; `None` outside of
/// the `length` pixels from `from` on that the values are of.
fn taps(output: usize, from: f32, length: f32, input: usize) -> Vec<Option<(usize, usize, f32)>> {
    let tap = |i: usize| {
        let middle = i as f32 + 0.5 - from;
        let place = (middle * input as f32 / length - 0.5).max(0.0);
        let first = (place as usize).min(input - 1);
        (0.0..=length).contains(&middle).then(|| (first, (first + 1).min(input - 1), place - first as f32))
    };
    (0..output).map(tap).collect()
}

fn blend(grey: u8, v: f32) -> [u8; 3] {
    let v = v.clamp(0.0, 1.0);
    let share = OPACITY * v;
    inferno(v).map(|c| (f32::from(grey) * (1.0 - share) + f32::from(c) * share).round() as u8)
}

/// The image with a strip below it: the bar of colours with its scale, and `text`, in capitals. The image's own pixels stay as
/// they are.
pub fn captioned(image: &Rgb, scale: f32, text: &str) -> Rgb {
    let zoom = (image.width / WIDTH_PER_ZOOM).max(1);
    let (gap, step) = (GAP * zoom, (font::WIDTH + 1) * zoom);
    let inner = image.width.saturating_sub(2 * gap).max(1);
    let lines = wrapped(text, (inner / step).max(1));
    let line = font::HEIGHT * zoom + gap;
    let height = image.height + gap + BAR * zoom + gap + line * (1 + lines.len());
    let mut out = Rgb::filled(image.width, height, PAPER);
    out.pixels[..image.pixels.len()].copy_from_slice(&image.pixels);
    let mut y = image.height + gap;
    for row in y..y + BAR * zoom {
        for column in 0..inner {
            out.dot(gap + column, row, blend(MIDDLE, column as f32 / (inner - 1).max(1) as f32));
        }
    }
    y += BAR * zoom + gap;
    let end = format!("{scale:.3}");
    out.text(gap, y, zoom, INK, "0");
    out.text((gap + inner).saturating_sub(end.len() * step).max(gap + 2 * step), y, zoom, INK, &end);
    for text in &lines {
        y += line;
        out.text(gap, y, zoom, INK, text);
    }
    out
}

/// `text` in lines of at most `columns` characters, broken between words where that is possible.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if !line.is_empty() && line.chars().count() + 1 + word.len() > columns {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > columns {
            lines.push(word.drain(..columns).collect());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    lines.push(line);
    lines.retain(|l| !l.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: usize, height: usize, grey: u8) -> Grey {
        Grey { width, height, pixels: vec![grey; width * height] }
    }

    fn at(image: &Rgb, x: usize, y: usize) -> [u8; 3] {
        image.pixels[(y * image.width + x) * 3..][..3].try_into().unwrap()
    }

    #[test]
    fn colours_are_matplotlibs() {
        // matplotlib 3.11: colormaps["inferno"]([0, .25, .5, .75, 1], bytes=True)
        for (v, wanted) in [
            (0.0, [0, 0, 3]),
            (0.25, [87, 15, 109]),
            (0.5, [187, 55, 84]),
            (0.75, [249, 142, 8]),
            (1.0, [252, 254, 164]),
            (7.0, [252, 254, 164]),
            (-1.0, [0, 0, 3]),
        ] {
            assert_eq!(inferno(v), wanted, "{v}");
        }
    }

    #[test]
    fn a_map_of_a_part_colours_that_part() {
        let map = Map { width: 2, height: 2, values: &[0.5, 1.0, 0.5, 1.0] };
        let out = overlay_within(&flat(8, 4, 90), &map, [2.0, 0.0, 4.0, 4.0], 1.0).unwrap();
        for x in [0, 1, 6, 7] {
            assert_eq!(at(&out, x, 1), [90; 3], "column {x} is none of it");
        }
        assert_eq!((at(&out, 2, 1), at(&out, 5, 3)), (blend(90, 0.5), blend(90, 1.0)));
        // The upper half of the map is of a bar above the image.
        let map = Map { width: 2, height: 2, values: &[1.0, 1.0, 0.0, 0.0] };
        let out = overlay_within(&flat(8, 4, 90), &map, [0.0, -4.0, 8.0, 8.0], 1.0).unwrap();
        assert_eq!((at(&out, 3, 3), at(&out, 3, 2)), ([90; 3], [90; 3]));
        assert!(at(&out, 3, 0) != [90; 3], "interpolated towards the bar's value");
        assert!(overlay_within(&flat(8, 4, 90), &map, [2.0, 0.0, 1.0, 4.0], 1.0).is_err(), "finer than its part");
    }

    #[test]
    fn one_value_has_one_colour_whatever_else_the_map_holds() {
        let image = flat(2, 1, 100);
        let faint = overlay(&image, &Map { width: 2, height: 1, values: &[0.1, 0.0] }, 0.5).unwrap();
        let strong = overlay(&image, &Map { width: 2, height: 1, values: &[0.1, 0.5] }, 0.5).unwrap();
        assert_eq!(at(&faint, 0, 0), at(&strong, 0, 0));
        assert_eq!(at(&faint, 1, 0), [100; 3], "no anomaly, no colour");
        let end = inferno(1.0).map(|c| (100.0 * (1.0 - OPACITY) + f32::from(c) * OPACITY).round() as u8);
        assert_eq!(at(&strong, 1, 0), end);
        let beyond = overlay(&image, &Map { width: 2, height: 1, values: &[9.0, 0.5] }, 0.5).unwrap();
        assert_eq!(at(&beyond, 0, 0), end, "beyond the scale is the scale's end");
    }

    #[test]
    fn a_coarse_map_covers_the_image_and_is_interpolated() {
        let values = [0.0, 1.0];
        let out = overlay(&flat(8, 2, 0), &Map { width: 2, height: 1, values: &values }, 1.0).unwrap();
        let brightness = |x: usize| at(&out, x, 1).iter().map(|c| u32::from(*c)).sum::<u32>();
        assert_eq!((brightness(0), at(&out, 0, 0)), (0, [0; 3]));
        assert_eq!(at(&out, 7, 0), blend(0, 1.0));
        assert_eq!(at(&out, 3, 0), blend(0, 0.375), "pixel 3's centre lies 3/8 of the way between the two");
        assert!((1..8).all(|x| brightness(x) >= brightness(x - 1)));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let image = flat(4, 4, 0);
        let map = |width, height, values| Map { width, height, values };
        for (said, map, scale) in [
            ("no map", map(2, 2, &[0.0; 3]), 1.0),
            ("finer", map(8, 1, &[0.0; 8]), 1.0),
            ("scale", map(1, 1, &[0.0]), 0.0),
            ("scale", map(1, 1, &[0.0]), f32::NAN),
            ("value 3 (row 1) is NaN", map(2, 2, &[0.0, 0.0, 0.0, f32::NAN]), 1.0),
        ] {
            let why = overlay(&image, &map, scale).unwrap_err().to_string();
            assert!(why.contains(said), "{why}");
        }
        let broken = Grey { width: 4, height: 4, pixels: vec![0; 15] };
        assert!(overlay(&broken, &map(1, 1, &[0.0]), 1.0).unwrap_err().to_string().contains("no image"));
    }

    #[test]
    fn a_caption_stands_below_and_leaves_the_image_alone() {
        let image = Rgb { width: 64, height: 8, pixels: vec![7; 64 * 8 * 3] };
        let out = captioned(&image, 0.25, "research use only");
        assert_eq!((out.width, &out.pixels[..image.pixels.len()]), (64, &image.pixels[..]));
        assert_eq!(out.pixels.len(), out.width * out.height * 3);
        assert!(out.pixels.chunks(3).filter(|p| **p == INK).count() > 100, "something is written");
        assert_ne!(captioned(&image, 0.5, "research use only"), out, "the scale is written down");
        let wide = captioned(&Rgb { width: 512, height: 1, pixels: vec![0; 512 * 3] }, 0.25, "x");
        assert!(wide.height - 1 > 2 * (GAP + BAR), "large images have large letters");
        assert_eq!(wrapped("not for diagnosis abcdefghijkl", 9), ["not for", "diagnosis", "abcdefghi", "jkl"]);
    }
}

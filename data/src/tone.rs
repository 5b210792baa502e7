//! From values to grey levels of 8 bit.

use morph_spec::dataset::{Levels, Preprocess};

use crate::readers::{Function, Grey, Image, Lut, Values, Voi};

/// Bins that percentiles of floats are taken from: a grey level in 256 of them.
const BINS: usize = 1 << 16;

/// Values of `bits` bits as 8-bit grey levels, rounded; 8-bit values stay as they are.
fn to_8_bit(value: u32, bits: u32) -> u8 {
    let top = (1u64 << bits.clamp(1, 32)) - 1;
    ((u64::from(value).min(top) * 255 + top / 2) / top) as u8
}

/// The image in 8 bit: rescaled, brought to grey levels, inverted when low values are bright.
///
/// # Errors
/// A text that says why nothing would be left of it.
pub fn grey(image: &Image, preprocess: &Preprocess) -> Result<Grey, String> {
    let pixels = match &image.values {
        Values::Bytes(v) => {
            let levels = table(image, preprocess, &histogram(image, preprocess, v, 256))?;
            if levels.iter().enumerate().all(|(v, level)| v == usize::from(*level)) {
                v.clone()
            } else {
                through(v, &levels)
            }
        }
        Values::Words(v) => through(v, &table(image, preprocess, &histogram(image, preprocess, v, 1 << 16))?),
        Values::Floats(v) => floats(image, preprocess, v)?,
    };
    Ok(Grey { width: image.width, height: image.height, pixels })
}

/// How often each value comes; where nothing depends on it, once. What stands for no image does not count, unless there is nothing else.
fn histogram<T: Copy + Into<usize>>(image: &Image, preprocess: &Preprocess, values: &[T], len: usize) -> Vec<u32> {
    if preprocess.levels == Levels::Bits {
        return vec![1; len];
    }
    let mut counts = vec![0; len];
    for v in values {
        counts[(*v).into()] += 1;
    }
    if let Some((low, high)) = image.padding {
        let padded = usize::from(low)..=usize::from(high).min(len - 1);
        if counts.iter().enumerate().any(|(v, n)| *n > 0 && !padded.contains(&v)) {
            counts[padded].fill(0);
        }
    }
    counts
}

fn through<T: Copy + Into<usize>>(values: &[T], levels: &[u8]) -> Vec<u8> {
    values.iter().map(|v| levels[(*v).into()]).collect()
}

/// The grey level of every value that may come.
fn table(image: &Image, preprocess: &Preprocess, counts: &[u32]) -> Result<Vec<u8>, String> {
    let (slope, intercept) = image.rescale;
    let mask = (1u32 << image.bits) - 1;
    let shift = image.offset() as f64;
    let rescaled = |v: usize| (v as f64 + shift) * slope + intercept;
    let range = range(image, preprocess, counts)?;
    let lost = |levels: &str| {
        format!("its rescale (slope {slope}, intercept {intercept}) leaves nothing of its {} bits{levels}", image.bits)
    };
    if matches!(range, Range::Bits) && !(slope.is_finite() && slope != 0.0 && intercept.is_finite()) {
        return Err(lost(""));
    }
    let level = |v: usize| match range {
        // From the lowest to the highest that the bits can hold, both rescaled: a line through them changes no grey level, but for
        // which end is the bright one.
        Range::Bits if slope < 0.0 => to_8_bit(mask.saturating_sub(v as u32), image.bits),
        Range::Bits => to_8_bit(v as u32, image.bits),
        Range::Between { black, white } => between(rescaled(v), black, white),
        Range::Sigmoid { center, width } => sigmoid(rescaled(v), center, width),
        Range::Table(table) => to_8_bit(table.at(rescaled(v)).into(), table.bits),
    };
    let inverted = |grey: u8| if image.inverted { 255 - grey } else { grey };
    let table: Vec<u8> = (0..counts.len()).map(|v| inverted(level(v))).collect();
    let mut used = counts.iter().zip(&table).filter(|(n, _)| **n > 0);
    let first = used.next().map(|(_, level)| level);
    // A constant image stays one; anything else that becomes one was lost on the way.
    let mut constant = true;
    let mut several = false;
    for (_, level) in used {
        several = true;
        constant &= Some(level) == first;
    }
    if several && constant && preprocess.levels != Levels::Bits {
        return Err(lost(" under preprocess.levels"));
    }
    Ok(table)
}

/// What becomes black and white, in values after the rescale.
#[derive(Debug, Clone, Copy)]
enum Range<'a> {
    /// All that the stored bits can hold, rescaled.
    Bits,
    Between {
        black: f64,
        white: f64,
    },
    /// A curve that has no ends.
    Sigmoid {
        center: f64,
        width: f64,
    },
    Table(&'a Lut),
}

/// A window (PS3.3 C.11.2.1.2.1, C.11.2.1.3) as black and white.
fn window<'a>(center: f64, width: f64, function: Function) -> Range<'a> {
    let (center, width) = match function {
        Function::Linear => (center - 0.5, width - 1.0),
        Function::LinearExact => (center, width),
        Function::Sigmoid => return Range::Sigmoid { center, width },
    };
    let half = (width / 2.0).max(f64::EPSILON);
    Range::Between { black: center - half, white: center + half }
}

fn sigmoid(value: f64, center: f64, width: f64) -> u8 {
    (255.0 / (1.0 + (-4.0 * (value - center) / width).exp())).round() as u8
}

fn between(value: f64, black: f64, white: f64) -> u8 {
    if value.is_nan() || white <= black {
        return 0;
    }
    (((value - black) / (white - black)).clamp(0.0, 1.0) * 255.0).round() as u8
}

fn range<'a>(image: &'a Image, preprocess: &Preprocess, counts: &[u32]) -> Result<Range<'a>, String> {
    let (slope, intercept) = image.rescale;
    let rescaled = |v: usize| (v as f64 + image.offset() as f64) * slope + intercept;
    let ends = |low: f64, high: f64| {
        let (a, b) = (rescaled(quantile(counts, low)), rescaled(quantile(counts, high)));
        Range::Between { black: a.min(b), white: a.max(b) }
    };
    Ok(match preprocess.levels {
        Levels::Bits => Range::Bits,
        Levels::MinMax => ends(0.0, 1.0),
        Levels::Percentile => ends(preprocess.percentile.low / 100.0, preprocess.percentile.high / 100.0),
        Levels::Window => preprocess.window.map_or(Range::Bits, |w| window(w.center, w.width, Function::Linear)),
        Levels::FileWindow => match image.voi.as_ref().map_err(String::clone)? {
            None => Range::Bits,
            Some(Voi::Window(center, width, function)) => window(*center, *width, *function),
            Some(Voi::Table(table)) => Range::Table(table),
        },
    })
}

/// The smallest value that at least a `share` of all values do not exceed.
fn quantile(counts: &[u32], share: f64) -> usize {
    let total: u64 = counts.iter().map(|n| u64::from(*n)).sum();
    let wanted = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0;
    counts
        .iter()
        .position(|n| {
            seen += u64::from(*n);
            seen >= wanted
        })
        .unwrap_or(0)
}

fn floats(image: &Image, preprocess: &Preprocess, values: &[f32]) -> Result<Vec<u8>, String> {
    let (slope, intercept) = image.rescale;
    let rescaled = |v: f32| f64::from(v) * slope + intercept;
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        let v = rescaled(*v);
        (low.min(v), high.max(v))
    });
    let (black, white) = match preprocess.levels {
        Levels::MinMax => (low, high),
        Levels::Percentile => {
            let step = (high - low) / (BINS - 1) as f64;
            if step == 0.0 {
                (low, high)
            } else {
                let mut counts = vec![0; BINS];
                // Rounding may lead beyond the last.
                values.iter().for_each(|v| counts[(((rescaled(*v) - low) / step) as usize).min(BINS - 1)] += 1);
                let at = |share: f64| low + quantile(&counts, share / 100.0) as f64 * step;
                (at(preprocess.percentile.low), at(preprocess.percentile.high))
            }
        }
        // Fractions have no half a value beside them: the window is taken as it is.
        Levels::Window if preprocess.window.is_some() => {
            preprocess.window.map_or((low, high), |w| (w.center - w.width / 2.0, w.center + w.width / 2.0))
        }
        Levels::Bits | Levels::Window | Levels::FileWindow => {
            return Err(
                "its values are no integers of up to 16 bits: set preprocess.levels to min-max, percentile or window"
                    .into(),
            );
        }
    };
    let inverted = |grey: u8| if image.inverted { 255 - grey } else { grey };
    Ok(values.iter().map(|v| inverted(between(rescaled(*v), black, white))).collect())
}

#[cfg(test)]
mod tests {
    use morph_spec::dataset::{Percentile, Window};

    use super::*;

    #[test]
    fn scaling_keeps_the_ends_and_8_bit_values() {
        for v in 0..=255 {
            assert_eq!(u32::from(to_8_bit(v, 8)), v);
        }
        assert_eq!((to_8_bit(0, 12), to_8_bit(4095, 12), to_8_bit(2048, 12)), (0, 255, 128));
        assert_eq!(to_8_bit(9999, 12), 255, "values beyond the stored bits are white");
        assert_eq!(to_8_bit(65535, 16), 255);
    }

    fn image(values: Values) -> Image {
        let n = match &values {
            Values::Bytes(v) => v.len(),
            Values::Words(v) => v.len(),
            Values::Floats(v) => v.len(),
        };
        Image { bits: 12, ..Image::plain(n, 1, values, 12) }
    }

    fn with(levels: Levels) -> Preprocess {
        Preprocess { levels, ..Preprocess::default() }
    }

    #[test]
    fn every_kind_of_levels() {
        let words = image(Values::Words(vec![1000, 1500, 2000]));
        let pixels = |p: &Preprocess| grey(&words, p).unwrap().pixels;
        assert_eq!(pixels(&with(Levels::Bits)), [62, 93, 125]);
        assert_eq!(pixels(&with(Levels::MinMax)), [0, 128, 255]);
        let window = Preprocess { window: Some(Window { center: 1500.5, width: 1001.0 }), ..with(Levels::Window) };
        assert_eq!(pixels(&window), [0, 128, 255], "PS3.3: center - 0.5 is the middle, width - 1 the range");
        let named = |voi| grey(&Image { voi, ..words.clone() }, &with(Levels::FileWindow)).map(|grey| grey.pixels);
        let window = |center, width, function| named(Ok(Some(Voi::Window(center, width, function)))).unwrap();
        assert_eq!(window(1500.5, 1001.0, Function::Linear), [0, 128, 255]);
        assert_eq!(window(1500.0, 1000.0, Function::LinearExact), [0, 128, 255]);
        assert_eq!(window(1500.0, 1000.0, Function::Sigmoid), [30, 128, 225], "255 / (1 + e^±2)");
        let table = Lut { first: 1000, entries: (0..=1000).map(|i| 1023 - i).collect(), bits: 10 };
        assert_eq!(named(Ok(Some(Voi::Table(table)))).unwrap(), [255, 130, 6]);
        assert_eq!(named(Err("not known".into())), Err("not known".into()));
        assert_eq!(pixels(&with(Levels::FileWindow)), [62, 93, 125], "a file without a window is taken by its bits");
        let inverted = Image { inverted: true, ..words.clone() };
        assert_eq!(grey(&inverted, &with(Levels::MinMax)).unwrap().pixels, [255, 127, 0]);
    }

    #[test]
    fn a_few_outliers_do_not_darken_the_rest() {
        let mut values: Vec<u16> = (0..1000).map(|i| 1000 + i).collect();
        values[0] = 0;
        values[1] = 4095;
        let options = Preprocess { percentile: Percentile { low: 1.0, high: 99.0 }, ..with(Levels::Percentile) };
        let pixels = grey(&image(Values::Words(values)), &options).unwrap().pixels;
        assert_eq!((pixels[0], pixels[1]), (0, 255));
        assert!(pixels[500].abs_diff(128) <= 2, "{}", pixels[500]);
        let white = pixels.iter().filter(|p| **p == 255).count();
        assert!((11..=13).contains(&white), "one in a hundred is white, and what rounds to it: {white}");
    }

    #[test]
    fn what_stands_for_no_image_decides_nothing() {
        let values = Values::Words(vec![0, 0, 0, 1000, 1500, 2000, 4000]);
        let pixels = |padding, levels| grey(&Image { padding, ..image(values.clone()) }, &with(levels)).unwrap().pixels;
        assert_eq!(pixels(None, Levels::MinMax), [0, 0, 0, 64, 96, 128, 255]);
        assert_eq!(pixels(Some((0, 0)), Levels::MinMax), [0, 0, 0, 0, 43, 85, 255]);
        assert_eq!(pixels(Some((2500, 4095)), Levels::MinMax), [0, 0, 0, 128, 191, 255, 255], "a range of them");
        assert_eq!(pixels(Some((0, 4095)), Levels::MinMax), pixels(None, Levels::MinMax), "there is nothing else");
        assert_eq!(pixels(Some((0, 0)), Levels::Percentile)[3], 0);
        assert_eq!(pixels(Some((0, 0)), Levels::Bits), pixels(None, Levels::Bits));
    }

    #[test]
    fn floats_have_no_bits() {
        let floats = image(Values::Floats(vec![-1.0, 0.0, 1.0]));
        assert!(grey(&floats, &with(Levels::Bits)).unwrap_err().contains("preprocess.levels"));
        for levels in [Levels::MinMax, Levels::Percentile] {
            assert_eq!(grey(&floats, &with(levels)).unwrap().pixels, [0, 128, 255]);
        }
        let unit = Preprocess { window: Some(Window { center: 0.5, width: 1.0 }), ..with(Levels::Window) };
        assert_eq!(grey(&floats, &unit).unwrap().pixels, [0, 0, 255]);
        let flat = image(Values::Floats(vec![3.0; 4]));
        assert_eq!(grey(&flat, &with(Levels::Percentile)).unwrap().pixels, [0; 4]);
    }

    #[test]
    fn a_rescale_costs_no_grey_level() {
        let plain = Image { signed: false, ..image(Values::Words((0..4096).collect())) };
        let pixels =
            |rescale, signed| grey(&Image { rescale, signed, ..plain.clone() }, &with(Levels::Bits)).unwrap().pixels;
        let (wanted, turned) = (pixels((1.0, 0.0), false), pixels((-1.0, 0.0), false));
        assert_eq!((wanted[0], wanted[4095], turned[0], turned[4095]), (0, 255, 255, 0));
        for rescale in [(1.0, -1024.0), (1.0 / 16.0, 0.0), (16.0, 7.0)] {
            for signed in [false, true] {
                assert_eq!(pixels(rescale, signed), wanted, "{rescale:?}");
                assert_eq!(pixels((-rescale.0, rescale.1), signed), turned, "{rescale:?}");
            }
        }
        for rescale in [(0.0, 1.0), (f64::NAN, 0.0), (1.0, f64::INFINITY)] {
            let said = grey(&Image { rescale, ..plain.clone() }, &with(Levels::Bits)).unwrap_err();
            assert!(said.contains("leaves nothing"), "{said}");
        }
    }

    #[test]
    fn a_window_beside_the_image_is_said() {
        let off = Preprocess { window: Some(Window { center: -5000.0, width: 10.0 }), ..with(Levels::Window) };
        assert!(
            grey(&image(Values::Words(vec![1, 2])), &off)
                .unwrap_err()
                .contains("leaves nothing of its 12 bits under preprocess.levels")
        );
        assert!(grey(&image(Values::Words(vec![7, 7])), &with(Levels::MinMax)).is_ok(), "a constant image is constant");
    }
}

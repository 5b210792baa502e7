//! DICOM (PS3.3 C.7.6.3): grey images of one frame and 8 or 16 bits allocated; uncompressed, deflated, RLE, JPEG (baseline,
//! extended of 8 bit, lossless), JPEG-LS, JPEG 2000.

use dicom_core::{PrimitiveValue, Tag, value::Value};
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use morph_spec::dataset::Preprocess;

use super::{Facts, Grey, Image, MOST_PIXELS, OLDEST, Values, codecs, elements, fragments, grey, guarded};

/// Decodes the file to 8 bit: stored values, rescaled (Rescale Slope and Intercept), inverted when MONOCHROME1, and brought to
/// 8 bit by the stored bits. 8-bit images without rescaling come out as they were stored.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn read(bytes: &[u8]) -> Result<(Grey, Facts), String> {
    let (image, facts) = image(bytes)?;
    Ok((grey(&image, &Preprocess::default())?, facts))
}

/// Decodes the file.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8]) -> Result<(Image, Facts), String> {
    guarded(|| decode(bytes))
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Image, Facts), String> {
    let object = elements::read(bytes)?;
    let facts = facts(&object);
    Ok((pixels(object)?, facts))
}

/// Rows times columns, if they are found where most files have them: an estimate, without parsing.
pub(super) fn size(bytes: &[u8]) -> Option<u64> {
    let value = |element: u8| {
        let head = [0x28, 0, element, 0];
        let at = bytes.windows(4).position(|four| four == head)? + 4;
        // Both the explicit (US, length 2) and the implicit (length 2) form are eight bytes with the tag.
        bytes.get(at + 4..)?.first_chunk().map(|b| u64::from(u16::from_le_bytes(*b)))
    };
    value(0x10).zip(value(0x11)).map(|(rows, columns)| rows * columns)
}

/// What is at the bottom of `e`, in words.
pub(super) fn root(e: &(dyn std::error::Error + 'static)) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

fn text(object: &DefaultDicomObject, tag: Tag) -> Option<String> {
    let value = object.element_opt(tag).ok()??.to_str().ok()?.trim_matches(['\0', ' ']).to_owned();
    (!value.is_empty()).then_some(value)
}

fn number(object: &DefaultDicomObject, tag: Tag) -> Option<f64> {
    object.element_opt(tag).ok()??.to_float64().ok()
}

fn facts(object: &DefaultDicomObject) -> Facts {
    Facts {
        id: text(object, tags::PATIENT_ID),
        view: text(object, tags::VIEW_POSITION),
        sex: text(object, tags::PATIENT_SEX).filter(|s| s == "M" || s == "F"),
        age: text(object, tags::PATIENT_AGE).and_then(|a| age(&a)),
        burned_in: text(object, tags::BURNED_IN_ANNOTATION).is_some_and(|t| t.eq_ignore_ascii_case("YES")),
    }
}

/// `062Y` as the standard has it, or `62` as RSNA's files do.
fn age(text: &str) -> Option<u32> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "Y"),
    };
    let n: u32 = digits.parse().ok()?;
    let years = match unit {
        "Y" => n,
        "M" => n / 12,
        "W" => n / 52,
        "D" => n / 365,
        _ => return None,
    };
    (years <= OLDEST).then_some(years)
}

fn pixels(mut object: DefaultDicomObject) -> Result<Image, String> {
    let frames = number(&object, tags::NUMBER_OF_FRAMES).unwrap_or(1.0);
    if frames > 1.0 {
        return Err(format!("it has {frames} frames; only single images are read"));
    }
    let samples = number(&object, tags::SAMPLES_PER_PIXEL).unwrap_or(1.0);
    let photometric = text(&object, tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
    if samples != 1.0 || !matches!(&*photometric, "MONOCHROME1" | "MONOCHROME2") {
        return Err(format!("it is {photometric} with {samples} samples a pixel; only grey images are read"));
    }
    // A file may claim any size; the image must not be larger than what a detector makes.
    let whole = |tag: Tag| number(&object, tag).unwrap_or(0.0);
    let (rows, columns) = (whole(tags::ROWS), whole(tags::COLUMNS));
    if rows < 1.0 || columns < 1.0 || rows * columns > MOST_PIXELS as f64 {
        return Err(format!("an image of {rows}x{columns} pixels makes no sense"));
    }
    let (height, width) = (rows as usize, columns as usize);
    let allocated = whole(tags::BITS_ALLOCATED);
    if allocated != 8.0 && allocated != 16.0 {
        return Err(format!("{allocated} bits allocated are not read"));
    }
    let stored = number(&object, tags::BITS_STORED).unwrap_or(allocated);
    let top = number(&object, tags::HIGH_BIT).unwrap_or(stored - 1.0);
    if stored < 1.0 || top + 1.0 < stored || top >= allocated {
        return Err(format!("{stored} bits stored up to bit {top} of {allocated} are not read"));
    }
    let (bits, top) = (stored as u32, top as u32);
    let size = allocated as usize / 8;
    let signed = whole(tags::PIXEL_REPRESENTATION) == 1.0;
    let slope = number(&object, tags::RESCALE_SLOPE).unwrap_or(1.0);
    let intercept = number(&object, tags::RESCALE_INTERCEPT).unwrap_or(0.0);
    let window = number(&object, tags::WINDOW_CENTER).zip(number(&object, tags::WINDOW_WIDTH));
    let syntax = object.meta().transfer_syntax().trim_end_matches(['\0', ' ']).to_owned();
    let element =
        object.take_element(tags::PIXEL_DATA).map_err(|_| "it cannot be decoded: it has no pixels".to_owned())?;
    let mut values = match element.into_value() {
        Value::Primitive(value) => plain(value, height, width, size)?,
        Value::PixelSequence(fragments) => {
            let fragments = fragments.fragments();
            let joined;
            let stream = match fragments {
                [one] => &one[..],
                many => {
                    joined = many.concat();
                    &joined[..]
                }
            };
            fragments::check(&syntax, stream, height, width, size)?;
            let decoded = codecs::decode(&syntax, stream, width, height, size)?;
            let values = widened(decoded.values, size);
            match decoded.signed {
                // The stream has shifted its values already; the file's header may say otherwise, as some do.
                Some(precision) => restored(values, precision),
                None => values,
            }
        }
        Value::Sequence(_) => return Err("it cannot be decoded: its pixels are a sequence".to_owned()),
    };
    normalise(&mut values, bits, top, signed);
    Ok(Image {
        width,
        height,
        values,
        bits,
        signed,
        rescale: (slope, intercept),
        window: window.filter(|(center, width)| center.is_finite() && *width >= 1.0),
        inverted: photometric == "MONOCHROME1",
    })
}

/// Pixels that are not compressed.
fn plain(value: PrimitiveValue, height: usize, width: usize, size: usize) -> Result<Values, String> {
    let pixels = height * width;
    let short = |bytes: usize| {
        format!("it has {bytes} bytes of pixels, {height} rows of {width} need more: the file is cut off")
    };
    match (value, size) {
        (PrimitiveValue::U16(words), 2) if words.len() >= pixels => {
            let mut words = words.into_vec();
            words.truncate(pixels);
            Ok(Values::Words(words))
        }
        (PrimitiveValue::U8(bytes), 1) if bytes.len() >= pixels => {
            let mut bytes = bytes.into_vec();
            bytes.truncate(pixels);
            Ok(Values::Bytes(bytes))
        }
        // Bytes of 16-bit words are in the order of little endian: big endian has words only (PS3.5 A.3).
        (value, size) => {
            let little: Vec<u8> = match &value {
                PrimitiveValue::U16(words) => words.iter().flat_map(|w| w.to_le_bytes()).collect(),
                other => other.to_bytes().into_owned(),
            };
            let used = little.get(..pixels * size).ok_or_else(|| short(little.len()))?;
            Ok(match size {
                1 => Values::Bytes(used.to_vec()),
                _ => Values::Words(used.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()),
            })
        }
    }
}

/// Values of a decoder as the header's words or bytes: streams of few bits may lie in files of 16, and the other way round.
fn widened(values: Values, size: usize) -> Values {
    match (values, size) {
        (Values::Bytes(v), 2) => Values::Words(v.into_iter().map(u16::from).collect()),
        (Values::Words(v), 1) => Values::Bytes(v.into_iter().map(|v| v as u8).collect()),
        (values, _) => values,
    }
}

/// Two's complement of values whose lowest of `precision` bits is 0.
fn restored(values: Values, precision: u32) -> Values {
    let low = 1u32 << (precision - 1);
    match values {
        Values::Bytes(v) => Values::Bytes(v.into_iter().map(|v| u32::from(v).wrapping_sub(low) as u8).collect()),
        Values::Words(v) => Values::Words(v.into_iter().map(|v| u32::from(v).wrapping_sub(low) as u16).collect()),
        floats @ Values::Floats(_) => floats,
    }
}

/// Takes the stored bits out of their words, and shifts signed values so that the lowest is 0: contrast is the same.
fn normalise(values: &mut Values, bits: u32, top: u32, signed: bool) {
    let shift = top + 1 - bits;
    let mask = ((1u32 << bits) - 1) as u16;
    let sign = if signed { 1u16 << (bits - 1) } else { 0 };
    let change = |v: u16| (v >> shift & mask) ^ sign;
    match values {
        Values::Bytes(v) if (bits, sign) != (8, 0) => v.iter_mut().for_each(|v| *v = change(u16::from(*v)) as u8),
        Values::Words(v) if (bits, sign) != (16, 0) => v.iter_mut().for_each(|v| *v = change(*v)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_as_the_standard_and_as_rsna_writes_them() {
        assert_eq!(age("62"), Some(62));
        assert_eq!(age("062Y"), Some(62));
        assert_eq!(age("018M"), Some(1));
        assert_eq!(age("151"), None, "nobody is 151");
        assert_eq!(age(""), None);
        assert_eq!(age("old"), None);
    }
}

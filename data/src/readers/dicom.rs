//! DICOM (PS3.3 C.7.6.3): grey images of one frame and 8 or 16 bits allocated; uncompressed, deflated, RLE, JPEG (baseline,
//! extended of 8 bit, lossless), JPEG-LS, JPEG 2000.

use dicom_core::{PrimitiveValue, Tag, value::Value};
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use morph_spec::dataset::Preprocess;

use super::{Facts, Grey, Image, Lut, MOST_PIXELS, OLDEST, Values, Voi, codecs, elements, fragments, grey, guarded};

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

/// Rows times columns, if they are found where most files have them: an estimate, without parsing. Of a deflated file what it takes to
/// unpack it and to take it apart: twice what comes out, four times at most.
pub(super) fn size(bytes: &[u8]) -> Option<u64> {
    if let Some(unpacked) = elements::unpacked(bytes) {
        return Some(unpacked / 2);
    }
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

pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.element_opt(tag).ok()??.to_str().ok()?.trim_matches(['\0', ' ']).to_owned();
    (!value.is_empty()).then_some(value)
}

fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    object.element_opt(tag).ok()??.to_float64().ok()
}

fn facts(object: &InMemDicomObject) -> Facts {
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
    let modality = Lut::of(&object, tags::MODALITY_LUT_SEQUENCE, signed)?;
    let window = number(&object, tags::WINDOW_CENTER).zip(number(&object, tags::WINDOW_WIDTH));
    // What comes out of a table has no sign.
    let voi = Voi::of(&object, window, signed && modality.is_none());
    let padding = padding(&object, bits, signed);
    let remarks = remarks(&object, &photometric);
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
    let inverted = photometric == "MONOCHROME1";
    let rescale = (slope, intercept);
    let image = Image { width, height, values, bits, signed, rescale, voi, padding, inverted, remarks };
    Ok(match modality {
        Some(table) => through(image, &table),
        None => image,
    })
}

/// The image after its Modality LUT, which goes before a rescale.
fn through(image: Image, table: &Lut) -> Image {
    let offset = image.offset() as f64;
    let at = |kept: u16| table.at(f64::from(kept) + offset);
    // Looked up once for each value that may come, not once for each pixel.
    let all: Vec<u16> = (0..=u16::MAX).map(at).collect();
    let values = match image.values {
        Values::Bytes(v) => Values::Words(v.into_iter().map(|v| all[usize::from(v)]).collect()),
        Values::Words(v) => Values::Words(v.into_iter().map(|v| all[usize::from(v)]).collect()),
        floats @ Values::Floats(_) => floats,
    };
    let padding = image.padding.map(|(low, high)| (at(low).min(at(high)), at(low).max(at(high))));
    Image { values, bits: table.bits, signed: false, rescale: (1.0, 0.0), padding, ..image }
}

/// Values that stand for no image, as they are kept; none when the stored bits cannot hold them.
fn padding(object: &InMemDicomObject, bits: u32, signed: bool) -> Option<(u16, u16)> {
    let low = if signed { -(1i64 << (bits - 1)) } else { 0 };
    let kept = |tag: Tag| {
        let value = number(object, tag)? as i64;
        // Where types are implied, this reader does not know that it has a sign.
        let value = if signed { i64::from(value as u16 as i16) } else { value };
        u16::try_from(value - low).ok().filter(|kept| u32::from(*kept) < 1 << bits)
    };
    let one = kept(tags::PIXEL_PADDING_VALUE)?;
    let other = kept(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(one);
    Some((one.min(other), one.max(other)))
}

/// What of the file is not heeded, though it says how it is to be shown.
fn remarks(object: &InMemDicomObject, photometric: &str) -> Vec<&'static str> {
    let mut remarks = Vec::new();
    let shape = text(object, tags::PRESENTATION_LUT_SHAPE).unwrap_or_default();
    // In images the two say the same (PS3.3 C.8.11.3): an INVERSE beside MONOCHROME1 is no second inversion.
    if matches!((&*shape, photometric), ("INVERSE", "MONOCHROME2") | ("IDENTITY", "MONOCHROME1")) {
        remarks
            .push("PhotometricInterpretation and PresentationLUTShape contradict each other; the former was believed");
    }
    if object.element(tags::PRESENTATION_LUT_SEQUENCE).is_ok() {
        remarks.push("a PresentationLUTSequence was not applied");
    }
    remarks
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

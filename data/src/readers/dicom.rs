//! DICOM (PS3.3 C.7.6.3): JPEG baseline, RLE and uncompressed grey images of one frame.

use std::panic::catch_unwind;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use dicom_pixeldata::{PixelDecoder, PixelRepresentation};

use super::{Facts, Grey, MOST_PIXELS, elements, fragments, to_8_bit};

/// Older than anybody got: such ages are typing errors (RSNA has five of 148 to 155).
const OLDEST: u32 = 120;

/// Decodes the file: stored values, rescaled (Rescale Slope and Intercept), inverted when MONOCHROME1, and brought to 8 bit
/// by the stored bits. 8-bit images without rescaling come out as they were stored.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn read(bytes: &[u8]) -> Result<(Grey, Facts), String> {
    // Decoders of others' making meet files of others' making: a crash costs one file, not the whole job.
    catch_unwind(|| decode(bytes)).unwrap_or_else(|_| Err("its decoder crashed".to_owned()))
}

fn decode(bytes: &[u8]) -> Result<(Grey, Facts), String> {
    let object = elements::read(bytes)?;
    let facts = facts(&object);
    Ok((grey(&object)?, facts))
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

fn grey(object: &DefaultDicomObject) -> Result<Grey, String> {
    let frames = number(object, tags::NUMBER_OF_FRAMES).unwrap_or(1.0);
    if frames > 1.0 {
        return Err(format!("it has {frames} frames; only single images are read"));
    }
    let samples = number(object, tags::SAMPLES_PER_PIXEL).unwrap_or(1.0);
    let photometric = text(object, tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
    if samples != 1.0 || !matches!(&*photometric, "MONOCHROME1" | "MONOCHROME2") {
        return Err(format!("it is {photometric} with {samples} samples a pixel; only grey images are read"));
    }
    // A file may claim any size; the image must not be larger than what a detector makes.
    let (rows, columns) = (number(object, tags::ROWS).unwrap_or(0.0), number(object, tags::COLUMNS).unwrap_or(0.0));
    if rows < 1.0 || columns < 1.0 || rows * columns > MOST_PIXELS as f64 {
        return Err(format!("an image of {rows}x{columns} pixels makes no sense"));
    }
    let allocated = number(object, tags::BITS_ALLOCATED).unwrap_or(0.0);
    if allocated != 8.0 && allocated != 16.0 {
        return Err(format!("{allocated} bits allocated are not read"));
    }
    fragments::check(object, rows, columns, (allocated / 8.0) as usize)?;
    let decoded = object.decode_pixel_data().map_err(|e| format!("its pixels cannot be decoded: {}", root(&e)))?;
    let (width, height) = (decoded.columns() as usize, decoded.rows() as usize);
    let (bits, top) = (u32::from(decoded.bits_stored()), u32::from(decoded.high_bit()));
    let allocated = decoded.bits_allocated();
    if bits == 0 || top + 1 < bits || top >= u32::from(allocated) || !matches!(allocated, 8 | 16) {
        return Err(format!("{bits} bits stored up to bit {top} of {allocated} are not read"));
    }
    let size = usize::from(allocated / 8);
    let Some(bytes) = decoded.data().get(..width * height * size) else {
        return Err(format!("it has {} bytes of pixels, {height} rows of {width} need more", decoded.data().len()));
    };
    let signed = decoded.pixel_representation() == PixelRepresentation::Signed;
    let mask = (1i64 << bits) - 1;
    let sign = 1i64 << (bits - 1);
    let value = |v: i64| {
        let v = v >> (top + 1 - bits) & mask;
        // Signed values are shifted so that the lowest is 0: contrast is the same.
        if signed { ((v ^ sign) - sign) + sign } else { v }
    };
    let slope = number(object, tags::RESCALE_SLOPE).unwrap_or(1.0);
    let intercept = number(object, tags::RESCALE_INTERCEPT).unwrap_or(0.0);
    let shift = if signed { sign as f64 } else { 0.0 };
    let inverted = photometric == "MONOCHROME1";
    let level = |v: i64| {
        let v = value(v);
        let v = if slope == 1.0 && intercept == 0.0 {
            v as u32
        } else {
            ((v as f64 - shift) * slope + intercept + shift).round().clamp(0.0, mask as f64) as u32
        };
        let grey = to_8_bit(v, bits);
        if inverted { 255 - grey } else { grey }
    };
    let levels: Vec<u8> = (0..1i64 << allocated).map(level).collect();
    let pixels: Vec<u8> = match size {
        1 => bytes.iter().map(|b| levels[usize::from(*b)]).collect(),
        _ => bytes.chunks_exact(2).map(|b| levels[usize::from(u16::from_le_bytes([b[0], b[1]]))]).collect(),
    };
    let flat = pixels.iter().all(|p| *p == pixels[0]);
    if flat && (slope != 1.0 || intercept != 0.0) && bytes.chunks_exact(size).any(|v| *v != bytes[..size]) {
        return Err(format!("its rescale (slope {slope}, intercept {intercept}) leaves nothing of its {bits} bits"));
    }
    Ok(Grey { width, height, pixels })
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

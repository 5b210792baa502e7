//! JPEG 2000 (ISO 15444-1): the code stream, with or without the file format around it.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use super::Decoded;
use crate::readers::{Values, fragments};

/// Decodes a stream of one component; its size was looked at already.
pub(super) fn decode(stream: &[u8]) -> Result<Decoded, String> {
    let (at, size) = fragments::size(stream).ok_or("its JPEG 2000 stream has no size")?;
    let bad = |e: hayro_jpeg2000::DecodeError| format!("no readable JPEG 2000: {e}");
    let settings = DecodeSettings { resolve_palette_indices: false, strict: true, target_resolution: None };
    let image = Image::new(&stream[at..], &settings).map_err(bad)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(bad)?;
    let [component] = decoded.components() else { return Err("its JPEG 2000 stream is not grey".to_owned()) };
    let top = ((1u32 << size.precision) - 1) as f32;
    // Signed streams come without their shift, so that the lowest value is 0.
    let level = |v: &f32| v.round().clamp(0.0, top) as u16;
    let samples = component.samples();
    let pixels = size.rows as usize * size.columns as usize;
    if samples.len() != pixels {
        return Err(format!("its JPEG 2000 stream has {} samples, not {pixels}", samples.len()));
    }
    Ok(Decoded {
        values: Values::Words(samples.iter().map(level).collect()),
        signed: size.signed.then_some(size.precision),
    })
}

//! The compressed pixels of a DICOM file become values. What a stream says of itself was held against the file's header before
//! ([`super::fragments`]).

mod jpeg2000;
mod jpegls;
mod runs;

use dicom_dictionary_std::uids;
use zune_jpeg::zune_core::colorspace::ColorSpace;

use super::{Values, fragments, jpeg};

/// What a stream holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    /// As many as the header promises.
    pub values: Values,
    /// The stream says that its values are signed: how many bits they have; the lowest is 0 in `values`.
    pub signed: Option<u32>,
}

impl Decoded {
    fn plain(values: Values) -> Self {
        Self { values, signed: None }
    }
}

/// Decodes `stream`, the only frame of a file with this transfer syntax, to `width` × `height` values of `bytes` bytes.
///
/// # Errors
/// A text that says what is wrong, or that this syntax is not read.
pub(super) fn decode(
    syntax: &str,
    stream: &[u8],
    width: usize,
    height: usize,
    bytes: usize,
) -> Result<Decoded, String> {
    let syntax = syntax.trim_end_matches(['\0', ' ']);
    match syntax {
        uids::RLE_LOSSLESS => runs::decode(stream, width * height, bytes).map(Decoded::plain),
        uids::JPEG_BASELINE8_BIT => baseline(stream, width * height),
        uids::JPEG_EXTENDED12_BIT => match fragments::frame(stream).map(|f| f.precision) {
            Some(8) => baseline(stream, width * height),
            Some(bits) => Err(format!("lossy JPEG of {bits} bits (JPEG Extended, process 4) is not read")),
            None => Err("its JPEG stream has no frame header".to_owned()),
        },
        uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => lossless(stream, width * height),
        uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => jpegls::decode(stream).map(Decoded::plain),
        uids::JPEG2000_LOSSLESS | uids::JPEG2000 => jpeg2000::decode(stream),
        _ => Err(format!("its transfer syntax {} is not read", super::elements::name(syntax))),
    }
}

fn baseline(stream: &[u8], pixels: usize) -> Result<Decoded, String> {
    Ok(Decoded::plain(Values::Bytes(jpeg::decode(stream, ColorSpace::Luma, pixels)?)))
}

/// Process 14 (ISO 10918-1 annex H).
fn lossless(stream: &[u8], pixels: usize) -> Result<Decoded, String> {
    use jpeg_decoder::{Decoder, PixelFormat};
    let mut decoder = Decoder::new(stream);
    let samples = decoder.decode().map_err(|e| format!("no readable JPEG: {e}"))?;
    let values = match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::L8) => Values::Bytes(samples),
        Some(PixelFormat::L16) => {
            Values::Words(samples.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect())
        }
        other => return Err(format!("its JPEG is {other:?} and not grey")),
    };
    let found = match &values {
        Values::Bytes(v) => v.len(),
        Values::Words(v) => v.len(),
        Values::Floats(v) => v.len(),
    };
    if found == pixels {
        Ok(Decoded::plain(values))
    } else {
        Err(format!("its JPEG has {found} samples, not {pixels}"))
    }
}

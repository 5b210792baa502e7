//! JPEG files of 8 bit: grey, and colour brought to grey as Pillow's `convert("L")` does.

use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Image, MOST_PIXELS, Values, fragments, luma};

/// Decodes the file.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8]) -> Result<Image, String> {
    let frame = fragments::frame(bytes).ok_or("no readable JPEG: it does not begin as one")?;
    let (width, height) = (frame.columns as usize, frame.rows as usize);
    if width == 0 || height == 0 || (width * height) as u64 > MOST_PIXELS {
        return Err(format!("an image of {height}x{width} pixels makes no sense"));
    }
    if (width * height) as f64 > fragments::DENSEST * bytes.len() as f64 {
        return Err(format!("{} bytes hold no {height}x{width} pixels: the file is cut off", bytes.len()));
    }
    let pixels = match frame.components {
        1 => decode(bytes, ColorSpace::Luma, width * height)?,
        3 => decode(bytes, ColorSpace::RGB, 3 * width * height)?.chunks_exact(3).map(luma).collect(),
        n => return Err(format!("a JPEG of {n} components is not read")),
    };
    Ok(Image::plain(width, height, Values::Bytes(pixels), 8))
}

/// The samples of a JPEG of 8 bit, of which there must be `size`.
pub(super) fn decode(bytes: &[u8], space: ColorSpace, size: usize) -> Result<Vec<u8>, String> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(space)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let samples = decoder.decode().map_err(|e| format!("no readable JPEG: {e}"))?;
    if samples.len() == size { Ok(samples) } else { Err(format!("its JPEG has {} samples, not {size}", samples.len())) }
}

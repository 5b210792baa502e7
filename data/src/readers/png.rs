//! PNG: grey of 8 or 16 bit, and colour brought to grey as Pillow's `convert("L")` does.

use std::io::Cursor;

use morph_spec::dataset::Preprocess;

use super::{Grey, Image, MOST_PIXELS, Values, grey, luma};

/// No byte of a PNG makes more of them (deflate).
const DENSEST: usize = 1032;

/// Decodes the file to 8 bit. 16-bit values are taken by their full range.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn read(bytes: &[u8]) -> Result<Grey, String> {
    grey(&image(bytes)?, &Preprocess::default())
}

/// Decodes the file.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8]) -> Result<Image, String> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|e| format!("no readable PNG: {e}"))?;
    let (width, height) = (reader.info().width, reader.info().height);
    let size = reader.output_buffer_size().filter(|_| u64::from(width) * u64::from(height) <= MOST_PIXELS);
    let size = size.ok_or_else(|| format!("an image of {height}x{width} pixels makes no sense"))?;
    // It may claim any size, and memory is taken before its pixels are looked at.
    if size / DENSEST > bytes.len() {
        return Err(format!("{} bytes hold no {height}x{width} pixels: the file is cut off", bytes.len()));
    }
    let word = |b: &[u8]| u16::from_be_bytes([b[0], b[1]]);
    let kind = reader.output_color_type();
    // Radiographs: row by row, so that their bytes are not kept beside their values.
    if kind == (png::ColorType::Grayscale, png::BitDepth::Sixteen) && !reader.info().interlaced {
        let mut words = Vec::with_capacity(size / 2);
        while let Some(row) = reader.next_row().map_err(|e| format!("no readable PNG: {e}"))? {
            words.extend(row.data().as_chunks().0.iter().map(|word| u16::from_be_bytes(*word)));
        }
        if words.len() != size / 2 {
            return Err(format!("no readable PNG: it has {} pixels, not {height}x{width}", words.len()));
        }
        return Ok(Image::plain(width as usize, height as usize, Values::Words(words), 16));
    }
    let mut buffer = vec![0; size];
    let info = reader.next_frame(&mut buffer).map_err(|e| format!("no readable PNG: {e}"))?;
    buffer.truncate(info.buffer_size());
    let wide = match info.bit_depth {
        png::BitDepth::Eight => false,
        png::BitDepth::Sixteen => true,
        other => return Err(format!("bit depth {other:?} is not read")),
    };
    // Colour of 16 bit is no X-ray: its upper bytes are enough, and are what Pillow takes.
    let narrow = |samples: usize| -> Vec<u8> {
        let step = if wide { 2 } else { 1 };
        buffer.chunks_exact(step * samples).map(|p| luma(&[p[0], p[step], p[2 * step]])).collect()
    };
    let values = match (info.color_type, wide) {
        (png::ColorType::Grayscale, false) => Values::Bytes(buffer),
        (png::ColorType::Grayscale, true) => Values::Words(buffer.chunks_exact(2).map(word).collect()),
        (png::ColorType::GrayscaleAlpha, false) => Values::Bytes(buffer.chunks_exact(2).map(|p| p[0]).collect()),
        (png::ColorType::GrayscaleAlpha, true) => Values::Words(buffer.chunks_exact(4).map(word).collect()),
        (png::ColorType::Rgb, _) => Values::Bytes(narrow(3)),
        (png::ColorType::Rgba, _) => Values::Bytes(narrow(4)),
        (png::ColorType::Indexed, _) => return Err("its palette was not expanded".to_owned()),
    };
    let bits = if matches!(values, Values::Words(_)) { 16 } else { 8 };
    Ok(Image::plain(info.width as usize, info.height as usize, values, bits))
}

/// Writes grey pixels as a PNG.
///
/// # Errors
/// When the pixels do not fill `width` × `height`.
pub fn write(width: usize, height: usize, pixels: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(pixels).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    #[test]
    fn grey_comes_back_and_broken_files_are_refused() {
        let pixels: Vec<u8> = (0..60).map(|i| i * 4).collect();
        let file = write(10, 6, &pixels).unwrap();
        let grey = read(&file).unwrap();
        assert_eq!((grey.width, grey.height, grey.pixels), (10, 6, pixels));
        assert!(read(&file[..file.len() - 20]).is_err(), "a truncated file is not half an image");
        assert!(read(b"not a png").is_err());
        let mut vast = write(1, 1, &[7]).unwrap();
        // Width and height are the first thing in the header; its checksum follows.
        vast[16..24].copy_from_slice(&[0, 0, 0x20, 0, 0, 0, 0x20, 0]);
        let sum = crc(&vast[12..29]);
        vast[29..33].copy_from_slice(&sum.to_be_bytes());
        assert!(read(&vast).unwrap_err().contains("hold no 8192x8192 pixels"));
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }

    fn file(color: png::ColorType, depth: png::BitDepth, width: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![9, 9, 9, 255, 0, 0, 200, 100, 50, 0, 0, 0]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    #[test]
    fn every_kind_of_png_becomes_grey() {
        use png::{BitDepth::*, ColorType::*};
        let colours =
            [255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3, 200, 100, 50, 254, 255, 253, 17, 201, 99, 255, 255, 255];
        // What Pillow 13.0.0 makes of them.
        let grey = [76, 150, 29, 2, 124, 254, 134, 255];
        assert_eq!(read(&file(Rgb, Eight, 8, &colours)).unwrap().pixels, grey);
        let clear: Vec<u8> = colours.chunks(3).flat_map(|c| [c[0], c[1], c[2], 7]).collect();
        assert_eq!(read(&file(Rgba, Eight, 8, &clear)).unwrap().pixels, grey, "what shines through is not looked at");
        assert_eq!(read(&file(GrayscaleAlpha, Eight, 2, &[5, 255, 6, 0])).unwrap().pixels, [5, 6]);
        assert_eq!(read(&file(Indexed, Two, 4, &[0b00_01_10_11])).unwrap().pixels, [9, 76, 124, 0]);
        assert_eq!(read(&file(Grayscale, One, 8, &[0b1010_0001])).unwrap().pixels, [255, 0, 255, 0, 0, 0, 0, 255]);
        let colours = [[0x00ff; 3], [0xfe80; 3], [0x80ff, 0x7fff, 0x01ff], [0xffff; 3]];
        let wide = colours.concat().into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(read(&file(Rgb, Sixteen, 4, &wide)).unwrap().pixels, [0, 254, 113, 255]);
        let wide = [0u16, 257, 128 * 257, 65535, 4095].map(u16::to_be_bytes).concat();
        assert_eq!(read(&file(Grayscale, Sixteen, 5, &wide)).unwrap().pixels, [0, 1, 128, 255, 16]);
    }
}

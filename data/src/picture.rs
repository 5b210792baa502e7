//! Colour pictures: pixels, letters, PNG.

use crate::{Error, font};

/// What pictures with letters are drawn on.
pub const PAPER: [u8; 3] = [18, 18, 22];
/// The colour of letters.
pub const INK: [u8; 3] = [225, 225, 230];

/// A colour image: 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major pixels: red, green, blue.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// An image of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, pixels: colour.repeat(width * height) }
    }

    /// Sets a pixel; what lies outside is left out.
    pub fn dot(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Writes `text` in capitals, its first letter's corner at (`x`, `y`), each of its dots `zoom` pixels a side.
    pub fn text(&mut self, x: usize, y: usize, zoom: usize, ink: [u8; 3], text: &str) {
        for (i, c) in text.chars().enumerate() {
            let left = x + i * (font::WIDTH + 1) * zoom;
            for (row, bits) in font::glyph(c).into_iter().enumerate() {
                for column in (0..font::WIDTH).filter(|column| bits >> (font::WIDTH - 1 - column) & 1 == 1) {
                    for (dy, dx) in (0..zoom).flat_map(|dy| (0..zoom).map(move |dx| (dy, dx))) {
                        self.dot(left + column * zoom + dx, y + row * zoom + dy, ink);
                    }
                }
            }
        }
    }

    /// The image as a PNG file.
    ///
    /// # Errors
    /// [`Error::Picture`] when the pixels do not fill the image.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        let bad = |why: String| Error::Picture(why);
        let side = |n: usize| u32::try_from(n).map_err(|_| bad(format!("{n} pixels a side are too many for a PNG")));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|e| bad(e.to_string()))?;
        writer.write_image_data(&self.pixels).map_err(|e| bad(e.to_string()))?;
        writer.finish().map_err(|e| bad(e.to_string()))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_png_holds_the_pixels() {
        let image = Rgb { width: 3, height: 2, pixels: (0..18).map(|i| i * 14).collect() };
        let file = image.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file[..])).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Rgb));
        assert_eq!(pixels, image.pixels);
        assert!(Rgb { width: 3, height: 3, ..image }.png().is_err());
    }
}

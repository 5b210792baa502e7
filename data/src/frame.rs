//! How an image comes to the square that is trained on, and where its boxes go.

use morph_spec::dataset::{Aspect, Preprocess, Resize};

use crate::{
    clahe,
    readers::Grey,
    resize::{pillow_bilinear, torch_bilinear},
};

/// Which part of the image is shown, and where: left, top, width, height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    image: [usize; 2],
    shown: [usize; 4],
    placed: [usize; 4],
    side: usize,
}

impl Frame {
    /// Of an image of `width` × `height` pixels.
    pub(crate) fn new(width: usize, height: usize, preprocess: &Preprocess) -> Self {
        let side = preprocess.size as usize;
        let (whole, all) = ([0, 0, width, height], [0, 0, side, side]);
        let (shown, placed) = match preprocess.aspect {
            Aspect::Stretch => (whole, all),
            Aspect::Crop => {
                let square = width.min(height);
                ([(width - square) / 2, (height - square) / 2, square, square], all)
            }
            Aspect::Pad => {
                let longest = width.max(height);
                let scaled = |n: usize| ((n * side + longest / 2) / longest).max(1);
                let (w, h) = (scaled(width), scaled(height));
                (whole, [(side - w) / 2, (side - h) / 2, w, h])
            }
        };
        Self { image: [width, height], shown, placed, side }
    }

    /// The prepared image.
    pub(crate) fn draw(&self, image: &Grey, preprocess: &Preprocess) -> Grey {
        let [left, top, width, height] = self.shown;
        let cut;
        let image = if [width, height] == self.image {
            image
        } else {
            let rows = image.pixels.chunks_exact(image.width).skip(top).take(height);
            cut = Grey { width, height, pixels: rows.flat_map(|row| &row[left..left + width]).copied().collect() };
            &cut
        };
        let [left, top, width, height] = self.placed;
        let small = match preprocess.resize {
            Resize::PillowBilinear => pillow_bilinear(image, width, height),
            Resize::TorchBilinear => torch_bilinear(image, width, height),
        };
        let mut square = small;
        if [width, height] != [self.side; 2] {
            let mut pixels = vec![0; self.side * self.side];
            for (y, row) in square.pixels.chunks_exact(width).enumerate() {
                let at = (top + y) * self.side + left;
                pixels[at..at + width].copy_from_slice(row);
            }
            square = Grey { width: self.side, height: self.side, pixels };
        }
        if let Some(options) = preprocess.clahe {
            clahe::equalise(&mut square, options);
        }
        square
    }

    /// A box in 0..1 of the image, in 0..1 of the prepared image and cut at its edges; none when nothing of it is shown.
    pub(crate) fn place(&self, [x, y, w, h]: [f32; 4]) -> Option<[f32; 4]> {
        if self.shown == [0, 0, self.image[0], self.image[1]] && self.placed == [0, 0, self.side, self.side] {
            return Some([x, y, w, h]);
        }
        let along = |axis: usize, from: f32, size: f32| {
            let (image, shown) = (self.image[axis] as f32, (self.shown[axis] as f32, self.shown[axis + 2] as f32));
            let (to, length, side) = (self.placed[axis] as f32, self.placed[axis + 2] as f32, self.side as f32);
            let at = |unit: f32| ((unit * image - shown.0) / shown.1).clamp(0.0, 1.0) * length / side + to / side;
            (at(from), at(from + size))
        };
        let ((left, right), (top, bottom)) = (along(0, x, w), along(1, y, h));
        (right > left && bottom > top).then_some([left, top, right - left, bottom - top])
    }
}

/// What the prepared square shows of an image of `width` × `height` pixels: left, top, width, height in the image's pixels. With bars
/// beside it that is more than the image, and of a cropped one less.
pub fn shown(width: usize, height: usize, preprocess: &Preprocess) -> [f32; 4] {
    let frame = Frame::new(width, height, preprocess);
    let along = |axis: usize| {
        let per_pixel = frame.shown[axis + 2] as f32 / frame.placed[axis + 2] as f32;
        (frame.shown[axis] as f32 - frame.placed[axis] as f32 * per_pixel, frame.side as f32 * per_pixel)
    };
    let ((left, width), (top, height)) = (along(0), along(1));
    [left, top, width, height]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(aspect: Aspect) -> Preprocess {
        Preprocess { size: 8, aspect, ..Preprocess::default() }
    }

    /// 16 x 8: left half dark, right half bright.
    fn wide() -> Grey {
        Grey { width: 16, height: 8, pixels: (0..128).map(|i| if i % 16 < 8 { 50 } else { 200 }).collect() }
    }

    #[test]
    fn bars_beside_or_the_middle() {
        let frame = |aspect| Frame::new(16, 8, &with(aspect)).draw(&wide(), &with(aspect));
        let padded = frame(Aspect::Pad);
        assert!(padded.pixels[..16].iter().chain(&padded.pixels[48..]).all(|p| *p == 0), "{:?}", padded.pixels);
        assert_eq!((padded.pixels[16], padded.pixels[23]), (50, 200));
        let cropped = frame(Aspect::Crop);
        assert_eq!(cropped.pixels[..8], [50, 50, 50, 50, 200, 200, 200, 200], "pixels 4 to 12, as they are");
        assert_eq!(frame(Aspect::Stretch).pixels.len(), 64);
    }

    #[test]
    fn the_square_goes_back_to_where_it_was_taken_from() {
        let shown = |aspect| shown(16, 8, &with(aspect));
        assert_eq!(shown(Aspect::Stretch), [0.0, 0.0, 16.0, 8.0]);
        assert_eq!(shown(Aspect::Crop), [4.0, 0.0, 8.0, 8.0]);
        assert_eq!(shown(Aspect::Pad), [0.0, -4.0, 16.0, 16.0], "two rows of bars above and below, of two pixels each");
    }

    #[test]
    fn boxes_go_where_their_pixels_go() {
        let place = |aspect, b| Frame::new(16, 8, &with(aspect)).place(b);
        let whole = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(place(Aspect::Stretch, [0.1, 0.2, 0.3, 0.4]), Some([0.1, 0.2, 0.3, 0.4]));
        assert_eq!(place(Aspect::Pad, whole), Some([0.0, 0.25, 1.0, 0.5]));
        assert_eq!(place(Aspect::Crop, whole), Some(whole));
        assert_eq!(place(Aspect::Crop, [0.5, 0.0, 0.125, 1.0]), Some([0.5, 0.0, 0.25, 1.0]));
        assert_eq!(place(Aspect::Crop, [0.0, 0.0, 0.2, 1.0]), None, "it was cut off");
    }
}

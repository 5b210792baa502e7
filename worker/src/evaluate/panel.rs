//! The picture of some cases: input, prior, reconstruction, both residuals, and the deformation as a warped grid.
//!
//! Residuals have ONE scale, the paper's 0..0.5, for all images, methods and runs, so that panels can be laid side by side: a picture whose
//! every image is stretched to its own maximum shows bright spots in healthy lungs, too. (Heat maps, which are looked at one by one, have the
//! scale of the healthy validation residuals.)

use morph_data::{
    font,
    heatmap::inferno,
    picture::{INK, PAPER, Rgb},
};

/// Titles of the columns.
const TITLES: [&str; 6] = ["input", "prior", "reconstruction", "|input-prior|", "|input-rec.|", "deformation"];
/// Smallest side of a picture in the panel, in pixels.
const CELL: usize = 128;
const GAP: usize = 6;
const TITLE: usize = font::HEIGHT + 2 * GAP;
const BOX: [u8; 3] = [255, 80, 60];
const GRID: [u8; 3] = [90, 200, 250];
/// The residual that is brightest.
pub const SCALE: f32 = 0.5;
/// Pixels of the image between two lines of the grid.
const SPACING: f32 = 8.0;

/// One row: all pictures have `side * side` pixels, row by row, in 0..1.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is written above the row.
    pub title: String,
    /// The image.
    pub input: Vec<f32>,
    /// The prior.
    pub prior: Vec<f32>,
    /// The reconstruction.
    pub reconstruction: Vec<f32>,
    /// Displacement in pixels, rows then columns, if the method has one.
    pub displacement: Option<[Vec<f32>; 2]>,
    /// Known findings: x, y, width, height, in shares of the side.
    pub boxes: Vec<[f32; 4]>,
}

/// Draws `cases` of `side` × `side` pixels as a PNG; residuals of [`SCALE`] and more are brightest.
///
/// # Errors
/// When the picture is too large for a PNG.
pub fn draw(cases: &[Case], side: usize) -> Result<Vec<u8>, morph_data::Error> {
    let zoom = CELL.div_ceil(side.max(1)).max(1);
    let cell = side * zoom;
    let width = TITLES.len() * (cell + GAP) + GAP;
    let header = TITLE + font::HEIGHT + GAP;
    let mut canvas = Canvas(Rgb::filled(width, header + cases.len() * (cell + TITLE) + GAP, PAPER));
    for (column, title) in TITLES.iter().enumerate() {
        canvas.text(GAP + column * (cell + GAP), GAP, title);
    }
    canvas.text(
        GAP,
        GAP + font::HEIGHT + GAP,
        &format!("residuals 0 - {SCALE}, one scale for all images, methods and runs"),
    );
    for (row, case) in cases.iter().enumerate() {
        let top = header + row * (cell + TITLE);
        canvas.text(GAP, top + GAP, &case.title);
        let y = top + TITLE;
        let x = |column: usize| GAP + column * (cell + GAP);
        let grey = |v: f32| [(v.clamp(0.0, 1.0) * 255.0).round() as u8; 3];
        for (column, picture) in [&case.input, &case.prior, &case.reconstruction].into_iter().enumerate() {
            canvas.picture(x(column), y, side, zoom, |i| grey(picture[i]));
        }
        for (column, picture) in [(3, &case.prior), (4, &case.reconstruction)] {
            canvas.picture(x(column), y, side, zoom, |i| inferno((case.input[i] - picture[i]).abs() / SCALE));
        }
        match &case.displacement {
            Some(field) => canvas.grid(x(5), y, side, zoom, field),
            None => canvas.text(x(5), y, "none"),
        }
        for b in &case.boxes {
            canvas.outline(x(0), y, cell, *b);
        }
    }
    canvas.0.png()
}

struct Canvas(Rgb);

impl Canvas {
    fn text(&mut self, x: usize, y: usize, text: &str) {
        self.0.text(x, y, 1, INK, text);
    }

    fn picture(&mut self, x: usize, y: usize, side: usize, zoom: usize, colour: impl Fn(usize) -> [u8; 3]) {
        for row in 0..side * zoom {
            for column in 0..side * zoom {
                self.0.dot(x + column, y + row, colour(row / zoom * side + column / zoom));
            }
        }
    }

    /// A regular grid as the deformation shows it: what appears at p lay at p + u(p).
    fn grid(&mut self, x: usize, y: usize, side: usize, zoom: usize, field: &[Vec<f32>; 2]) {
        for row in 0..side * zoom {
            for column in 0..side * zoom {
                let i = row / zoom * side + column / zoom;
                let from = |at: usize, u: f32| (at as f32 / zoom as f32 + u).rem_euclid(SPACING);
                let line = from(row, field[0][i]).min(from(column, field[1][i]));
                let colour = if line < 1.0 { GRID } else { [0; 3] };
                self.0.dot(x + column, y + row, colour);
            }
        }
    }

    fn outline(&mut self, x: usize, y: usize, cell: usize, [bx, by, bw, bh]: [f32; 4]) {
        let place = |v: f32| (v.clamp(0.0, 1.0) * (cell - 1) as f32).round() as usize;
        let (left, right, top, bottom) = (place(bx), place(bx + bw), place(by), place(by + bh));
        for column in left..=right {
            self.0.dot(x + column, y + top, BOX);
            self.0.dot(x + column, y + bottom, BOX);
        }
        for row in top..=bottom {
            self.0.dot(x + left, y + row, BOX);
            self.0.dot(x + right, y + row, BOX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(boxes: Vec<[f32; 4]>, displacement: Option<[Vec<f32>; 2]>) -> Case {
        Case {
            title: "case 1".into(),
            input: vec![0.5; 256],
            prior: vec![0.25; 256],
            reconstruction: vec![0.5; 256],
            displacement,
            boxes,
        }
    }

    fn pixels(png_bytes: &[u8]) -> (usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png_bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        (info.width as usize, rgb)
    }

    fn at(width: usize, rgb: &[u8], x: usize, y: usize) -> [u8; 3] {
        rgb[(y * width + x) * 3..][..3].try_into().unwrap()
    }

    #[test]
    fn residuals_have_one_scale() {
        let y = TITLE + font::HEIGHT + GAP + TITLE + 64;
        let middle = |column: usize| GAP + column * (CELL + GAP) + 64;
        for (prior, wanted) in [(0.0, inferno(1.0)), (0.25, inferno(0.5)), (1.0, inferno(1.0))] {
            let case = Case { prior: vec![prior; 256], ..case(Vec::new(), None) };
            let (width, rgb) = pixels(&draw(&[case], 16).unwrap());
            assert_eq!(width, 6 * (CELL + GAP) + GAP);
            assert_eq!(at(width, &rgb, middle(0), y), [128; 3]);
            assert_eq!(at(width, &rgb, middle(3), y), wanted, "the residual of a prior of {prior}");
            assert_eq!(at(width, &rgb, middle(4), y), inferno(0.0), "no residual is black");
        }
    }

    #[test]
    fn boxes_lie_on_the_input_only_and_never_outside() {
        let (width, rgb) = pixels(&draw(&[case(vec![[0.9, 0.5, 0.9, 0.9]], None)], 16).unwrap());
        let boxed = |column: usize| {
            let left = GAP + column * (CELL + GAP);
            (0..rgb.len() / 3 / width)
                .flat_map(|y| (left..left + CELL).map(move |x| (x, y)))
                .filter(|(x, y)| at(width, &rgb, *x, *y) == BOX)
                .count()
        };
        assert!(boxed(0) > 20);
        assert_eq!(boxed(1), 0);
    }

    #[test]
    fn a_shift_moves_the_grid() {
        let still = draw(&[case(Vec::new(), Some([vec![0.0; 256], vec![0.0; 256]]))], 16).unwrap();
        let moved = draw(&[case(Vec::new(), Some([vec![3.0; 256], vec![0.0; 256]]))], 16).unwrap();
        assert_ne!(pixels(&still).1, pixels(&moved).1);
    }
}

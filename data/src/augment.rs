//! Training images, varied: a pure function of (seed, epoch, sample), so that any rank of any attempt makes the same of them.

use morph_spec::{Augment, Rng};

/// Varies images as an experiment says.
#[derive(Debug, Clone, Copy)]
pub struct Augmenter {
    amounts: Augment,
    seed: u64,
}

/// What is drawn for one image. All of it is, whatever of it is used: so a rotation stays the same when noise is added.
struct Drawn {
    mirrored: bool,
    /// Radians.
    angle: f64,
    /// Shares of the sides, downwards and to the right.
    shift: [f64; 2],
    zoom: f64,
    gamma: f64,
    contrast: f64,
    brightness: f64,
    /// The generator, for what is drawn for each pixel.
    rng: Rng,
}

impl Augmenter {
    /// One for `amounts` under `seed`; none when they change nothing.
    pub fn new(amounts: Augment, seed: u64) -> Option<Self> {
        (!amounts.is_none()).then_some(Self { amounts, seed })
    }

    /// What image `pixels` (height × width, row by row) of `sample` becomes in `epoch`: as many numbers in 0..1. What comes in from
    /// outside of it is black.
    ///
    /// # Panics
    /// When there are not height × width pixels.
    pub fn image(&self, pixels: &[u8], size: [u32; 2], epoch: u32, sample: u64) -> Vec<f32> {
        let [height, width] = size.map(|side| side as usize);
        assert_eq!(pixels.len(), height * width, "invariant: an image has its pixels");
        let mut drawn = self.draw(epoch, sample);
        let grey: Vec<f32> = pixels.iter().map(|pixel| f32::from(*pixel) / 255.0).collect();
        let mut image = if self.amounts.moves() { moved(&grey, height, width, &drawn) } else { grey };
        self.shade(&mut image, &mut drawn);
        image
    }

    fn draw(&self, epoch: u32, sample: u64) -> Drawn {
        let mut rng = Rng::keyed(self.seed, &format!("augment {epoch}"), sample);
        let a = &self.amounts;
        let mirrored = rng.uniform() < a.flip;
        let mut within = |most: f64| (2.0 * rng.uniform() - 1.0) * most;
        let angle = within(a.rotate).to_radians();
        let shift = [within(a.translate), within(a.translate)];
        // Half as large is as far as twice as large.
        let zoom = within(a.scale.ln_1p()).exp();
        let gamma = within(a.gamma.ln_1p()).exp();
        let contrast = 1.0 + within(a.contrast);
        let brightness = within(a.brightness);
        Drawn { mirrored, angle, shift, zoom, gamma, contrast, brightness, rng }
    }

    fn shade(&self, image: &mut [f32], drawn: &mut Drawn) {
        let a = &self.amounts;
        if a.gamma != 0.0 {
            image.iter_mut().for_each(|v| *v = f64::from(*v).powf(drawn.gamma) as f32);
        }
        if a.contrast != 0.0 {
            let mean = image.iter().map(|v| f64::from(*v)).sum::<f64>() / image.len().max(1) as f64;
            image.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * drawn.contrast + mean) as f32);
        }
        if a.brightness != 0.0 {
            image.iter_mut().for_each(|v| *v += drawn.brightness as f32);
        }
        if a.noise != 0.0 {
            for pair in image.chunks_mut(2) {
                for (v, n) in pair.iter_mut().zip(drawn.rng.normals()) {
                    *v += (n * a.noise) as f32;
                }
            }
        }
        image.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    }
}

/// Mirrored, enlarged, turned about the middle and shifted, in this order: each pixel is looked up where it comes from, between its
/// four neighbours (bilinear).
fn moved(image: &[f32], height: usize, width: usize, drawn: &Drawn) -> Vec<f32> {
    let (sin, cos) = drawn.angle.sin_cos();
    let (middle_y, middle_x) = ((height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0);
    let (down, right) = (drawn.shift[0] * height as f64, drawn.shift[1] * width as f64);
    let at = |y: i64, x: i64| {
        let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
        if inside { image[y as usize * width + x as usize] } else { 0.0 }
    };
    let mut out = Vec::with_capacity(image.len());
    for y in 0..height {
        for x in 0..width {
            let (v, u) = (y as f64 - middle_y - down, x as f64 - middle_x - right);
            let (v, u) = ((v * cos - u * sin) / drawn.zoom, (v * sin + u * cos) / drawn.zoom);
            let (from_y, from_x) = (v + middle_y, if drawn.mirrored { middle_x - u } else { u + middle_x });
            let (top, left) = (from_y.floor(), from_x.floor());
            let (dy, dx) = ((from_y - top) as f32, (from_x - left) as f32);
            let (top, left) = (top as i64, left as i64);
            let above = at(top, left) * (1.0 - dx) + at(top, left + 1) * dx;
            let below = at(top + 1, left) * (1.0 - dx) + at(top + 1, left + 1) * dx;
            out.push(above * (1.0 - dy) + below * dy);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::{prop_assert, prop_assert_eq, prop_assert_ne, proptest};

    use super::*;

    const SIZE: [u32; 2] = [6, 9];

    fn image() -> Vec<u8> {
        (0..54).map(|i| (i * 37 % 251) as u8).collect()
    }

    fn vary(amounts: Augment, epoch: u32, sample: u64) -> Vec<f32> {
        Augmenter::new(amounts, 7).unwrap().image(&image(), SIZE, epoch, sample)
    }

    fn plain() -> Vec<f32> {
        image().iter().map(|p| f32::from(*p) / 255.0).collect()
    }

    proptest! {
        #[test]
        fn it_follows_from_seed_epoch_and_sample_and_stays_within_bounds(
            flip in 0.0..=1.0, rotate in 0.0..=180.0, translate in 0.0..=0.5, scale in 0.0..=0.5,
            gamma in 0.0..=4.0, contrast in 0.0..=1.0, brightness in 0.0..=1.0, noise in 0.01..=1.0,
            seed: u64, epoch: u32, sample: u64,
        ) {
            let amounts = Augment { flip, rotate, translate, scale, gamma, contrast, brightness, noise };
            let of = |seed, epoch, sample| Augmenter::new(amounts, seed).unwrap().image(&image(), SIZE, epoch, sample);
            let one = of(seed, epoch, sample);
            prop_assert!(one.len() == 54 && one.iter().all(|v| (0.0..=1.0).contains(v)), "{one:?}");
            prop_assert_eq!(&one, &of(seed, epoch, sample));
            for other in [of(!seed, epoch, sample), of(seed, epoch ^ 1, sample), of(seed, epoch, sample ^ 1)] {
                prop_assert_ne!(&one, &other);
            }
        }
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(Augmenter::new(Augment::default(), 7).is_none());
    }

    #[test]
    fn mirrored_is_mirrored_to_the_bit() {
        let mirrored: Vec<f32> = plain().chunks(9).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(vary(Augment { flip: 1.0, ..Augment::default() }, 0, 0), mirrored);
        let half = Augment { flip: 0.5, ..Augment::default() };
        let flipped = (0..1000).filter(|sample| vary(half, 3, *sample) == mirrored).count();
        let kept = (0..1000).filter(|sample| vary(half, 3, *sample) == plain()).count();
        assert_eq!(flipped + kept, 1000);
        assert!((430..570).contains(&flipped), "{flipped}");
    }

    #[test]
    fn shifts_and_turns_lead_where_they_say() {
        let still = Drawn {
            mirrored: false,
            angle: 0.0,
            shift: [0.0; 2],
            zoom: 1.0,
            gamma: 1.0,
            contrast: 1.0,
            brightness: 0.0,
            rng: Rng::keyed(0, "", 0),
        };
        let three: Vec<f32> = (1..10).map(|i| i as f32).collect();
        let go = |drawn: Drawn| moved(&three, 3, 3, &drawn).into_iter().map(f32::round).collect::<Vec<_>>();
        let third = 1.0 / 3.0;
        let down = go(Drawn { shift: [third, 0.0], ..still });
        assert_eq!(down, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let still = || Drawn { rng: Rng::keyed(0, "", 0), ..still };
        let right = go(Drawn { shift: [0.0, third], ..still() });
        assert_eq!(right, [0.0, 1.0, 2.0, 0.0, 4.0, 5.0, 0.0, 7.0, 8.0]);
        // By a right angle, clockwise: the lower left comes to the upper left.
        let turned = go(Drawn { angle: TAU / 4.0, ..still() });
        assert_eq!(turned, [7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0]);
        // The corners come from outside when all is drawn half as large.
        let small = moved(&three, 3, 3, &Drawn { zoom: 0.5, ..still() });
        assert_eq!((small[0], small[4], small[8]), (0.0, 5.0, 0.0));
    }

    #[test]
    fn shades_are_what_they_say() {
        let one = |amounts: Augment| {
            let drawn = Augmenter::new(amounts, 7).unwrap().draw(2, 5);
            (vary(amounts, 2, 5), drawn)
        };
        let (image, drawn) = one(Augment { gamma: 1.0, ..Augment::default() });
        assert!((0.5..=2.0).contains(&drawn.gamma) && drawn.gamma != 1.0);
        let expected = |v: f32| f64::from(v).powf(drawn.gamma) as f32;
        assert!(image.iter().zip(plain()).all(|(got, v)| *got == expected(v)));
        let mean = |of: &[f32]| of.iter().map(|v| f64::from(*v)).sum::<f64>() / of.len() as f64;
        let (image, drawn) = one(Augment { contrast: 0.1, ..Augment::default() });
        assert!((0.9..=1.1).contains(&drawn.contrast));
        assert!((mean(&image) - mean(&plain())).abs() < 0.01);
        let (image, drawn) = one(Augment { brightness: 0.5, ..Augment::default() });
        let moved = |v: f32| (v + drawn.brightness as f32).clamp(0.0, 1.0);
        assert!(image.iter().zip(plain()).all(|(got, v)| *got == moved(v)));
    }

    #[test]
    fn noise_is_as_strong_as_asked_for() {
        let grey = vec![128u8; 10_000];
        let noisy = Augmenter::new(Augment { noise: 0.05, ..Augment::default() }, 1).unwrap();
        let image = noisy.image(&grey, [100, 100], 0, 0);
        let away: Vec<f64> = image.iter().map(|v| f64::from(*v) - 128.0 / 255.0).collect();
        let mean = away.iter().sum::<f64>() / away.len() as f64;
        let std = (away.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / away.len() as f64).sqrt();
        assert!(mean.abs() < 0.002 && (std - 0.05).abs() < 0.002, "{mean} {std}");
    }
}

//! A healthy chest as line integrals of attenuation (design: shared domain notes, section 4.1).

use std::f64::consts::TAU;

use super::draw::Draw;

/// Attenuation of a path through lung-sized tissue that air takes away, and disease gives back.
pub(super) const AIR: f64 = 0.60;

/// What makes one person's chest.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub female: bool,
    pub age: u32,
    pub ap: bool,
    thorax: f64,
    inspiration: f64,
    /// Heart width over thorax width.
    pub heart: f64,
    fat: f64,
    outline: [[[f64; 2]; 3]; 2],
    rib_start: f64,
    rib_step: f64,
    rib_arc: f64,
    rib_contrast: f64,
    scoliosis: f64,
    scoliosis_phase: f64,
    clavicle: f64,
    hilum: f64,
    aorta: f64,
    vessels: f64,
    rotation: f64,
    shift: [f64; 2],
    scale: f64,
    pub gamma: f64,
    pub dark: f64,
    pub bright: f64,
    pub photons: f64,
}

impl Subject {
    pub(super) fn draw(d: &mut Draw) -> Self {
        let female = !d.chance(0.568);
        let age = d.normal(47.0, 16.5).clamp(18.0, 92.0);
        let ap = !d.chance(0.85);
        let older = age - 47.0;
        let mut outline = [[[0.0; 2]; 3]; 2];
        for lung in &mut outline {
            for (harmonic, sd) in lung.iter_mut().zip([0.035, 0.025, 0.015]) {
                *harmonic = [d.normal(0.0, sd), d.normal(0.0, sd)];
            }
        }
        Self {
            female,
            age: age as u32,
            ap,
            thorax: d.normal(0.335, 0.014) * if female { 0.965 } else { 1.0 },
            inspiration: d.normal(0.0, 0.022) - if ap { 0.04 } else { 0.0 },
            heart: (d.normal(0.45, 0.028) + 0.0006 * older).clamp(0.37, 0.50) * if ap { 1.10 } else { 1.0 },
            fat: d.normal(1.0, 0.11).clamp(0.75, 1.35),
            outline,
            rib_start: d.normal(0.135, 0.012),
            rib_step: d.normal(0.0735, 0.003),
            rib_arc: d.normal(0.115, 0.014),
            rib_contrast: d.normal(0.085, 0.018).clamp(0.04, 0.14),
            scoliosis: d.normal(0.0, 0.006),
            scoliosis_phase: d.uniform(0.0, TAU),
            clavicle: d.normal(0.155, 0.014) - if ap { 0.03 } else { 0.0 },
            hilum: d.normal(0.455, 0.014),
            aorta: (d.normal(0.030, 0.004) + 0.00015 * older).clamp(0.02, 0.05),
            vessels: d.normal(0.055, 0.014).clamp(0.02, 0.10),
            rotation: d.normal(0.0, 1.6).to_radians(),
            shift: [d.normal(0.0, 0.012), d.normal(0.0, 0.014)],
            scale: d.normal(1.0, 0.022),
            gamma: d.normal(1.0, 0.09).clamp(0.75, 1.3),
            dark: d.normal(0.0, 0.025),
            bright: d.normal(1.0, 0.03),
            photons: d.normal(9000f64.ln(), 0.35).exp(),
        }
    }
}

/// One lung: where it is, per pixel, and how thick.
#[derive(Debug, Clone)]
pub(super) struct Lung {
    /// −1: the patient's right, left in the image.
    pub side: f64,
    /// Centre.
    pub centre: [f64; 2],
    /// Half width and half height.
    pub half: [f64; 2],
    /// 0..1 per pixel: inside.
    pub inside: Vec<f64>,
    /// Height of the diaphragm per pixel column.
    pub dome: Vec<f64>,
}

/// A chest on an n×n grid.
#[derive(Debug, Clone)]
pub(super) struct Anatomy {
    pub n: usize,
    /// Coordinates after pose and warp.
    pub u: Vec<f64>,
    pub v: Vec<f64>,
    /// Attenuation per pixel.
    pub attenuation: Vec<f64>,
    /// Air on the path that disease can replace, 0..1 per pixel.
    pub air: Vec<f64>,
    pub lungs: [Lung; 2],
}

/// Beyond this, `exp(-x)` is nothing beside 1; most pixels are beyond it, and drawing spends its time on `exp`.
const FAR: f64 = 37.0;

pub(super) fn sigmoid(x: f64) -> f64 {
    if x.abs() > FAR { f64::from(u8::from(x > 0.0)) } else { 1.0 / (1.0 + (-x).exp()) }
}

fn bump(x: f64, power: i32) -> f64 {
    let depth = x.powi(power);
    if depth > FAR { 0.0 } else { (-depth).exp() }
}

impl Anatomy {
    /// The chest of `p`; `d` draws what is not in `p`: the warp and the vessels.
    pub(super) fn new(p: &Subject, n: usize, d: &mut Draw) -> Self {
        let soft = (0.7 / n as f64).max(0.004);
        let (u, v) = coordinates(p, n, d);
        let lungs = [lung(p, 0, &u, &v, soft), lung(p, 1, &u, &v, soft)];
        let strokes = d.strokes(n, (0.006 * n as f64).max(0.6), 0.018 * n as f64);
        let mut attenuation = Vec::with_capacity(n * n);
        let mut air = Vec::with_capacity(n * n);
        for i in 0..n * n {
            let open: f64 = lungs.iter().map(|l| l.1[i]).sum();
            let (a, left) = pixel(p, u[i], v[i], open, strokes[i], soft);
            attenuation.push(a);
            air.push(left);
        }
        Self { n, u, v, attenuation, air, lungs: lungs.map(|l| l.0) }
    }
}

fn coordinates(p: &Subject, n: usize, d: &mut Draw) -> (Vec<f64>, Vec<f64>) {
    const WARP: f64 = 0.006;
    let (c, s) = (p.rotation.cos() / p.scale, p.rotation.sin() / p.scale);
    let (wu, wv) = (d.smooth(n, 0.12), d.smooth(n, 0.12));
    let at = |i: usize| (i as f64 + 0.5) / n as f64;
    let mut u = Vec::with_capacity(n * n);
    let mut v = Vec::with_capacity(n * n);
    for i in 0..n * n {
        let (x, y) = (at(i % n) - 0.5 - p.shift[0], at(i / n) - 0.5 - p.shift[1]);
        u.push(0.5 + c * x + s * y + WARP * wu[i]);
        v.push(0.5 - s * x + c * y + WARP * wv[i]);
    }
    (u, v)
}

/// A lung, and the thickness of its air per pixel.
fn lung(p: &Subject, k: usize, u: &[f64], v: &[f64], soft: f64) -> (Lung, Vec<f64>) {
    let (side, out, base, wide) = if k == 0 { (-1.0, 0.535, 0.80, 0.455) } else { (1.0, 0.555, 0.825, 0.435) };
    let t = p.thorax;
    let cx = 0.5 + side * t * out;
    let top = 0.115 - 0.2 * p.inspiration;
    let bottom = base + p.inspiration;
    let (cy, b, a) = (0.5 * (top + bottom), 0.5 * (bottom - top) * 1.12, t * wide);
    let mut inside = Vec::with_capacity(u.len());
    let mut dome = Vec::with_capacity(u.len());
    let mut thick = Vec::with_capacity(u.len());
    for (&u, &v) in u.iter().zip(v) {
        let down = ((v - top) / (bottom - top)).clamp(0.0, 1.0);
        let taper = 0.52 + 0.48 * (std::f64::consts::FRAC_PI_2 * (down / 0.62).clamp(0.0, 1.0)).sin();
        let across = (u - (cx - side * 0.02)) / (a * 1.05);
        let floor = bottom - 0.075 * (1.0 - across * across).max(0.0) + 0.012;
        dome.push(floor);
        let (x, y) = ((u - cx) / (a * taper), (v - cy) / b);
        // The outline wobbles by less than half: this far out there is no lung.
        if x.abs().max(y.abs()) > 2.5 {
            thick.push(0.0);
            inside.push(0.0);
            continue;
        }
        let angle = ((v - cy) / b).atan2((u - cx) / a);
        let wobble: f64 = p.outline[k]
            .iter()
            .enumerate()
            .map(|(j, h)| {
                let (sin, cos) = ((j + 1) as f64 * angle).sin_cos();
                h[0] * cos + h[1] * sin
            })
            .sum();
        let f = (x.abs().powf(2.4) + y.abs().powf(2.6)).powf(0.4) / (1.0 + wobble);
        let m = sigmoid((1.0 - f) / (soft * 4.0)) * sigmoid((floor - v) / soft);
        let depth = f.clamp(0.0, 1.0);
        thick.push((1.0 - depth * depth).max(0.0).powf(0.275) * m);
        inside.push(m);
    }
    (Lung { side, centre: [cx, cy], half: [a, b], inside, dome }, thick)
}

/// Attenuation of a pixel's path and the air that is left on it. `open`: thickness of air in the lungs.
fn pixel(p: &Subject, u: f64, v: f64, open: f64, stroke: f64, soft: f64) -> (f64, f64) {
    let t = p.thorax;
    let au = (u - 0.5).abs();
    let shoulder = 0.03 + 0.95 * (au - 0.13).max(0.0).powf(1.35);
    let lateral = (t + 0.105 * p.fat) + 0.03 * (0.35 - v).max(0.0) / 0.35 - 0.02 * (v - 0.55).clamp(0.0, 1.0);
    let body = sigmoid((v - shoulder) / soft) * sigmoid((lateral - au) / soft);
    let chord = (1.0 - (au / (lateral + 0.03)).powi(2)).clamp(0.0, 1.0).sqrt();
    let mut a = body * (0.50 + 0.30 * p.fat * chord);

    // Heart and mediastinum.
    let w = t * 2.0 * p.heart;
    let (sin, cos) = 38f64.to_radians().sin_cos();
    let (hx, hy) = (u - (0.5 + 0.17 * w), v - (0.665 + 0.6 * p.inspiration));
    let (xr, yr) = (hx * cos + hy * sin, hy * cos - hx * sin);
    let f = ((xr / (0.55 * w)).powi(2) + (yr / (0.40 * w)).powi(2)).sqrt();
    let heart = sigmoid((1.0 - f) / (soft * 5.0));
    let xs = 0.5 + p.scoliosis * (TAU * v * 1.2 + p.scoliosis_phase).sin();
    let half = 0.034 + 0.016 * ((v - 0.25) / 0.5).clamp(0.0, 1.0);
    let mediastinum = sigmoid((half - (u - xs).abs()) / (soft * 3.0)) * sigmoid((v - 0.05) / 0.02);
    let aorta = sigmoid((1.0 - (u - 0.545).hypot(v - 0.335) / (p.aorta * 1.35)) / 0.12);
    let trachea = bump((u - xs) / 0.013, 2) * sigmoid((0.36 - v) / 0.02);
    let solid = heart.max(mediastinum).max(0.8 * aorta).clamp(0.0, 1.0);
    let air = open * (1.0 - solid * 0.86);
    a += 0.075 * heart * (1.0 - f * f).max(0.0).sqrt() + 0.06 * mediastinum + 0.05 * aorta - AIR * air - 0.09 * trachea;
    a += 0.05 * sigmoid((v - 0.80) / 0.02) * body;

    a += bones(p, u, v, xs) * body;
    if p.female {
        for side in [-1.0, 1.0] {
            let breast = ((u - (0.5 + side * 0.19)) / 0.135).hypot((v - 0.66) / 0.14);
            a += 0.055 * sigmoid((1.0 - breast) / 0.10) * body;
        }
    }
    // Vessels fan out from the hila.
    let right = (u - (0.5 - 0.105)).hypot((v - p.hilum) * 0.8);
    let left = (u - (0.5 + 0.105)).hypot((v - p.hilum + 0.015) * 0.8);
    let hilum = right.min(left);
    a += p.vessels * (stroke * (-hilum / 0.16).exp() + 1.5 * bump(hilum / 0.045, 2)) * open.clamp(0.0, 1.0);
    (a, air)
}

/// Spine, ribs, clavicles, and the shoulder blades of an AP film.
fn bones(p: &Subject, u: f64, v: f64, xs: f64) -> f64 {
    let t = p.thorax;
    let au = (u - 0.5).abs();
    let s = au / t;
    let spine = 0.10 * bump((u - xs) / 0.026, 4) * (0.72 + 0.28 * (TAU * v / 0.056).cos()) * sigmoid((v - 0.03) / 0.02);

    let mut ribs = 0.0;
    let cage = sigmoid((s - 0.12) / 0.03) * sigmoid((1.06 - s) / 0.03);
    let dip = 0.030 * (std::f64::consts::PI * s.clamp(0.0, 1.0)).sin();
    let arc = p.rib_arc * s.clamp(0.0, 1.15).powf(2.1);
    for i in 0..10 {
        let i = f64::from(i);
        let at = p.rib_start + i * p.rib_step * (1.0 + 0.006 * i) - dip + arc * (0.35 + 0.065 * i);
        let d = (v - at) / (1.0 + 0.25 * s) / (0.0118 + 0.0004 * i);
        if d.abs() < 3.0 {
            ribs += bump(d, 4) * (0.72 + 0.28 * d.abs()) * cage;
        }
    }
    let front = sigmoid((s - 0.38) / 0.04) * sigmoid((1.04 - s) / 0.03);
    let slope = 0.20 * (1.0 - s.clamp(0.0, 1.0)).powf(1.15);
    for i in 0..6 {
        let at = p.rib_start + 0.055 + f64::from(i) * p.rib_step * 1.12 + slope;
        let d = (v - at) / 1.25 / 0.0135;
        if d.abs() < 3.0 {
            ribs += 0.45 * bump(d, 4) * front;
        }
    }

    let q = ((au - 0.035) / (t * 0.98)).clamp(0.0, 1.1);
    let along = p.clavicle + 0.035 - 0.085 * q + 0.020 * (TAU * q).sin();
    let clavicle =
        0.10 * bump((v - along) / 0.0135, 4) * sigmoid((au - 0.035) / 0.006) * sigmoid((t * 1.05 - au) / 0.02);
    let blade = if p.ap {
        0.05 * sigmoid((au - t * 0.80) / 0.012) * sigmoid((0.46 - v) / 0.03) * sigmoid((v - 0.16) / 0.03)
    } else {
        0.0
    };
    spine + p.rib_contrast * ribs.clamp(0.0, 1.6) + clavicle + blade
}

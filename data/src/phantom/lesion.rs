//! Disease replaces air by water: where there is no lung it cannot be seen, as on real films.

use morph_spec::Rng;

use super::{
    anatomy::{AIR, Anatomy, sigmoid},
    draw::Draw,
};

/// What a lesion looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// A blob at `at` (in units of the lung's half width and height from its centre) with radii `radii`.
    Blob { at: [f64; 2], radii: [f64; 2], rough: f64, power: f64, patchy: bool },
    /// Fluid up to `height` over the diaphragm.
    Effusion { height: f64 },
}

/// A lesion in one lung.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lesion {
    /// 0: the patient's right lung.
    lung: usize,
    kind: Kind,
    shape: Shape,
    alpha: f64,
    noise: u64,
}

/// Kinds of disease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Consolidation,
    GroundGlass,
    Nodule,
    Effusion,
}

/// What a lesion does to a chest.
#[derive(Debug)]
pub(super) struct Effect {
    /// Attenuation it adds, per pixel.
    pub added: Vec<f64>,
    /// Where it can be seen.
    pub mask: Vec<bool>,
}

impl Lesion {
    pub(super) fn draw(d: &mut Draw, kind: Kind, lung: usize) -> Self {
        let noise = d.0.next_u64();
        let (shape, alpha) = match kind {
            Kind::Consolidation => {
                let at = [d.uniform(-0.45, 0.45), d.beta(2.6, 1.7) * 1.3 - 0.62];
                let radii = [d.uniform(0.04, 0.125), d.uniform(0.05, 0.19)];
                (Shape::Blob { at, radii, rough: 0.18, power: 4.0, patchy: false }, d.uniform(0.45, 0.9))
            }
            Kind::GroundGlass => {
                let at = [d.uniform(-0.4, 0.5), d.uniform(-0.45, 0.65)];
                let radii = [d.uniform(0.07, 0.13), d.uniform(0.08, 0.20)];
                (Shape::Blob { at, radii, rough: 0.3, power: 2.5, patchy: true }, d.uniform(0.20, 0.42))
            }
            Kind::Nodule => {
                let r = d.uniform(0.012, 0.03);
                let at = [d.uniform(-0.6, 0.6), d.uniform(-0.7, 0.6)];
                (Shape::Blob { at, radii: [r, r], rough: 0.05, power: 4.0, patchy: false }, d.uniform(0.4, 0.7))
            }
            Kind::Effusion => (Shape::Effusion { height: d.uniform(0.05, 0.20) }, d.uniform(0.7, 0.95)),
        };
        Self { lung, kind, shape, alpha, noise }
    }

    /// Another one of its kind in the same lung.
    pub(super) fn again(&self, d: &mut Draw) -> Self {
        Self::draw(d, self.kind, self.lung)
    }

    pub(super) fn effect(&self, a: &Anatomy) -> Effect {
        let lung = &a.lungs[self.lung];
        let noise = Draw(Rng::keyed(self.noise, "phantom/lesion", 0)).smooth(a.n, 0.035);
        let shape = |i: usize| match self.shape {
            Shape::Blob { at, radii, rough, power, patchy } => {
                let du = (a.u[i] - (lung.centre[0] + at[0] * lung.half[0])) / radii[0];
                let dv = (a.v[i] - (lung.centre[1] + at[1] * lung.half[1])) / radii[1];
                let rho = du.hypot(dv) * (1.0 + rough * noise[i]);
                let g = (-rho.clamp(0.0, 6.0).powf(power)).exp();
                if patchy { g * (0.7 + 0.3 * noise[i]).clamp(0.1, 1.3) } else { g }
            }
            Shape::Effusion { height } => {
                let out = ((a.u[i] - lung.centre[0]) * lung.side / lung.half[0] - 0.2).clamp(0.0, 1.0);
                sigmoid((a.v[i] - (lung.dome[i] - height - 0.10 * out * out)) / 0.008)
            }
        };
        let mut added = Vec::with_capacity(a.air.len());
        let mut mask = Vec::with_capacity(a.air.len());
        for i in 0..a.air.len() {
            let inside = lung.inside[i];
            let g = shape(i) * inside;
            let mut more = self.alpha * AIR * a.air[i] * g;
            if matches!(self.shape, Shape::Effusion { .. }) {
                more = more.max(self.alpha * 0.22 * g * inside);
            }
            mask.push(inside > 0.5 && g > 0.35 && more > 0.03);
            added.push(more);
        }
        Effect { added, mask }
    }

    /// Pixels that its mask must have at least to be called visible: 45 % of its ellipse.
    pub(super) fn least(&self, n: usize) -> f64 {
        let area = (n * n) as f64;
        match self.shape {
            Shape::Blob { radii, .. } => 0.45 * std::f64::consts::PI * radii[0] * radii[1] * area,
            Shape::Effusion { .. } => 0.004 * area,
        }
    }
}

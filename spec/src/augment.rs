//! How training images are varied.

use serde::{Deserialize, Serialize};

/// Random changes of training images; images that are validated and scored with stay as they are. What an image becomes follows from
/// (`trainer.seed`, epoch, sample), so it is the same for any number of ranks, and after any stop.
///
/// The default changes nothing, as the published code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// The share of images that are mirrored, left to right. A chest that is mirrored has its heart on the other side.
    pub flip: f64,
    /// Degrees: turned about the middle by as much at most, either way.
    pub rotate: f64,
    /// A share of the side: moved by as much at most, in each direction.
    pub translate: f64,
    /// Made larger or smaller by such a share at most.
    pub scale: f64,
    /// Grey values are taken to a power between 1 / (1 + `gamma`) and 1 + `gamma`.
    pub gamma: f64,
    /// Grey values' distance from their mean is made larger or smaller by such a share at most.
    pub contrast: f64,
    /// Grey values, which are in 0..1, are raised or lowered by as much at most.
    pub brightness: f64,
    /// Standard deviation of normal noise that is added to each pixel.
    pub noise: f64,
}

impl Augment {
    /// Whether it changes no image.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it changes where in the image things lie.
    pub fn moves(&self) -> bool {
        [self.flip, self.rotate, self.translate, self.scale].iter().any(|amount| *amount != 0.0)
    }
}

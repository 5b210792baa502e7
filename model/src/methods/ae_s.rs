//! AE-S, the spatial auto-encoder of Baur et al. (Medical Image Analysis 2021): the code is an image of 8×8 pixels. In the
//! published experiment it is linear but for the last sigmoid, for `LeakyReLU(True)` has a slope of 1.

use super::{Parts, autoencoder::Autoencoder};
use crate::Error;

pub(super) fn build(parts: Parts<'_>) -> Result<Autoencoder, Error> {
    Autoencoder::new(parts, false)
}

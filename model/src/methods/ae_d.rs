//! AE-D, the dense auto-encoder of Baur et al. (Medical Image Analysis 2021): the spatial one with a code of 128 numbers.

use super::{Parts, autoencoder::Autoencoder};
use crate::Error;

pub(super) fn build(parts: Parts<'_>) -> Result<Autoencoder, Error> {
    Autoencoder::new(parts, true)
}

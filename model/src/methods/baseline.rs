//! MorphAEus without deformation (`MorphAEus-woPLM`), and the auto-encoders AE1 … AE7 of the depth study, which differ in the
//! number of levels only.

use super::{Parts, autoencoder::Autoencoder};
use crate::Error;

pub(super) fn build(parts: Parts<'_>) -> Result<Autoencoder, Error> {
    Autoencoder::new(parts, false)
}

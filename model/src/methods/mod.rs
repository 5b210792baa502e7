//! One file per method, and the one place where a method's name becomes a method: `morph_spec::methods!`.

mod autoencoder;

use morph_checkpoint::Tensors;
use morph_spec::experiment as spec;
use tch::{Device, Kind};

use crate::{Error, Method, layers::Place, vgg};

/// What a method is built from.
pub(crate) struct Parts<'a> {
    pub(crate) model: &'a spec::Model,
    pub(crate) loss: &'a spec::Loss,
    pub(crate) noise: &'a spec::Noise,
    /// The perceptual loss's network, unless the term is off.
    pub(crate) vgg: Option<vgg::Vgg>,
    pub(crate) place: Place,
    /// Weights are drawn from it.
    pub(crate) seed: u64,
}

macro_rules! registry {
    ($($variant:ident $name:literal $module:ident [$($field:ident)*] $title:literal;)*) => {
        $(pub mod $module;)*

        fn of_name(parts: Parts<'_>) -> Result<Box<dyn Method>, Error> {
            Ok(match parts.model.method {
                $(spec::Method::$variant => Box::new($module::build(parts)?),)*
            })
        }
    };
}

morph_spec::methods!(registry);

/// Builds the method that `model` names, its weights drawn from the trainer's seed. `perceptual` holds VGG-19's state dict; it is
/// needed when the loss has a perceptual term with weights other than `random`.
///
/// # Errors
/// When the perceptual weights are missing or do not fit, or the model's numbers do not fit each other.
pub fn build(
    model: &spec::Model,
    trainer: &spec::Trainer,
    perceptual: Option<&Tensors>,
    device: Device,
    kind: Kind,
) -> Result<Box<dyn Method>, Error> {
    let (loss, noise, seed) = (&trainer.loss, &trainer.noise, trainer.seed);
    let vgg = vgg::of_spec(&loss.perceptual, perceptual, device, kind, seed)?;
    of_name(Parts { model, loss, noise, vgg, place: Place { device, kind }, seed })
}

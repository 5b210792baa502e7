//! The networks of the paper and their losses, exact to the reference (shared reference-spec; every statement there was
//! checked by running the paper's own code).
//!
//! Images are `[B, 1, H, W]`, f32 (f64 in tests of equality), in 0..1.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(clippy::assign_op_pattern, reason = "`+=` changes a tensor in place, for all who hold it")]

mod draws;
mod error;
pub mod graph;
pub mod inception;
mod layers;
pub mod losses;
pub mod lpips;
mod method;
mod methods;
mod nn;
mod optim;
pub mod paper;
pub mod parity;
pub mod script;
mod state;
mod tensors;
#[cfg(test)]
mod tests;
pub mod vgg;

pub use draws::{Draws, Keyed, Recorded};
pub use error::Error;
pub use method::{Alone, At, Group, Losses, Method, Reconstruction, Step, Updates};
pub use methods::{build, morphaeus::Morphaeus};
pub use nn::{Norm, Solo, Statistics};
pub use optim::{Adam, Optimizers};
pub use state::{load_state_dict, state_dict};
pub use tensors::{from_data, to_data};

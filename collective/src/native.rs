//! What tch does not expose of libtorch itself.

use tch::{Kind, Tensor};

use crate::{Error, ffi};

/// The state of the default CPU generator: 5056 bytes.
///
/// # Errors
/// When libtorch refuses.
pub fn rng_state() -> Result<Vec<u8>, Error> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the result is written on success.
    ffi::check(unsafe { ffi::morph_rng_get(&raw mut out) }, "read the generator's state")?;
    // SAFETY: the shim made `out` just now.
    let state = unsafe { ffi::own(out) };
    Vec::try_from(state.to_kind(Kind::Uint8))
        .map_err(|e: tch::TchError| Error::Fatal { what: "read the generator's state", why: e.to_string() })
}

/// Puts the default CPU generator into a state that [`rng_state`] gave.
///
/// # Errors
/// When `state` is none.
pub fn set_rng_state(state: &[u8]) -> Result<(), Error> {
    let tensor = Tensor::from_slice(state);
    // SAFETY: the tensor lives through the call, which copies it.
    ffi::check(unsafe { ffi::morph_rng_set(tensor.as_ptr().cast_mut().cast()) }, "set the generator's state")
}

/// How much of what is computed must be the same bits each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Determinism {
    /// Every operation, or it fails where libtorch has no deterministic way.
    All,
    /// What cuDNN does. Some of libtorch's own CUDA kernels add up atomically, so in any order: the backward passes of
    /// `grid_sampler`, `upsample_bilinear2d` and `reflection_pad2d`.
    CuDnn,
}

/// Sets how the whole process computes.
///
/// # Errors
/// When libtorch refuses.
pub fn set_deterministic(determinism: Determinism) -> Result<(), Error> {
    let all = determinism == Determinism::All;
    // SAFETY: sets flags of the process.
    ffi::check(unsafe { ffi::morph_set_deterministic(all.into()) }, "set determinism")
}

/// Lets GPUs multiply float32 numbers in TF32: 10 bits of mantissa instead of 23. libtorch's own setting lets convolutions,
/// so this is to be called with `false`, too.
///
/// # Errors
/// When libtorch refuses.
pub fn set_tf32(on: bool) -> Result<(), Error> {
    ffi::check(ffi::morph_set_tf32(on.into()), "set TF32")
}

/// Lets this thread's arithmetic treat denormal numbers as zero: training on CPU can otherwise slow down a hundredfold.
///
/// # Errors
/// When libtorch refuses.
pub fn set_flush_denormal(on: bool) -> Result<(), Error> {
    // SAFETY: sets a flag of the thread.
    ffi::check(unsafe { ffi::morph_flush_denormal(on.into()) }, "set the treatment of denormal numbers")
}

/// Loads libtorch's CUDA half into this process; `false` where it is not installed. One binary serves machines with and
/// without GPUs, so it is not linked against it. To be called before anything else asks for CUDA: libtorch would remember for
/// ever that there is none.
///
/// # Errors
/// When it is installed and cannot be loaded: a library that it needs is missing, or it is of another version.
pub fn load_cuda() -> Result<bool, Error> {
    let mut found = 0;
    // SAFETY: `found` is written before the call returns; loading runs the library's initialisers, which is what is asked.
    ffi::check(unsafe { ffi::morph_load_cuda(&raw mut found) }, "load libtorch's CUDA half")?;
    Ok(found != 0)
}

/// Ends the process at once, without destructors and atexit handlers: they would take libtorch's statics away from threads
/// that still use them, and wait for peers that are gone. Buffers of this process are not flushed.
pub fn exit(code: u8) -> ! {
    ffi::morph_exit(code.into())
}

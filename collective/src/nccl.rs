//! NCCL, which carries tensors between GPUs. The shim over it is a shared object inside this crate, for it can be loaded only
//! where libtorch's CUDA half was ([`crate::native::load_cuda`]).

use crate::{Error, ffi};

static OBJECT: &[u8] = include_bytes!(env!("MORPH_NCCL_OBJECT"));

/// Must be `1` in the environment of a process that uses NCCL: else libtorch ends the process when a peer is gone or late,
/// instead of failing the call (contract 2 of the crate).
pub const BLOCKING_WAIT: &str = "TORCH_NCCL_BLOCKING_WAIT";

/// Makes [`crate::ProcessGroup::nccl`] and [`uuid`] usable.
///
/// # Errors
/// When libtorch's CUDA half was not loaded, or is of another version; when [`BLOCKING_WAIT`] is not set.
pub fn load() -> Result<(), Error> {
    const WHAT: &str = "load NCCL";
    if std::env::var(BLOCKING_WAIT).as_deref() != Ok("1") {
        return Err(Error::Fatal { what: WHAT, why: format!("{BLOCKING_WAIT} is not 1 in the environment") });
    }
    // SAFETY: the bytes live as long as the process; running the object's initialisers is what is asked.
    ffi::check(unsafe { ffi::morph_load_nccl(OBJECT.as_ptr(), OBJECT.len()) }, WHAT)
}

/// What tells the GPU `device` from all others: NCCL refuses a group of which two ranks are on one.
///
/// # Errors
/// When there is no such GPU, or [`load`] was not called.
pub fn uuid(device: u32) -> Result<[u8; 16], Error> {
    const WHAT: &str = "tell a GPU";
    let device =
        device.try_into().map_err(|_| Error::Fatal { what: WHAT, why: format!("there is no GPU {device}") })?;
    let mut out = [0; 16];
    // SAFETY: sixteen bytes are written on success, and there is room for them.
    ffi::check(unsafe { ffi::morph_gpu_uuid(device, out.as_mut_ptr()) }, WHAT)?;
    Ok(out)
}

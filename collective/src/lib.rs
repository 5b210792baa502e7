//! Process groups over libtorch's own c10d: TCPStore, Gloo, NCCL, the DDP reducer and a differentiable all-reduce.
//!
//! Contract:
//! 1. Every rank of a group makes the same calls in the same order with tensors of the same shapes.
//! 2. A peer that dies makes the others' calls fail with [`Error::PeerLost`] at once, one that hangs with
//!    [`Error::TimedOut`] at the group's time limit. No call waits for ever. After an error the group is of no more use.
//! 3. The same group size and the same inputs give the same bits, also in another life of the process (over Gloo).
//!
//! This is the only room with C++ and (but for one `mmap` in `data`) the only one with `unsafe`.
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod ddp;
mod error;
mod ffi;
mod group;
pub mod native;
pub mod nccl;
mod store;

pub use ddp::{Ddp, DdpOptions};
pub use error::{Error, backward};
pub use group::ProcessGroup;
pub use store::TcpStore;

/// Sizes in bytes of the C++ classes `ProcessGroupGloo`, `Reducer`, `TCPStore`, `ProcessGroup` as the shim was compiled: a
/// libtorch whose headers disagree with its library would show here first.
pub fn abi_sizes() -> [usize; 4] {
    let mut sizes = [0; 4];
    // SAFETY: the function writes four numbers, and there is room for four.
    unsafe { ffi::morph_sizes(sizes.as_mut_ptr()) };
    sizes
}

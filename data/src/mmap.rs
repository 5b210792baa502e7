//! Files as memory: the only `unsafe` outside of `collective`.
#![allow(unsafe_code)]

use std::{fs::File, io};

use arrow_buffer::Buffer;
use bytes::Bytes;

/// The whole of `file`, mapped.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn map(file: &File) -> io::Result<Buffer> {
    // SAFETY: mapped files must not change. These lie in the node's cache under the name of their hash: they are written
    // under another name, never opened for writing again, and kept from eviction while they are mapped (an evicted one would
    // only lose its name).
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Buffer::from(Bytes::from_owner(map)))
}

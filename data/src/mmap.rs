//! Files as memory: the only `unsafe` outside of `collective`.
#![allow(unsafe_code)]

use std::{fs::File, io, sync::Arc};

use arrow_buffer::Buffer;
use bytes::Bytes;
use memmap2::{Advice, Mmap};

/// A file as memory.
#[derive(Debug, Clone)]
pub(crate) struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    /// The whole of `file`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: mapped files must not change. These lie in the node's cache under the name of their hash: they are written
        // under another name, never opened for writing again, and kept from eviction while they are mapped (an evicted one would
        // only lose its name).
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(Arc::new(map)))
    }

    /// What is mapped, for Arrow.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer::from(Bytes::from_owner(self.clone()))
    }

    /// Reads all of it into the page cache, and keeps it there if the kernel lets this process; whether it does.
    pub(crate) fn keep_in_memory(&self) -> bool {
        let locked = self.0.lock().is_ok();
        // Since Linux 5.14; before that, and where it fails, pages come when they are first used.
        if !locked && self.0.advise(Advice::PopulateRead).is_err() {
            self.0.advise(Advice::WillNeed).ok();
        }
        locked
    }
}

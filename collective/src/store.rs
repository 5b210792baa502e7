//! Rendezvous: c10d's TCPStore. Rank 0 serves it, everybody connects.

use std::{ffi::CString, time::Duration};

use crate::{Error, ffi};

/// The key-value store through which the ranks of a group find each other. It stays on its thread.
#[derive(Debug)]
pub struct TcpStore {
    raw: ffi::Ptr,
    port: u16,
}

impl TcpStore {
    /// Serves a store for `world` ranks on a port of the kernel's choice, and connects to it. It listens on all addresses;
    /// `host` is how this rank itself reaches it.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn serve(host: &str, world: u32, timeout: Duration) -> Result<Self, Error> {
        Self::new(host, 0, true, world, timeout)
    }

    /// Connects to the store that another rank serves.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when nobody answers (after about one and a half times `timeout`).
    pub fn connect(host: &str, port: u16, world: u32, timeout: Duration) -> Result<Self, Error> {
        Self::new(host, port, false, world, timeout)
    }

    fn new(host: &str, port: u16, server: bool, world: u32, timeout: Duration) -> Result<Self, Error> {
        let what = if server { "serve the rendezvous store" } else { "connect to the rendezvous store" };
        let host = c_string(host, what)?;
        let (mut raw, mut bound) = (std::ptr::null_mut(), 0);
        let timeout_ms = millis(timeout);
        // SAFETY: `host` is NUL-terminated and outlives the call; the two results are written on success.
        let code = unsafe {
            ffi::morph_store_new(
                host.as_ptr(),
                port,
                server.into(),
                world.into(),
                timeout_ms,
                &raw mut raw,
                &raw mut bound,
            )
        };
        ffi::check(code, what)?;
        Ok(Self { raw, port: bound })
    }

    /// The port at which it is served.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn raw(&self) -> ffi::Ptr {
        self.raw
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: made by `morph_store_new` and given back once.
        unsafe { ffi::morph_store_free(self.raw) };
    }
}

pub(crate) fn c_string(text: &str, what: &'static str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Fatal { what, why: format!("{text:?} contains a zero byte") })
}

pub(crate) fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

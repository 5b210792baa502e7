//! The group of ranks and its collectives.

use std::{rc::Rc, time::Duration};

use tch::Tensor;

use crate::{Error, TcpStore, ffi, store};

/// A process group. CPU tensors go over Gloo, CUDA tensors over NCCL or, by way of main memory, over Gloo. Cheap to clone; the
/// last clone leaves the group.
/// It stays on its thread: all ranks must make their calls in the same order, which two threads could not promise.
#[derive(Debug, Clone)]
pub struct ProcessGroup {
    raw: Rc<Raw>,
    rank: u32,
    world: u32,
}

#[derive(Debug)]
struct Raw(ffi::Ptr);

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by `morph_group_new` and given back once.
        unsafe { ffi::morph_group_free(self.0) };
    }
}

impl ProcessGroup {
    /// Joins the group `name` (several may share a store) as `rank` of `world`; returns when all have joined. `host` is the
    /// address at which other ranks reach this one; the loopback when absent.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when not all ranks come within `timeout`, which is also the limit of every collective.
    pub fn gloo(
        store: &TcpStore,
        name: &str,
        rank: u32,
        world: u32,
        timeout: Duration,
        host: Option<&str>,
    ) -> Result<Self, Error> {
        Self::new(store, name, (rank, world), timeout, host, None)
    }

    /// As [`Self::gloo`], and CUDA tensors, which lie on this process's GPU `device`, go over NCCL. No two ranks may be on one GPU.
    ///
    /// # Errors
    /// As [`Self::gloo`]; [`Error::Fatal`] when [`crate::nccl::load`] was not called.
    pub fn nccl(
        store: &TcpStore,
        name: &str,
        rank: u32,
        world: u32,
        timeout: Duration,
        host: Option<&str>,
        device: u32,
    ) -> Result<Self, Error> {
        Self::new(store, name, (rank, world), timeout, host, Some(device))
    }

    fn new(
        store: &TcpStore,
        name: &str,
        (rank, world): (u32, u32),
        timeout: Duration,
        host: Option<&str>,
        nccl: Option<u32>,
    ) -> Result<Self, Error> {
        const WHAT: &str = "join the process group";
        let fatal = |why: String| Error::Fatal { what: WHAT, why };
        let (Ok(c_rank), Ok(c_world)) = (rank.try_into(), world.try_into()) else {
            return Err(fatal(format!("rank {rank} of {world} is out of range")));
        };
        if rank >= world {
            return Err(fatal(format!("there is no rank {rank} in a world of {world}")));
        }
        let device = nccl.map_or(Ok(-1), i32::try_from).map_err(|e| fatal(format!("the GPU's number: {e}")))?;
        let name = store::c_string(name, WHAT)?;
        let host = store::c_string(host.unwrap_or("127.0.0.1"), WHAT)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the store lives through the call (the group keeps its own count of it), texts are NUL-terminated.
        let code = unsafe {
            let timeout = store::millis(timeout);
            ffi::morph_group_new(
                store.raw(),
                name.as_ptr(),
                c_rank,
                c_world,
                timeout,
                host.as_ptr(),
                device,
                &raw mut raw,
            )
        };
        ffi::check(code, WHAT)?;
        Ok(Self { raw: Rc::new(Raw(raw)), rank, world })
    }

    /// This process's rank, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of ranks.
    pub fn world(&self) -> u32 {
        self.world
    }

    pub(crate) fn raw(&self) -> ffi::Ptr {
        self.raw.0
    }

    /// Replaces each tensor (contiguous, any shape) by its sum over all ranks.
    ///
    /// # Errors
    /// Contract 2 of the crate.
    pub fn all_reduce_sum(&self, tensors: &[Tensor]) -> Result<(), Error> {
        const WHAT: &str = "all-reduce";
        ffi::dense(tensors, WHAT)?;
        let pointers = ffi::pointers(tensors);
        // SAFETY: the pointers are live tensors' for the time of the call.
        ffi::check(unsafe { ffi::morph_all_reduce_sum(self.raw(), pointers.as_ptr(), pointers.len()) }, WHAT)
    }

    /// The sum of `tensor` over all ranks, as a new tensor in the autograd graph: backward sums the gradient over all ranks.
    /// Backward thus makes collective calls of its own, in the graph's order: give such sums a group that no
    /// [`crate::Ddp`] uses, and let every rank run backward on the same graph.
    ///
    /// # Errors
    /// Contract 2 of the crate.
    pub fn all_reduce_sum_autograd(&self, tensor: &Tensor) -> Result<Tensor, Error> {
        let mut out = std::ptr::null_mut();
        // SAFETY: the tensor lives through the call.
        let code =
            unsafe { ffi::morph_all_reduce_sum_autograd(self.raw(), tensor.as_ptr().cast_mut().cast(), &raw mut out) };
        ffi::check(code, "differentiable all-reduce")?;
        // SAFETY: the shim made `out` just now.
        Ok(unsafe { ffi::own(out) })
    }

    /// Replaces each tensor (contiguous) by the one of rank `root`.
    ///
    /// # Errors
    /// Contract 2 of the crate.
    pub fn broadcast(&self, tensors: &[Tensor], root: u32) -> Result<(), Error> {
        const WHAT: &str = "broadcast";
        ffi::dense(tensors, WHAT)?;
        let root = root.try_into().map_err(|_| Error::Fatal { what: WHAT, why: format!("there is no rank {root}") })?;
        let pointers = ffi::pointers(tensors);
        // SAFETY: the pointers are live tensors' for the time of the call.
        ffi::check(unsafe { ffi::morph_broadcast(self.raw(), pointers.as_ptr(), pointers.len(), root) }, WHAT)
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// Contract 2 of the crate.
    pub fn barrier(&self) -> Result<(), Error> {
        // SAFETY: the group is alive.
        ffi::check(unsafe { ffi::morph_barrier(self.raw()) }, "barrier")
    }
}

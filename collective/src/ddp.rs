//! Data-parallel gradients: c10d's Reducer, which sums buckets of gradients while backward still runs.
//!
//! Unlike PyTorch's DDP, buckets are never rebuilt in the order in which gradients came: a process that resumes would begin
//! with the first layout again, and sums over three or more ranks would round differently than in the run that never
//! stopped.

use tch::Tensor;

use crate::{Error, ProcessGroup, error::backward, ffi};

/// How gradients are bundled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DdpOptions {
    /// Size of the first bucket to be sent, in bytes: small, so that sending starts early.
    pub first_bucket_bytes: i64,
    /// Size of the others.
    pub bucket_bytes: i64,
    /// Some parameters may get no gradient in a step: the graph is searched for them. Those that no rank uses keep their
    /// gradient as it was (undefined, if it was undefined).
    pub find_unused: bool,
}

impl Default for DdpOptions {
    fn default() -> Self {
        Self { first_bucket_bytes: 1 << 20, bucket_bytes: 25 << 20, find_unused: false }
    }
}

/// While it lives, each backward of the parameters' graph leaves the mean over the ranks in their gradients.
#[derive(Debug)]
pub struct Ddp {
    raw: ffi::Ptr,
    find_unused: bool,
    // The reducer calls into the group until it is gone.
    _group: ProcessGroup,
}

impl Ddp {
    /// Watches `params` (leaves that require a gradient; in the order of the forward pass, the same on all ranks).
    ///
    /// # Errors
    /// When ranks disagree about the parameters, or contract 2 of the crate.
    pub fn new(group: &ProcessGroup, params: &[Tensor], options: DdpOptions) -> Result<Self, Error> {
        const WHAT: &str = "set up data-parallel gradients";
        ffi::dense(params, WHAT)?;
        if let Some(i) = params.iter().position(|p| !p.requires_grad()) {
            return Err(Error::Fatal { what: WHAT, why: format!("parameter {i} does not require a gradient") });
        }
        let pointers = ffi::pointers(params);
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointers are live tensors' for the time of the call; the reducer keeps its own counts of them.
        let code = unsafe {
            ffi::morph_reducer_new(
                group.raw(),
                pointers.as_ptr(),
                pointers.len(),
                options.first_bucket_bytes,
                options.bucket_bytes,
                options.find_unused.into(),
                &raw mut raw,
            )
        };
        ffi::check(code, WHAT)?;
        Ok(Self { raw, find_unused: options.find_unused, _group: group.clone() })
    }

    /// To be called before each forward pass.
    ///
    /// # Errors
    /// When the step before was not finished.
    pub fn before_forward(&self) -> Result<(), Error> {
        // SAFETY: the reducer is alive.
        ffi::check(unsafe { ffi::morph_reducer_before_forward(self.raw) }, "begin a data-parallel step")
    }

    /// `loss.backward()`, which leaves the mean over the ranks in every parameter's gradient. For all but the last of several
    /// micro-batches call [`backward`] instead: gradients then add up locally.
    ///
    /// # Errors
    /// Contract 2 of the crate. [`Error::Fatal`] when a parameter got no gradient and `find_unused` is off: then its bucket
    /// was never sent, gradients are this rank's own, and the optimizer must not step.
    pub fn backward(&self, loss: &Tensor) -> Result<(), Error> {
        let outputs = if self.find_unused { std::slice::from_ref(loss) } else { &[] };
        let pointers = ffi::pointers(outputs);
        // SAFETY: the pointers are live tensors' for the time of the call.
        let code = unsafe { ffi::morph_reducer_before_backward(self.raw, pointers.as_ptr(), pointers.len()) };
        ffi::check(code, "begin a data-parallel backward")?;
        backward(loss)?;
        // SAFETY: the reducer is alive.
        ffi::check(unsafe { ffi::morph_reducer_finished(self.raw) }, "end a data-parallel backward")
    }
}

impl Drop for Ddp {
    fn drop(&mut self) {
        // SAFETY: made by `morph_reducer_new` and given back once; its hooks leave the parameters with it.
        unsafe { ffi::morph_reducer_free(self.raw) };
    }
}

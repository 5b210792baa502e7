//! The shim's functions. A non-zero return value means that `morph_last_error` has the text, on the same thread.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use crate::Error;

pub(crate) type Ptr = *mut c_void;

unsafe extern "C" {
    fn morph_last_error() -> *const c_char;
    pub(crate) fn morph_load_cuda(found: *mut c_int) -> c_int;
    pub(crate) fn morph_load_nccl(bytes: *const u8, n: usize) -> c_int;
    pub(crate) fn morph_gpu_uuid(device: c_int, out: *mut u8) -> c_int;
    pub(crate) safe fn morph_set_tf32(on: c_int) -> c_int;
    pub(crate) safe fn morph_exit(code: c_int) -> !;
    pub(crate) fn morph_store_new(
        host: *const c_char,
        port: u16,
        server: c_int,
        world: i64,
        timeout_ms: i64,
        out: *mut Ptr,
        bound: *mut u16,
    ) -> c_int;
    pub(crate) fn morph_store_free(store: Ptr);
    pub(crate) fn morph_group_new(
        store: Ptr,
        name: *const c_char,
        rank: c_int,
        world: c_int,
        timeout_ms: i64,
        host: *const c_char,
        device: c_int,
        out: *mut Ptr,
    ) -> c_int;
    pub(crate) fn morph_group_free(group: Ptr);
    pub(crate) fn morph_all_reduce_sum(group: Ptr, tensors: *const Ptr, n: usize) -> c_int;
    pub(crate) fn morph_all_reduce_sum_autograd(group: Ptr, tensor: Ptr, out: *mut Ptr) -> c_int;
    pub(crate) fn morph_broadcast(group: Ptr, tensors: *const Ptr, n: usize, root: c_int) -> c_int;
    pub(crate) fn morph_barrier(group: Ptr) -> c_int;
    pub(crate) fn morph_reducer_new(
        group: Ptr,
        params: *const Ptr,
        n: usize,
        first_bytes: i64,
        bytes: i64,
        find_unused: c_int,
        out: *mut Ptr,
    ) -> c_int;
    pub(crate) fn morph_reducer_free(reducer: Ptr);
    pub(crate) fn morph_reducer_before_forward(reducer: Ptr) -> c_int;
    pub(crate) fn morph_reducer_before_backward(reducer: Ptr, outputs: *const Ptr, n: usize) -> c_int;
    pub(crate) fn morph_reducer_finished(reducer: Ptr) -> c_int;
    pub(crate) fn morph_rng_get(out: *mut Ptr) -> c_int;
    pub(crate) fn morph_rng_set(state: Ptr) -> c_int;
    pub(crate) fn morph_set_deterministic(on: c_int) -> c_int;
    pub(crate) fn morph_flush_denormal(on: c_int) -> c_int;
    pub(crate) fn morph_sizes(out: *mut usize);
}

/// The error of the shim's call that returned `code`, or none.
pub(crate) fn check(code: c_int, what: &'static str) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the shim returns a NUL-terminated text that lives until the thread's next failing call.
    let text = unsafe { CStr::from_ptr(morph_last_error()) }.to_string_lossy();
    Err(Error::of(what, &text))
}

/// Pointers to the tensors' C++ objects; they live as long as the tensors.
pub(crate) fn pointers(tensors: &[Tensor]) -> Vec<Ptr> {
    tensors.iter().map(|t| t.as_ptr() as Ptr).collect()
}

/// Takes over a tensor that the shim made with `new`.
///
/// # Safety
/// `tensor` comes from the shim and is taken over once.
pub(crate) unsafe fn own(tensor: Ptr) -> Tensor {
    // SAFETY: torch-sys' tensors are the same `at::Tensor*`.
    unsafe { Tensor::from_ptr(tensor.cast()) }
}

/// Collectives read and write memory as it lies: a view with gaps would be torn.
pub(crate) fn dense(tensors: &[Tensor], what: &'static str) -> Result<(), Error> {
    match tensors.iter().position(|t| !t.is_contiguous()) {
        None => Ok(()),
        Some(i) => {
            Err(Error::Fatal { what, why: format!("tensor {i} of shape {:?} is not contiguous", tensors[i].size()) })
        }
    }
}

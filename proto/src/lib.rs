//! The wire: generated `morph.v1` messages and services. What they mean is parsed where they arrive, into typed values, or
//! refused with the name of the field.

/// `morph.v1`, as generated from `proto/morph/v1/*.proto`.
pub mod v1 {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic
    )]
    tonic::include_proto!("morph.v1");
}

/// The file descriptor set of `morph.v1`, for gRPC reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/morph.bin"));

//! The wire: generated `morph.v1` messages and services, and the only conversions between them and [`morph_spec`].
//!
//! Conversions parse, they do not validate: what comes out of them is a typed value, or an error that names the field.

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

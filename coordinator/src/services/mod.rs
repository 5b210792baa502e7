//! The gRPC services of `morph.v1`: they parse, ask the core's loop, and answer.

pub mod access;
pub mod agents;
pub mod coordinator;

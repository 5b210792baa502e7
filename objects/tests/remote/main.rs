//! Objects over HTTP, from real servers and through lines that break.
#![allow(clippy::unwrap_used)]

mod cache;
mod common;
mod faults;
mod s3;
mod servers;

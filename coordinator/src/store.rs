//! The database.

/// A failed operation on the database.
#[derive(Debug, thiserror::Error)]
#[error("database")]
pub struct Error;

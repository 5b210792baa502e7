//! How long jobs tell how far they are.

/// Hears how far a job is. Called from several threads.
pub trait Progress: Sync {
    /// A stage of `total` items begins.
    fn stage(&self, name: &str, total: u64);
    /// `n` more items are done.
    fn advance(&self, n: u64);
    /// Something that people should know, and that stops nothing.
    fn warn(&self, line: &str);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn warn(&self, _line: &str) {}
}

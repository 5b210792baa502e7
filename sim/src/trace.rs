//! What happened, line by line: kept when asked for, hashed always.

use std::fmt;

/// See the module.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Empty; `keep`: lines are kept to be read.
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: keep.then(Vec::new) }
    }

    /// Something happened at `now` (microseconds).
    pub fn say(&mut self, now: u64, what: fmt::Arguments<'_>) {
        use fmt::Write;
        // FNV-1a: the same in every build and on every machine.
        // Writing to itself cannot fail.
        writeln!(self, "{now} {what}").ok();
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.6}  {what}", now as f64 / 1e6));
        }
    }

    /// The hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// All lines, if they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

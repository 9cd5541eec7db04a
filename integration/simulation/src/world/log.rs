//! Everything that happened, line by line: what two runs of a seed are compared
//! by, and what a person reads of a failure.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;

/// The lines of a run.
#[derive(Debug, Default)]
pub struct Log {
    text: Mutex<String>,
}

impl Log {
    /// Puts a line down.
    pub fn note(&self, at: Duration, who: &str, what: &str) {
        let mut text = lock(&self.text);
        let _ = writeln!(
            text,
            "{:>5}.{:06} {who:<10} {what}",
            at.as_secs(),
            at.subsec_micros()
        );
    }

    /// Puts down lines that are written already.
    pub fn append(&self, lines: &str) {
        lock(&self.text).push_str(lines);
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        lock(&self.text).clone()
    }
}

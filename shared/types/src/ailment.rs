//! What is wrong with something that a process leans on.

use std::fmt::Display;

/// Why a component does not do all that it should.
pub trait Ailment: Display {
    /// Whether it still does a part of it, so that the process should go on
    /// getting requests: a database that can be read and not changed.
    fn is_partial(&self) -> bool {
        false
    }
}

impl Ailment for &str {}

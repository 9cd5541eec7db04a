//! Prefers hosts with a large part of their memory free.

use super::{Weigher, part};
use crate::config::Config;
use crate::view::{Amounts, Deduct, Host};

/// The part of the memory that would be left.
#[derive(Debug)]
pub struct FreeMemory;

impl Weigher for FreeMemory {
    fn weigh(&self, host: &Host, wanted: &Amounts, deduct: Deduct) -> f64 {
        part(
            host.free(deduct).memory_mib,
            wanted.memory_mib,
            host.limit.memory_mib,
        )
    }

    fn weight(&self, config: &Config) -> f64 {
        config.memory_weight
    }
}

//! Prefers hosts with a large part of their vCPUs free.

use super::{Weigher, part};
use crate::config::Config;
use crate::view::{Amounts, Deduct, Host};

/// The part of the vCPUs that would be left.
#[derive(Debug)]
pub struct FreeCpu;

impl Weigher for FreeCpu {
    fn weigh(&self, host: &Host, wanted: &Amounts, deduct: Deduct) -> f64 {
        part(host.free(deduct).vcpus, wanted.vcpus, host.limit.vcpus)
    }

    fn weight(&self, config: &Config) -> f64 {
        config.cpu_weight
    }
}

//! Rules that order hosts: one file each. A weigher gives a host a number,
//! about 0 to 1, higher is better; the configuration says how much each
//! counts, and a negative weight turns it round (spread becomes pack).

mod free_cpu;
mod free_memory;
mod servers;

use crate::config::Config;
use crate::view::{Amounts, Deduct, Host};

pub use free_cpu::FreeCpu;
pub use free_memory::FreeMemory;
pub use servers::FewServers;

/// A rule that orders hosts.
pub trait Weigher: Send + Sync {
    /// How good a host is for what is wanted.
    fn weigh(&self, host: &Host, wanted: &Amounts, deduct: Deduct) -> f64;

    /// Adds `weight` times how good each candidate is to its score: one walk
    /// without a virtual call for each host.
    fn weigh_all(
        &self,
        candidates: &mut [(u32, f64)],
        hosts: &[Host],
        wanted: &Amounts,
        deduct: Deduct,
        weight: f64,
    ) {
        for (index, score) in candidates {
            if let Some(host) = hosts.get(*index as usize) {
                *score += weight * self.weigh(host, wanted, deduct);
            }
        }
    }

    /// How much this rule counts.
    fn weight(&self, config: &Config) -> f64;
}

/// All weighers.
pub const WEIGHERS: &[&dyn Weigher] = &[&FreeCpu, &FreeMemory, &FewServers];

/// The part that would be left of `limit`; a host without any has none left.
fn part(free: f64, wanted: f64, limit: f64) -> f64 {
    if limit > 0.0 {
        (free - wanted) / limit
    } else {
        0.0
    }
}

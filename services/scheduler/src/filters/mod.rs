//! Rules that remove hosts: one file each. A filter sees one host and what is
//! wanted, and nothing else; it can say in words why it removed a host.

mod availability_zone;
mod capacity;
mod enabled;
mod excluded;
mod forced;
mod up;

use std::time::Duration;

use crate::view::{Amounts, Deduct, Host, HostTable, ZoneNumber};

pub use availability_zone::AvailabilityZone;
pub use capacity::Capacity;
pub use enabled::Enabled;
pub use excluded::Excluded;
pub use forced::Forced;
pub use up::Up;

/// Where a server wants to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedZone {
    /// Anywhere.
    Any,
    /// In this zone.
    In(ZoneNumber),
    /// In a zone that no host is in.
    Unknown(String),
}

/// What a server asks of a host, in the table's own numbers.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it takes.
    pub amounts: Amounts,
    /// Where it wants to be.
    pub zone: WantedZone,
    /// Indices of hosts that refused it.
    pub excluded: Vec<u32>,
    /// The only host that will do, if one was named; `Some(None)` for a name
    /// that no host has.
    pub forced: Option<Option<u32>>,
    /// The monotonic time of the choice.
    pub now: Duration,
    /// How long a host may have been silent.
    pub silence: Duration,
    /// Whether own recent choices count as taken.
    pub deduct: Deduct,
}

/// A rule that removes hosts.
pub trait Filter: Send + Sync {
    /// Its name in explanations.
    fn name(&self) -> &'static str;

    /// Whether it may remove any host at all.
    fn is_asked(&self, _wanted: &Wanted) -> bool {
        true
    }

    /// Whether the host at `index` stays.
    fn keeps(&self, index: u32, host: &Host, wanted: &Wanted) -> bool;

    /// Leaves the candidates that stay, and gives the first that does not: one
    /// walk without a virtual call for each host.
    fn sieve(&self, candidates: &mut Vec<u32>, hosts: &[Host], wanted: &Wanted) -> Option<u32> {
        let mut example = None;
        candidates.retain(|index| {
            let keep = hosts
                .get(*index as usize)
                .is_some_and(|host| self.keeps(*index, host, wanted));
            if !keep && example.is_none() {
                example = Some(*index);
            }
            keep
        });
        example
    }

    /// Why the host at `index` does not.
    fn explain(&self, table: &HostTable, index: u32, host: &Host, wanted: &Wanted) -> String;
}

/// The filters, in the order that makes the best explanation: a host that is
/// down is not called too small.
pub const FILTERS: &[&dyn Filter] = &[
    &Forced,
    &Excluded,
    &Up,
    &Enabled,
    &AvailabilityZone,
    &Capacity,
];

//! Hosts in the zone that was asked for.

use super::{Filter, Wanted, WantedZone};
use crate::view::{Host, HostTable};

/// Removes hosts in other zones.
#[derive(Debug)]
pub struct AvailabilityZone;

impl Filter for AvailabilityZone {
    fn name(&self) -> &'static str {
        "availability_zone"
    }

    fn is_asked(&self, wanted: &Wanted) -> bool {
        wanted.zone != WantedZone::Any
    }

    fn keeps(&self, _: u32, host: &Host, wanted: &Wanted) -> bool {
        match wanted.zone {
            WantedZone::Any => true,
            WantedZone::In(zone) => host.zone == zone,
            WantedZone::Unknown(_) => false,
        }
    }

    fn explain(&self, table: &HostTable, _: u32, host: &Host, wanted: &Wanted) -> String {
        let wanted = match &wanted.zone {
            WantedZone::Any => "any",
            WantedZone::In(zone) => table.zone_name(*zone),
            WantedZone::Unknown(name) => name,
        };
        format!("in zone {}, wanted {wanted}", table.zone_name(host.zone))
    }
}

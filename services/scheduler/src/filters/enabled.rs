//! Hosts that the operator lets take servers.

use super::{Filter, Wanted};
use crate::view::{Host, HostTable};

/// Removes hosts that were taken out of service.
#[derive(Debug)]
pub struct Enabled;

impl Filter for Enabled {
    fn name(&self) -> &'static str {
        "enabled"
    }

    fn keeps(&self, _: u32, host: &Host, _: &Wanted) -> bool {
        host.enabled
    }

    fn explain(&self, table: &HostTable, index: u32, _: &Host, _: &Wanted) -> String {
        match table.disabled_reason(index) {
            "" => "taken out of service".to_owned(),
            reason => format!("taken out of service: {reason}"),
        }
    }
}

//! Hosts that were heard lately.

use super::{Filter, Wanted};
use crate::view::{Host, HostTable};

/// Removes hosts that have been silent for too long.
#[derive(Debug)]
pub struct Up;

impl Filter for Up {
    fn name(&self) -> &'static str {
        "up"
    }

    fn keeps(&self, _: u32, host: &Host, wanted: &Wanted) -> bool {
        wanted.now.saturating_sub(host.heard) <= wanted.silence
    }

    fn explain(&self, _: &HostTable, _: u32, host: &Host, wanted: &Wanted) -> String {
        format!(
            "silent for {} s",
            wanted.now.saturating_sub(host.heard).as_secs()
        )
    }
}

//! Hosts that have not refused this server yet.

use super::{Filter, Wanted};
use crate::view::{Host, HostTable};

/// Removes hosts that already refused to take the server.
#[derive(Debug)]
pub struct Excluded;

impl Filter for Excluded {
    fn name(&self) -> &'static str {
        "excluded"
    }

    fn is_asked(&self, wanted: &Wanted) -> bool {
        !wanted.excluded.is_empty()
    }

    fn keeps(&self, index: u32, _: &Host, wanted: &Wanted) -> bool {
        !wanted.excluded.contains(&index)
    }

    fn explain(&self, _: &HostTable, _: u32, _: &Host, _: &Wanted) -> String {
        "it refused this server already".to_owned()
    }
}

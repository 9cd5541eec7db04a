//! The one host that an administrator named.

use super::{Filter, Wanted};
use crate::view::{Host, HostTable};

/// Removes every host but the one that was asked for by name.
#[derive(Debug)]
pub struct Forced;

impl Filter for Forced {
    fn name(&self) -> &'static str {
        "forced_host"
    }

    fn is_asked(&self, wanted: &Wanted) -> bool {
        wanted.forced.is_some()
    }

    fn keeps(&self, index: u32, _: &Host, wanted: &Wanted) -> bool {
        match wanted.forced {
            None => true,
            Some(only) => only == Some(index),
        }
    }

    fn explain(&self, _: &HostTable, _: u32, _: &Host, wanted: &Wanted) -> String {
        match wanted.forced {
            Some(None) => "the host that was asked for is not known".to_owned(),
            _ => "another host was asked for".to_owned(),
        }
    }
}

//! Prefers hosts with few servers, however small these are.

use super::Weigher;
use crate::config::Config;
use crate::view::{Amounts, Deduct, Host};

/// One for an empty host, less with each server.
#[derive(Debug)]
pub struct FewServers;

impl Weigher for FewServers {
    fn weigh(&self, host: &Host, _: &Amounts, _: Deduct) -> f64 {
        1.0 / (1.0 + f64::from(host.servers))
    }

    fn weight(&self, config: &Config) -> f64 {
        config.servers_weight
    }
}

//! Networks: a manager that owns networks, addresses and rules, and an agent on
//! each host that makes them real.
//!
//! The manager serves the contract `network` on the control topic and has the
//! tables. The agent serves `network_host` on its host's topic and has no
//! database: it pulls its desired state, keeps it on its own disk, and can
//! rebuild everything from it without the control plane and without cutting a
//! flow that is still allowed.

// The world of the tests in `tests/` names the crate from outside.
#[cfg(test)]
extern crate self as yakumo_network;

mod agent;
mod app;
mod config;
mod http;
mod rpc;
mod start;
mod store;
pub mod upkeep;

pub use config::{Config, Driver, HostConfig, ManagerConfig, Mode, QuotaDefaults};
pub use start::{HostSettings, start_host, start_manager};
pub use store::Migrator;

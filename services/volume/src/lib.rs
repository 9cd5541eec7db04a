//! Volumes: a manager that owns them and their attachments, and an agent on
//! each host that keeps their bytes and exports them to guests.
//!
//! The manager serves the contract `volume` on the control topic and has the
//! tables. Making and removing a volume are workflows; attaching and detaching
//! are steps that the `api` service's workflows call; reconcilers finish what was
//! left and remove what nobody knows of. The agent serves
//! `volume_host` on its host's topic and has no database: what it must not
//! forget is in small files beside the volumes.

mod agent;
mod app;
mod config;
pub mod drivers;
mod reconcilers;
mod rpc;
mod start;
mod store;
#[cfg(test)]
mod testing;
pub mod upkeep;
mod workflows;

pub use config::{Config, Driver, HostConfig};
pub use start::{HostSettings, start_host, start_manager};
pub use store::Migrator;

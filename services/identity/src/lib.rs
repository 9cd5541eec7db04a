//! Identity: who people are, what they may do, and where everything is.
//!
//! Serves Keystone's v3 API and signs tokens that everybody else verifies by
//! themselves (see `yakumo_auth`). Tables belong to this service alone.
//!
//! * `http/` parses and renders, one file for each resource.
//! * `app/` holds the rules: who may, what a scope grants, what a change takes
//!   back. Whatever weakens somebody's rights appends to the revocation log in
//!   the same transaction.
//! * `store/` holds the tables.
//! * `reconcilers/` rotates signing keys and forgets what has run out.
//! * `rpc/` tells verifiers what they need.

mod app;
mod config;
mod http;
mod reconcilers;
mod rpc;
mod start;
mod store;
pub mod upkeep;

pub use app::ids::DEFAULT_DOMAIN;
pub use config::{BootstrapConfig, Config, EndpointConfig, PasswordConfig};
pub use start::{Started, start};
pub use store::Migrator;

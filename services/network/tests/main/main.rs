//! The network service: its rules on every database, and its agent in network
//! namespaces of its own.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods, reason = "tests drive programs and wait")]

mod addresses;
mod agent;
mod carried;
mod isolation;
mod manager;
mod namespaces;
mod refusals;
mod repeats;
mod reports;
mod restore;
mod routing;
mod servers;
mod states;
mod world;

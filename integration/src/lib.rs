//! Whole clouds for tests: the real program as one process or as eight, and
//! the clients that people use on it. [`in_process`] has the services within
//! the test itself, where a test wants to look at them from inside.

// These are tests: they may wait by the clock, start processes and print.
#![allow(clippy::disallowed_methods, clippy::print_stderr, missing_docs)]

pub mod balancer;
pub mod chaos;
pub mod client;
pub mod cloud;
pub mod collector;
pub mod config;
pub mod fabric;
pub mod in_process;
pub mod keeper;
pub mod openstack;
pub mod programs;
pub mod real;
pub mod upgrade;
pub mod wait;
pub mod wire;
pub mod world;

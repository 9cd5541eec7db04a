//! The compute agent's tests: its decisions against a small model, its store
//! against crashes, its drivers against one suite, and the whole agent against
//! a control plane that only listens.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod decision;
mod drivers;
mod full;
#[cfg(feature = "libvirt")]
mod libvirt;
mod serving;
mod store;
mod support;

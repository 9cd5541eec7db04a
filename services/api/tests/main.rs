//! The api service as a whole, on an embedded database and the in-process
//! bus, with fakes in the place of the other services. Whole clouds of real
//! services are tested in `integration/`.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]
// Futures of whole services nest deeply.
#![recursion_limit = "512"]

mod bad_input;
mod boot;
mod cloud;
mod databases;
mod doors;
mod fake_management;
mod fakes;
mod flavors;
mod hosts;
mod idempotency;
mod joining;
mod key_pairs;
mod keys_travel;
mod listing;
mod messages;
mod metadata;
mod power;
mod quotas;
mod upkeep;
mod volumes;
mod walls;

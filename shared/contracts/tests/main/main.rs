//! Holds the contracts to what was agreed: their shape to their version, and
//! all of it to what the last release speaks.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_payloads;
mod compatible;
mod fingerprints;
mod older_receivers;
mod previous_release;
mod samples;

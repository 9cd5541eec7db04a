//! The object store as its clients see it.

// Futures of tests hold those of a whole world, several deep.
#![recursion_limit = "256"]
// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod world;

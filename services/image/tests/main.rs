//! The image service as its clients see it: REST, the bus, and gRPC.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod world;

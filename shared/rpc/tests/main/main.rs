//! The bus from outside: one conformance suite for both transports, faults in
//! process, durability on RabbitMQ.

// A test says by panicking what went wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod clocks;
// Its macro is for the modules below.
#[macro_use]
mod conformance;
mod bad_messages;
mod deafener;
mod durability;
mod host_rights;
mod in_process;
mod support;

//! The identity service as its clients meet it: the whole service on SQLite
//! and the in-process bus, over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod catalog;
mod clock;
mod credentials;
mod databases;
mod grants;
mod groups;
mod idempotency;
mod owners;
mod races;
mod revocation;
mod support;
mod tokens;

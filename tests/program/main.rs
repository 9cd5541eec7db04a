//! The program as an operator meets it: its commands, its listeners, its logs,
//! its end. Each test owns a folder, and ports that the system chose.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod configuration;
mod ending;
mod hosts;
mod lines;
mod parked;
mod running;
mod world;

//! The whole cloud, as people run it.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_days;
mod callers;
mod chaos;
mod deaths;
mod hosts;
mod network;
mod network_refusals;
mod openstack_cli;
mod real_guests;
mod restore;
mod schemas;
mod servers;
mod several_hosts;
mod simulated;
mod smoke;
mod trace;
mod two_of_one_name;
mod volume;

use tokio::sync::{Mutex, MutexGuard};

/// Clouds of eight processes and clouds with real guests take turns: two of
/// them on a small machine would only wait for each other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

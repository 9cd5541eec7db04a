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

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many clouds of eight processes there are at a time: more of them on a
/// small machine would only wait for each other.
const CLOUDS: u32 = 2;

static PLACES: Semaphore = Semaphore::const_new(CLOUDS as usize);

async fn places(count: u32) -> SemaphorePermit<'static> {
    PLACES.acquire_many(count).await.expect("nobody closes it")
}

/// For a cloud that needs the machine for itself: it has real guests, whose host
/// has a name and networks of its own, or it is measured by seconds.
pub async fn alone() -> SemaphorePermit<'static> {
    places(CLOUDS).await
}

/// For a cloud without guests.
pub async fn beside_another() -> SemaphorePermit<'static> {
    places(1).await
}

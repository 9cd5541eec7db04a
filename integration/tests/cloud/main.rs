//! The whole cloud, as people run it.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_broker;
mod bad_days;
mod callers;
mod chaos;
mod deaths;
mod hosts;
mod network;
mod network_refusals;
mod openstack_cli;
mod real_guests;
mod recovering;
mod restore;
mod schemas;
mod servers;
mod several_hosts;
mod simulated;
mod smoke;
mod trace;
mod two_of_one_name;
mod volume;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};
use yakumo_db::Backend;
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::world::World;
use yakumo_testing::rabbitmq::Broker;

/// How many clouds of eight processes, or with real guests, there are at a time:
/// more of them on a small machine would only wait for each other.
const CLOUDS: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(CLOUDS);

static REAL_HOSTS: Mutex<()> = Mutex::const_new(());

/// For a cloud without guests.
pub async fn beside_another() -> SemaphorePermit<'static> {
    PLACES.acquire().await.expect("nobody closes it")
}

/// A cloud of eight processes on PostgreSQL and what is in it, after its place
/// beside another, which is to outlive both.
pub async fn distributed(options: Options) -> Result<(SemaphorePermit<'static>, TestCloud, World)> {
    let turn = beside_another().await;
    let cloud = TestCloud::distributed(Backend::Postgres, options).await?;
    let world = World::make(&cloud).await?;
    Ok((turn, cloud, world))
}

/// The broker of such a cloud.
pub fn broker(cloud: &TestCloud) -> Result<&Broker> {
    cloud.broker.as_ref().context("a broker")
}

/// For a cloud with real guests, whose hosts have names and networks of their
/// own: the only one of its kind.
pub async fn with_real_guests() -> (MutexGuard<'static, ()>, SemaphorePermit<'static>) {
    // Whoever waits for the hosts takes nobody's place.
    let hosts = REAL_HOSTS.lock().await;
    (hosts, beside_another().await)
}

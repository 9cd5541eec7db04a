//! A cloud with room for many servers, set as it is for production.

use anyhow::Result;
use serde_json::json;
use yakumo_db::Backend;
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::world::{World, network};
use yakumo_testing::databases::Durability;

/// A host that is never full, no quotas, and the usual price of a password.
pub fn options() -> Options {
    let settings = [
        "identity.password.memory_kib=19456",
        "identity.password.iterations=2",
        "api.quota.instances=-1",
        "api.quota.cores=-1",
        "api.quota.ram=-1",
        "network.manager.quotas.port=-1",
        "compute.simulated.memory_mib=100000000",
        "compute.simulated.disk_gib=10000000",
    ];
    Options {
        vcpus: 1_000_000,
        build_ms: 0,
        durability: Durability::Durable,
        settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        ..Options::default()
    }
}

/// All in one process, on SQLite.
pub async fn embedded() -> Result<TestCloud> {
    TestCloud::embedded(options()).await
}

/// Eight processes on RabbitMQ and PostgreSQL.
pub async fn distributed() -> Result<TestCloud> {
    TestCloud::distributed(Backend::Postgres, options()).await
}

/// What servers need; their network has room for 65,000.
pub async fn world(cloud: &TestCloud) -> Result<World> {
    let mut world = World::make(cloud).await?;
    world.network = network(
        &world.admin,
        &json!({"name": "wide"}),
        &json!({"name": "wide", "cidr": "10.64.0.0/16"}),
    )
    .await?;
    Ok(world)
}

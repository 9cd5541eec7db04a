//! A host whose disk takes no records any more.

use std::sync::Arc;
use std::time::Duration;

use yakumo_compute::SimulatedConfig;
use yakumo_compute::drivers::simulated::SimulatedHypervisor;
use yakumo_contracts::compute_host::Power;
use yakumo_service::{ComponentHealth, system_env};
use yakumo_testing::disks::SmallDisk;
use yakumo_types::FaultCode;

use crate::support::{HOST, World, desired, new_server, until};

fn records(world: &World) -> ComponentHealth {
    world.health().components[&format!("records {HOST}")].clone()
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_and_is_done_once_there_is_room() {
    let disk = SmallDisk::with_files(1024, 100).unwrap();
    let hypervisor = SimulatedHypervisor::new(system_env(), SimulatedConfig::default());
    let hypervisor = Arc::new(hypervisor);
    let mut world = World::new(disk.path(), hypervisor.clone()).await;
    let (old, new) = (new_server(), new_server());
    world.claim(old, 1).await.unwrap();
    world.set(desired(old, 2, Power::Running)).await.unwrap();
    world.reached(old, 2, "running").await;
    assert_eq!(records(&world), ComponentHealth::Up);

    disk.fill(0).unwrap();
    disk.fill_with_files().unwrap();
    for _ in 0..2 {
        let fault = world.claim(new, 1).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Unavailable);
    }
    let ComponentHealth::Degraded(why) = records(&world) else {
        panic!("{:?}", records(&world));
    };
    assert!(why.contains("No space left"), "{why}");
    // The claim was not kept, so it does not count either.
    assert!(world.list().await.claims.is_empty());
    // A server that is here already has room for its record.
    world.set(desired(old, 3, Power::Stopped)).await.unwrap();
    world.reached(old, 3, "shutdown").await;
    assert!(matches!(records(&world), ComponentHealth::Degraded(_)));

    disk.remove_files().unwrap();
    disk.make_room().unwrap();
    world.claim(new, 1).await.unwrap();
    world.set(desired(new, 2, Power::Running)).await.unwrap();
    world.reached(new, 2, "running").await;
    let up = until(Duration::from_secs(30), || {
        (records(&world) == ComponentHealth::Up).then_some(())
    });
    up.await.unwrap();
    // What was half written is nobody's record after a restart.
    world.restart().await;
    world.reached(new, 2, "running").await;
    world.reached(old, 3, "shutdown").await;
}

//! Which networks reach over hosts, and what hosts are told of that.

use yakumo_contracts::network::{CreateNetworksRequest, Network, NewNetwork, UpdateNetworkRequest};
use yakumo_db::Backend;
use yakumo_network::Config;
use yakumo_testing::databases::ALL;
use yakumo_types::{Fault, FaultCode};

use crate::world::{World, admin, kind, member};

async fn make(world: &World, name: &str, physical: &str, external: bool) -> Result<Network, Fault> {
    let request = CreateNetworksRequest {
        networks: vec![NewNetwork {
            name: name.into(),
            shared: Some(!external),
            router_external: Some(external),
            provider_physical_network: physical.into(),
            ..NewNetwork::default()
        }],
        ..CreateNetworksRequest::default()
    };
    let made = world.networks.create_networks(&admin(), request).await?;
    Ok(made.networks.into_iter().next().unwrap())
}

#[tokio::test]
async fn a_physical_network_carries_one_flat_network() {
    for backend in ALL {
        let world = World::with(backend, Config::default()).await;
        let outside = make(&world, "outside", "data", true).await.unwrap();
        let first = make(&world, "first", "data", false).await.unwrap();
        assert_eq!(first.provider_physical_network, "data");
        let refused = make(&world, "second", "data", false).await.unwrap_err();
        assert_eq!(
            (refused.code, kind(&refused)),
            (FaultCode::Conflict, "FlatNetworkInUse")
        );

        // Who names none gets the usual one, once.
        let usual = make(&world, "usual", "", false).await.unwrap();
        assert_eq!(usual.provider_physical_network, "public");
        let alone = make(&world, "alone", "", false).await.unwrap();
        assert_eq!(alone.provider_physical_network, "");
        assert_eq!(alone.provider_network_type, "flat");

        let inside = UpdateNetworkRequest {
            id: outside.id,
            router_external: Some(false),
            ..UpdateNetworkRequest::default()
        };
        let refused = world.networks.update_network(&admin(), inside).await;
        assert_eq!(kind(&refused.unwrap_err()), "FlatNetworkInUse");
        world
            .networks
            .delete_network(
                &admin(),
                yakumo_contracts::network::IdRequest { id: first.id },
            )
            .await
            .unwrap();
        let second = make(&world, "second", "data", false).await.unwrap();
        assert_eq!(second.provider_physical_network, "data");
    }
}

#[tokio::test]
async fn a_network_that_nothing_carries_stays_on_one_host() {
    let world = World::with(Backend::Sqlite, Config::default()).await;
    let (carried, _) = world.shared_network("carried", "10.0.0.0/24").await;
    let (alone, _) = world.shared_network("alone", "10.1.0.0/24").await;
    let one = world.host("node-1").await;
    world.host("node-2").await;
    let ctx = member(1);
    for host in ["node-1", "node-2"] {
        world.allocate(&ctx, &carried.id, host).await.unwrap();
    }
    world.allocate(&ctx, &alone.id, "node-1").await.unwrap();
    let refused = world.allocate(&ctx, &alone.id, "node-2").await.unwrap_err();
    assert_eq!(refused.code, FaultCode::Conflict, "{refused}");
    let state = one.pull().await;
    let physical = |id: &str| {
        let network = state.networks.iter().find(|network| network.id == id);
        network.unwrap().provider_physical_network.clone()
    };
    assert_eq!(physical(&carried.id), "public");
    assert_eq!(physical(&alone.id), "");
}

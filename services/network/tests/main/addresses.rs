//! Addresses: never two owners, given back only when the host has let go.

use std::collections::BTreeSet;

use yakumo_contracts::network::{
    AllocationPool, CreatePortsRequest, FixedIp, FixedIps, ListRequest, NewPort, NewSubnet,
};
use yakumo_testing::databases::ALL;
use yakumo_types::FaultCode;

use crate::world::{World, admin, kind, member, new_subnet};

fn pool(start: &str, end: &str) -> Vec<AllocationPool> {
    vec![AllocationPool {
        start: start.into(),
        end: end.into(),
    }]
}

#[tokio::test]
async fn many_at_once_never_get_the_same_address() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let (network, _) = world.shared_network("shared", "10.0.0.0/24").await;
        let ctx = member(1);
        world.default_group(&ctx).await;
        let results =
            futures::future::join_all((0..16).map(|_| world.allocate(&ctx, &network.id, "node-1")))
                .await;
        let mut addresses = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for result in results {
            let (_, ports) = result.unwrap();
            assert!(
                addresses.insert(ports[0].addresses[0].clone()),
                "{backend:?}"
            );
            assert!(macs.insert(ports[0].mac_address.clone()));
        }
        let first: Vec<&String> = addresses.iter().collect();
        assert!(first.contains(&&"10.0.0.2/24".to_owned()));
        assert!(first.contains(&&"10.0.0.17/24".to_owned()));
    }
}

#[tokio::test]
async fn an_address_comes_back_only_after_the_host_has_let_go() {
    let mut config = yakumo_network::Config::default();
    config.manager.release_wait_seconds = 0;
    let world = World::with(yakumo_db::Backend::Sqlite, config).await;
    let ctx = member(1);
    let host = world.host("node-1").await;
    let network = world.own_network(&admin(), "tiny").await;
    let subnet = NewSubnet {
        allocation_pools: pool("10.3.0.9", "10.3.0.9"),
        ..new_subnet(&network.id, "10.3.0.0/24")
    };
    world.subnet(&admin(), subnet).await.unwrap();
    let ctx_admin = admin();
    let (first, ports) = world
        .allocate(&ctx_admin, &network.id, "node-1")
        .await
        .unwrap();
    assert_eq!(ports[0].addresses, ["10.3.0.9/24"]);
    let old_mac = ports[0].mac_address.clone();
    assert_eq!(host.apply().await.ports.len(), 1);
    // In use: a refusal that is final.
    let fault = world
        .allocate(&ctx_admin, &network.id, "node-1")
        .await
        .unwrap_err();
    assert_eq!(kind(&fault), "IpAddressGenerationFailure");
    assert!(!world.release(&first).await.unwrap());
    // Nobody sees the port any more, and yet its address is not free.
    let listed = world
        .networks
        .list_ports(&ctx_admin, ListRequest::default())
        .await
        .unwrap();
    assert!(listed.ports.is_empty());
    let fault = world
        .allocate(&ctx_admin, &network.id, "node-1")
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable, "{fault}");
    assert!(host.apply().await.ports.is_empty());
    let (_, ports) = world
        .allocate(&ctx_admin, &network.id, "node-1")
        .await
        .unwrap();
    assert_eq!(ports[0].addresses, ["10.3.0.9/24"]);
    assert_ne!(ports[0].mac_address, old_mac);
    let _ = ctx;
}

#[tokio::test]
async fn an_old_word_of_the_host_frees_nothing() {
    let mut config = yakumo_network::Config::default();
    config.manager.release_wait_seconds = 0;
    let world = World::with(yakumo_db::Backend::Sqlite, config).await;
    let ctx = member(1);
    let host = world.host("node-1").await;
    let (network, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let (server, _) = world.allocate(&ctx, &network.id, "node-1").await.unwrap();
    let before = host.apply().await;
    world.release(&server).await.unwrap();
    host.client
        .report_applied(
            &host.ctx,
            yakumo_contracts::network::ReportAppliedRequest {
                host: host.name.clone(),
                revision: before.revision,
                wired_port_ids: Vec::new(),
            },
        )
        .await
        .unwrap();
    assert!(!world.release(&server).await.unwrap());
    host.apply().await;
    assert!(world.release(&server).await.unwrap());
}

#[tokio::test]
async fn what_was_never_used_goes_first_and_then_what_is_free_longest() {
    let world = World::new().await;
    let ctx = admin();
    let network = world.own_network(&ctx, "small").await;
    let subnet = NewSubnet {
        allocation_pools: pool("10.3.0.10", "10.3.0.12"),
        ..new_subnet(&network.id, "10.3.0.0/24")
    };
    world.subnet(&ctx, subnet).await.unwrap();
    let mut servers = Vec::new();
    for wanted in ["10.3.0.10/24", "10.3.0.11/24"] {
        // No agent was ever heard of this host, so nothing can be left there.
        let (server, ports) = world.allocate(&ctx, &network.id, "nowhere").await.unwrap();
        assert_eq!(ports[0].addresses, [wanted]);
        servers.push(server);
    }
    for server in servers.iter().rev() {
        assert!(world.release(server).await.unwrap());
    }
    for wanted in ["10.3.0.12/24", "10.3.0.11/24", "10.3.0.10/24"] {
        let (_, ports) = world.allocate(&ctx, &network.id, "nowhere").await.unwrap();
        assert_eq!(ports[0].addresses, [wanted]);
    }
}

#[tokio::test]
async fn addresses_that_are_taken_and_gaps_between_pools_are_passed_over() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = admin();
        let network = world.own_network(&ctx, "gaps").await;
        let mut pools = pool("10.3.0.10", "10.3.0.12");
        pools.extend(pool("10.3.0.20", "10.3.0.21"));
        let subnet = NewSubnet {
            allocation_pools: pools,
            ..new_subnet(&network.id, "10.3.0.0/24")
        };
        let subnet = world.subnet(&ctx, subnet).await.unwrap();
        let wish = NewPort {
            network_id: network.id.clone(),
            fixed_ips: Some(FixedIps {
                ips: vec![FixedIp {
                    subnet_id: subnet.id,
                    ip_address: "10.3.0.11".into(),
                }],
            }),
            ..NewPort::default()
        };
        let wish = CreatePortsRequest {
            ports: vec![wish],
            ..Default::default()
        };
        world.networks.create_ports(&ctx, wish).await.unwrap();
        for wanted in [10, 12, 20, 21] {
            let (_, ports) = world.allocate(&ctx, &network.id, "node-1").await.unwrap();
            assert_eq!(
                ports[0].addresses,
                [format!("10.3.0.{wanted}/24")],
                "{backend:?}"
            );
        }
        let fault = world.allocate(&ctx, &network.id, "node-1").await;
        assert_eq!(kind(&fault.unwrap_err()), "IpAddressGenerationFailure");
    }
}

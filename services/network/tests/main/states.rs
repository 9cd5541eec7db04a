//! What many hosts are told at once, and what is too much for one message.

use yakumo_contracts::network::{
    AllocateServerPortsRequest, HostState, PullStateRequest, ResolvedNetwork,
};
use yakumo_testing::databases::ALL;
use yakumo_types::ServerId;

use crate::world::{World, member};

#[tokio::test]
async fn changes_that_concern_many_hosts_are_lost_by_none_of_them() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = member(1);
        let (network, _) = world.shared_network("shared", "10.0.0.0/24").await;
        let mut hosts = Vec::new();
        for name in ["node-a", "node-b", "node-c"] {
            hosts.push(world.host(name).await);
            world.allocate(&ctx, &network.id, name).await.unwrap();
        }
        // Nothing was ever heard of this one.
        world.allocate(&ctx, &network.id, "nowhere").await.unwrap();
        let group = world.default_group(&ctx).await;
        let mut before = Vec::new();
        for host in &hosts {
            before.push(host.pull().await.revision);
        }
        let many = (0..8).map(|number| world.open(&ctx, &group, "tcp", Some(1000 + number)));
        futures::future::join_all(many).await;
        for (host, before) in hosts.iter().zip(before) {
            let state = host.pull().await;
            assert_eq!(state.revision, before + 8, "{backend:?}");
            assert!(state.security_groups[0].rules.len() >= 8);
        }
    }
}

#[tokio::test]
async fn a_large_state_is_read_to_its_end_although_it_changes_meanwhile() {
    const SERVERS: usize = 11;
    const PORTS: usize = 100;
    let mut config = yakumo_network::Config::default();
    config.manager.quotas.port = -1;
    let world = World::with(yakumo_db::Backend::Sqlite, config).await;
    let ctx = member(1);
    let (network, _) = world.shared_network("shared", "10.0.0.0/16").await;
    let host = world.host("node-1").await;
    for _ in 0..SERVERS {
        let on_it = ResolvedNetwork {
            network_id: network.id.clone(),
            ..ResolvedNetwork::default()
        };
        let request = AllocateServerPortsRequest {
            server_id: world.env.id::<ServerId>().to_string(),
            project_id: ctx.project_id.unwrap().to_string(),
            host: host.name.clone(),
            hostname: "x".repeat(255),
            networks: vec![on_it; PORTS],
            ..AllocateServerPortsRequest::default()
        };
        world
            .ports
            .allocate_server_ports(&world.internal(), request)
            .await
            .unwrap();
    }
    let ask = async |since_revision, offset, revision, tag: &[u8]| {
        let request = PullStateRequest {
            host: host.name.clone(),
            since_revision,
            offset,
            revision,
            tag: tag.to_vec(),
            ..PullStateRequest::default()
        };
        host.client.pull_state(&host.ctx, request).await.unwrap()
    };
    let first = ask(0, 0, 0, &[]).await;
    let mut bytes = first.chunk.clone();
    let offset = bytes.len() as u64;
    assert!(offset < first.total_bytes, "{} bytes", first.total_bytes);
    world.allocate(&ctx, &network.id, &host.name).await.unwrap();
    // Another state's end does not fit.
    assert!(ask(0, offset, first.revision, b"other").await.start_again);
    let second = ask(0, offset, first.revision, &first.tag).await;
    assert!(!second.start_again);
    assert_eq!(second.revision, first.revision);
    bytes.extend(second.chunk);
    assert_eq!(bytes.len() as u64, first.total_bytes);
    let state: HostState = prost::Message::decode(bytes.as_slice()).unwrap();
    assert_eq!(state.revision, first.revision);
    assert_eq!(state.ports.len(), SERVERS * PORTS);
    // What came meanwhile comes next. The old end is no longer kept.
    let newer = ask(first.revision, 0, 0, &[]).await;
    assert!(newer.revision > first.revision && newer.total_bytes > first.total_bytes);
    assert!(ask(0, offset, first.revision, &first.tag).await.start_again);
}

//! What the api service asks for its servers, and what hosts are told of them.

use std::time::Duration;

use yakumo_contracts::common::Fence;
use yakumo_contracts::network::{
    AllocateServerPortsRequest, CreatePortsRequest, CreateSecurityGroupRulesRequest,
    CreateSecurityGroupsRequest, HostDelta, IdRequest, ListRequest, ListServerAddressesRequest,
    NewPort, NewSecurityGroup, PullStateRequest, RequestedNetwork, ResolveServerNetworksRequest,
    ResolvedNetwork, ServerPortsRequest, ServerSecurityGroupRequest,
};
use yakumo_testing::databases::ALL;
use yakumo_types::{FaultCode, ServerId};

use crate::world::{World, admin, kind, member, new_subnet, rule};

fn fence(epoch: u64) -> Option<Fence> {
    Some(Fence {
        workflow_id: "w".into(),
        step: "allocate_ports".into(),
        epoch,
    })
}

#[tokio::test]
async fn networks_are_resolved_before_a_server_is_accepted() {
    let world = World::new().await;
    let ctx = member(1);
    let project = ctx.project_id.unwrap().to_string();
    let ask = async |requested: Vec<RequestedNetwork>| {
        let request = ResolveServerNetworksRequest {
            project_id: project.clone(),
            requested,
            servers: 1,
            ..ResolveServerNetworksRequest::default()
        };
        world
            .ports
            .resolve_server_networks(&world.internal(), request)
            .await
    };
    // No network at all: a server without interfaces, in the default group.
    let reply = ask(Vec::new()).await.unwrap();
    assert!(reply.networks.is_empty());
    assert_eq!(reply.security_group_names, ["default"]);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let reply = ask(Vec::new()).await.unwrap();
    assert_eq!(reply.networks[0].network_id, shared.id);
    assert_eq!(reply.networks[0].label, "shared");
    let own = world.own_network(&ctx, "own").await;
    let on = |network: &str, fixed_ip: &str| RequestedNetwork {
        network_id: network.into(),
        port_id: String::new(),
        fixed_ip: fixed_ip.into(),
    };
    let fault = ask(vec![on(&own.id, "")]).await.unwrap_err();
    assert_eq!(
        fault.code,
        FaultCode::Invalid,
        "a network without a subnet: {fault}"
    );
    world
        .subnet(&ctx, new_subnet(&own.id, "10.1.0.0/24"))
        .await
        .unwrap();
    let fault = ask(Vec::new()).await.unwrap_err();
    assert_eq!(
        (fault.code, kind(&fault)),
        (FaultCode::Conflict, "NetworkAmbiguous")
    );
    let external = world.external_network("172.24.4.0/24").await;
    assert_eq!(
        ask(vec![on(&external.id, "")]).await.unwrap_err().code,
        FaultCode::Forbidden
    );
    assert_eq!(
        ask(vec![on("nothing", "")]).await.unwrap_err().code,
        FaultCode::Invalid
    );
    assert_eq!(
        ask(vec![on(&shared.id, "10.7.0.5")])
            .await
            .unwrap_err()
            .code,
        FaultCode::Invalid
    );
    assert_eq!(
        ask(vec![on(&shared.id, "10.0.0.1")])
            .await
            .unwrap_err()
            .code,
        FaultCode::Invalid
    );
    assert!(ask(vec![on(&shared.id, "10.0.0.50")]).await.is_ok());
    // Another project's network is not there.
    let foreign = world.own_network(&member(2), "foreign").await;
    assert_eq!(
        ask(vec![on(&foreign.id, "")]).await.unwrap_err().code,
        FaultCode::Invalid
    );
}

#[tokio::test]
async fn allocating_again_gives_the_same_ports_and_an_old_workflow_is_refused() {
    let world = World::new().await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let group = world.default_group(&ctx).await;
    let server = world.env.id::<ServerId>().to_string();
    let allocate = async |host: &str, epoch: u64| {
        let request = AllocateServerPortsRequest {
            server_id: server.clone(),
            project_id: ctx.project_id.unwrap().to_string(),
            host: host.into(),
            hostname: "web".into(),
            networks: vec![ResolvedNetwork {
                network_id: shared.id.clone(),
                ..ResolvedNetwork::default()
            }],
            security_group_ids: vec![group.clone()],
            availability_zone: String::new(),
            fence: fence(epoch),
        };
        world
            .ports
            .allocate_server_ports(&world.internal(), request)
            .await
    };
    let (one, two) = (world.host("node-1").await, world.host("node-2").await);
    let first = allocate("node-1", 2).await.unwrap();
    assert_eq!(allocate("node-1", 2).await.unwrap(), first);
    assert_eq!(one.pull().await.ports.len(), 1);
    let moved = allocate("node-2", 3).await.unwrap();
    assert_eq!(moved, first);
    assert!(one.pull().await.ports.is_empty());
    assert_eq!(two.pull().await.ports[0].server_id, server);
    assert_eq!(
        allocate("node-1", 2).await.unwrap_err().code,
        FaultCode::Stale
    );
    let release = async |epoch: u64| {
        let request = ServerPortsRequest {
            server_id: server.clone(),
            fence: fence(epoch),
        };
        world
            .ports
            .release_server_ports(&world.internal(), request)
            .await
    };
    assert_eq!(release(1).await.unwrap_err().code, FaultCode::Stale);
    let listed = world
        .networks
        .list_ports(&ctx, ListRequest::default())
        .await
        .unwrap()
        .ports;
    assert_eq!(listed[0].device_owner, "compute:nova");
    assert_eq!(listed[0].device_id, server);
    two.apply().await;
    assert_eq!(
        world
            .networks
            .list_ports(&ctx, ListRequest::default())
            .await
            .unwrap()
            .ports[0]
            .status,
        "ACTIVE"
    );
    let (released, _) = tokio::join!(release(3), async {
        world
            .wait_for(
                "the release to reach the host",
                Duration::from_secs(5),
                async || two.pull().await.ports.is_empty(),
            )
            .await;
        two.apply().await
    });
    assert!(released.unwrap().confirmed);
    assert!(release(3).await.unwrap().confirmed);
    // The workflow has given it up while it was on its way.
    assert_eq!(
        allocate("node-2", 3).await.unwrap_err().code,
        FaultCode::Stale
    );
    assert!(two.pull().await.ports.is_empty());
}

#[tokio::test]
async fn a_port_of_the_users_own_outlives_its_server() {
    let world = World::new().await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let made = CreatePortsRequest {
        ports: vec![NewPort {
            network_id: shared.id.clone(),
            name: "mine".into(),
            ..NewPort::default()
        }],
        ..Default::default()
    };
    let made = world
        .networks
        .create_ports(&ctx, made)
        .await
        .unwrap()
        .ports
        .remove(0);
    let server = world.env.id::<ServerId>().to_string();
    let allocate = |server: &str| AllocateServerPortsRequest {
        server_id: server.into(),
        project_id: ctx.project_id.unwrap().to_string(),
        host: "node-1".into(),
        networks: vec![ResolvedNetwork {
            network_id: shared.id.clone(),
            port_id: made.id.clone(),
            ..ResolvedNetwork::default()
        }],
        ..AllocateServerPortsRequest::default()
    };
    world
        .ports
        .allocate_server_ports(&world.internal(), allocate(&server))
        .await
        .unwrap();
    let other = world.env.id::<ServerId>().to_string();
    let fault = world
        .ports
        .allocate_server_ports(&world.internal(), allocate(&other))
        .await
        .unwrap_err();
    assert_eq!(kind(&fault), "PortInUse");
    assert!(world.release(&server).await.unwrap());
    let port = world
        .networks
        .list_ports(&ctx, ListRequest::default())
        .await
        .unwrap()
        .ports
        .remove(0);
    assert_eq!(
        (port.id.as_str(), port.device_id.as_str()),
        (made.id.as_str(), "")
    );
    world
        .networks
        .delete_port(&ctx, IdRequest { id: made.id })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_port_of_the_users_own_is_free_when_its_host_has_let_go() {
    let mut config = yakumo_network::Config::default();
    config.manager.release_wait_seconds = 0;
    let world = World::with(yakumo_db::Backend::Sqlite, config).await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let (one, two) = (world.host("node-1").await, world.host("node-2").await);
    let made = CreatePortsRequest {
        ports: vec![NewPort {
            network_id: shared.id.clone(),
            ..NewPort::default()
        }],
        ..Default::default()
    };
    let made = world.networks.create_ports(&ctx, made).await.unwrap();
    let made = made.ports[0].clone();
    let allocate = async |server: &str, host: &str| {
        let request = AllocateServerPortsRequest {
            server_id: server.into(),
            project_id: ctx.project_id.unwrap().to_string(),
            host: host.into(),
            networks: vec![ResolvedNetwork {
                network_id: shared.id.clone(),
                port_id: made.id.clone(),
                ..ResolvedNetwork::default()
            }],
            ..AllocateServerPortsRequest::default()
        };
        let internal = world.internal();
        world.ports.allocate_server_ports(&internal, request).await
    };
    let shown = async || {
        let ports = world.networks.list_ports(&ctx, ListRequest::default());
        ports.await.unwrap().ports
    };
    let first = world.env.id::<ServerId>().to_string();
    allocate(&first, "node-1").await.unwrap();
    assert_eq!(one.apply().await.ports.len(), 1);
    assert_eq!(shown().await[0].status, "ACTIVE");

    // Its tap is still there, however often it is asked.
    for _ in 0..2 {
        assert!(!world.release(&first).await.unwrap());
    }
    let port = shown().await.remove(0);
    assert_eq!(
        (port.device_id.as_str(), port.status.as_str()),
        (first.as_str(), "DOWN")
    );
    let second = world.env.id::<ServerId>().to_string();
    let fault = allocate(&second, "node-2").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable, "{fault}");
    // Whoever makes a server with it now is not refused: it waits.
    let request = ResolveServerNetworksRequest {
        project_id: ctx.project_id.unwrap().to_string(),
        requested: vec![RequestedNetwork {
            port_id: made.id.clone(),
            ..RequestedNetwork::default()
        }],
        servers: 1,
        ..ResolveServerNetworksRequest::default()
    };
    let internal = world.internal();
    let resolved = world.ports.resolve_server_networks(&internal, request);
    assert_eq!(resolved.await.unwrap().networks[0].port_id, made.id);

    assert!(one.apply().await.ports.is_empty());
    assert!(world.release(&first).await.unwrap());
    let port = shown().await.remove(0);
    assert_eq!(
        (
            port.device_id.as_str(),
            port.device_owner.as_str(),
            port.binding_host_id.as_str()
        ),
        ("", "", "")
    );
    assert_eq!(port.fixed_ips, made.fixed_ips);
    allocate(&second, "node-2").await.unwrap();
    assert_eq!(two.apply().await.ports[0].server_id, second);

    // Deleted meanwhile, it keeps its address until the host has spoken.
    assert!(!world.release(&second).await.unwrap());
    let id = IdRequest {
        id: made.id.clone(),
    };
    world.networks.delete_port(&ctx, id).await.unwrap();
    assert!(shown().await.is_empty());
    assert!(!world.release(&second).await.unwrap());
    two.apply().await;
    assert!(world.release(&second).await.unwrap());
}

#[tokio::test]
async fn listings_learn_of_addresses_and_groups() {
    let world = World::new().await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let (server, ports) = world.allocate(&ctx, &shared.id, "node-1").await.unwrap();
    world
        .wait_for("a projection", Duration::from_secs(5), async || {
            world.api.projection(&server).is_some()
        })
        .await;
    let shown = world.api.projection(&server).unwrap();
    assert_eq!(
        shown.addresses_json,
        format!(
            r#"{{"shared":[{{"addr":"10.0.0.2","mac":"{}","type":"fixed","version":4}}]}}"#,
            ports[0].mac_address
        )
    );
    assert_eq!(shown.security_groups, ["default"]);
    let group = CreateSecurityGroupsRequest {
        security_groups: vec![NewSecurityGroup {
            name: "web".into(),
            ..NewSecurityGroup::default()
        }],
        ..Default::default()
    };
    world
        .networks
        .create_security_groups(&ctx, group)
        .await
        .unwrap();
    let change = || ServerSecurityGroupRequest {
        server_id: server.clone(),
        project_id: ctx.project_id.unwrap().to_string(),
        security_group: "web".into(),
    };
    let reply = world
        .ports
        .add_server_security_group(&world.internal(), change())
        .await
        .unwrap();
    assert_eq!(reply.security_groups, ["default", "web"]);
    world
        .wait_for("the next projection", Duration::from_secs(5), async || {
            world
                .api
                .projection(&server)
                .is_some_and(|shown| shown.security_groups.len() == 2)
        })
        .await;
    let reply = world
        .ports
        .remove_server_security_group(&world.internal(), change())
        .await
        .unwrap();
    assert_eq!(reply.security_groups, ["default"]);
    let fault = world
        .ports
        .remove_server_security_group(&world.internal(), change())
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound);
    let all = ListServerAddressesRequest::default();
    let all = world
        .ports
        .list_server_addresses(&world.internal(), all)
        .await
        .unwrap();
    assert_eq!(all.servers[0].host, "node-1");
}

#[tokio::test]
async fn a_host_gets_its_own_state_and_only_when_it_changed() {
    let world = World::new().await;
    let (one, two) = (member(1), member(2));
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let (a, b) = (world.host("node-a").await, world.host("node-b").await);
    world.allocate(&one, &shared.id, "node-a").await.unwrap();
    world.allocate(&one, &shared.id, "node-b").await.unwrap();
    world.allocate(&two, &shared.id, "node-b").await.unwrap();
    let state = a.apply().await;
    assert_eq!(state.ports.len(), 1);
    // The default group lets its members in, those on other hosts too.
    assert_eq!(state.members.len(), 1);
    assert_eq!(state.members[0].addresses, ["10.0.0.2", "10.0.0.3"]);
    let ask = |host: &str, since| PullStateRequest {
        host: host.into(),
        since_revision: since,
        ..PullStateRequest::default()
    };
    let reply = a
        .client
        .pull_state(&a.ctx, ask("node-a", state.revision))
        .await
        .unwrap();
    assert_eq!(reply.total_bytes, 0);
    // A rule of project 2 concerns node-b alone.
    let group = world.default_group(&two).await;
    let before = b.pull().await.revision;
    let request = CreateSecurityGroupRulesRequest {
        security_group_rules: vec![rule(&group, "tcp", Some(22))],
        ..Default::default()
    };
    world
        .networks
        .create_security_group_rules(&two, request)
        .await
        .unwrap();
    assert_eq!(a.pull().await.revision, state.revision);
    assert!(b.pull().await.revision > before);
    // A new member of project 1 concerns both, but node-a need not ask for it.
    world.allocate(&one, &shared.id, "node-b").await.unwrap();
    world
        .wait_for("the new member", Duration::from_secs(10), async || {
            a.pull().await.members[0].addresses.len() == 3
        })
        .await;
    assert_eq!(a.pull().await.revision, state.revision);
    // Nobody asks or speaks for another host.
    let fault = a
        .client
        .pull_state(&a.ctx, ask("node-b", 0))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let agents = world
        .networks
        .list_agents(&admin(), ListRequest::default())
        .await
        .unwrap()
        .agents;
    assert_eq!(agents.len(), 2);
    assert!(agents.iter().all(|agent| agent.alive));
}

#[tokio::test]
async fn a_port_that_calls_itself_after_a_server_is_none_of_it() {
    let world = World::new().await;
    let (owner, stranger) = (member(1), member(2));
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let (server, _) = world.allocate(&owner, &shared.id, "node-1").await.unwrap();
    let made = CreatePortsRequest {
        ports: vec![NewPort {
            network_id: shared.id.clone(),
            device_id: server.clone(),
            ..NewPort::default()
        }],
        ..Default::default()
    };
    let made = world.networks.create_ports(&stranger, made).await.unwrap();
    let mine = made.ports[0].clone();
    let group = NewSecurityGroup {
        name: "web".into(),
        ..NewSecurityGroup::default()
    };
    world
        .networks
        .create_security_groups(
            &owner,
            CreateSecurityGroupsRequest {
                security_groups: vec![group],
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let reply = world
        .ports
        .add_server_security_group(
            &world.internal(),
            ServerSecurityGroupRequest {
                server_id: server.clone(),
                project_id: owner.project_id.unwrap().to_string(),
                security_group: "web".into(),
            },
        )
        .await
        .unwrap();
    let address = &mine.fixed_ips[0].ip_address;
    assert!(!reply.addresses_json.contains(address), "{reply:?}");
    world.release(&server).await.unwrap();
    let listed = world
        .networks
        .list_ports(&stranger, ListRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.ports[0].security_groups, mine.security_groups);
    assert_eq!(listed.ports[0].device_id, server, "nothing was done to it");
}

#[tokio::test]
async fn an_agent_of_the_release_before_pulls_the_members_of_groups() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = member(1);
        let (network, _) = world.shared_network("shared", "10.0.0.0/24").await;
        let host = world.host_that("node-a", false).await;
        let other = world.host("node-b").await;
        world.allocate(&ctx, &network.id, "node-a").await.unwrap();
        let before = host.apply().await;
        let others = other.pull().await.revision;
        world.allocate(&ctx, &network.id, "node-b").await.unwrap();
        // Its own port, and no second time.
        assert_eq!(other.pull().await.revision, others + 1);
        let asked = PullStateRequest {
            host: "node-a".into(),
            since_revision: before.revision,
            deltas: true,
            ..PullStateRequest::default()
        };
        world
            .wait_for("the new member", Duration::from_secs(10), async || {
                let reply = host
                    .client
                    .pull_state(&host.ctx, asked.clone())
                    .await
                    .unwrap();
                let delta: HostDelta = prost::Message::decode(reply.chunk.as_slice()).unwrap();
                let remote = delta.remote_ports.first();
                reply.delta && remote.is_some_and(|port| port.addresses == ["10.0.0.3"])
            })
            .await;
        assert_eq!(other.pull().await.revision, others + 1);
    }
}

//! Requests that come twice under one key.

use futures::future::join_all;
use yakumo_contracts::common::IdempotencyKey;
use yakumo_contracts::network::{
    CreateFloatingIpsRequest, CreateNetworksRequest, CreatePortsRequest, CreateRoutersRequest,
    CreateSecurityGroupRulesRequest, CreateSecurityGroupsRequest, CreateSubnetsRequest, IdRequest,
    ListRequest, NewFloatingIp, NewNetwork, NewPort, NewRouter, NewSecurityGroup, Quota,
    SetQuotasRequest, UpdatePortRequest,
};
use yakumo_testing::databases::ALL;
use yakumo_types::{FaultCode, RequestContext};

use crate::manager::on;
use crate::world::{World, admin, filtered, kind, member, new_subnet, reader, rule};

fn key(key: &str, digest: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey {
        key: key.into(),
        digest: digest.into(),
    })
}

fn ports(ports: Vec<NewPort>, idempotency_key: Option<IdempotencyKey>) -> CreatePortsRequest {
    CreatePortsRequest {
        ports,
        idempotency_key,
    }
}

/// How many ports of the caller's project are on a network.
async fn count(world: &World, ctx: &RequestContext, network: &str) -> usize {
    let request = filtered("network_id", network);
    let listed = world.networks.list_ports(ctx, request).await.unwrap();
    let project = ctx.project_id.unwrap().to_string();
    let own = listed.ports.iter().filter(|it| it.project_id == project);
    own.count()
}

/// Asks for something twice, gets the same, and once under the key for
/// something else, which is refused.
macro_rules! twice {
    ($world:ident, $ctx:ident, $method:ident, $field:ident, $request:expr) => {{
        let request = |digest: &str| {
            let mut request = $request;
            request.idempotency_key = key(stringify!($method), digest);
            request
        };
        let client = &$world.networks;
        let first = client.$method(&$ctx, request("a")).await.unwrap().$field;
        let again = client.$method(&$ctx, request("a")).await.unwrap().$field;
        assert_eq!(first, again, stringify!($method));
        let fault = client.$method(&$ctx, request("b")).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Unprocessable);
        assert_eq!(kind(&fault), "IdempotencyKeyReused");
        first
    }};
}

#[tokio::test]
async fn everything_is_made_once_on_every_database() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = member(1);
        let external = world.external_network("172.24.4.0/24").await;
        let networks = twice!(
            world,
            ctx,
            create_networks,
            networks,
            CreateNetworksRequest {
                networks: vec![NewNetwork {
                    name: "own".into(),
                    ..NewNetwork::default()
                }],
                ..Default::default()
            }
        );
        let network = networks[0].id.clone();
        twice!(
            world,
            ctx,
            create_subnets,
            subnets,
            CreateSubnetsRequest {
                subnets: vec![new_subnet(&network, "10.0.0.0/24")],
                ..Default::default()
            }
        );
        twice!(
            world,
            ctx,
            create_ports,
            ports,
            ports(vec![on(&network)], None)
        );
        assert_eq!(count(&world, &ctx, &network).await, 1);
        let groups = twice!(
            world,
            ctx,
            create_security_groups,
            security_groups,
            CreateSecurityGroupsRequest {
                security_groups: vec![NewSecurityGroup {
                    name: "web".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }
        );
        twice!(
            world,
            ctx,
            create_security_group_rules,
            security_group_rules,
            CreateSecurityGroupRulesRequest {
                security_group_rules: vec![rule(&groups[0].id, "tcp", Some(22))],
                ..Default::default()
            }
        );
        twice!(
            world,
            ctx,
            create_floating_ips,
            floatingips,
            CreateFloatingIpsRequest {
                floatingips: vec![NewFloatingIp {
                    floating_network_id: external.id.clone(),
                    ..NewFloatingIp::default()
                }],
                ..Default::default()
            }
        );
        twice!(
            world,
            ctx,
            create_routers,
            routers,
            CreateRoutersRequest {
                routers: vec![NewRouter {
                    name: "r".into(),
                    ..NewRouter::default()
                }],
                ..Default::default()
            }
        );
    }
}

#[tokio::test]
async fn of_many_requests_with_one_key_one_makes_something() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = member(1);
        let network = world.own_network(&ctx, "own").await.id;
        world
            .subnet(&ctx, new_subnet(&network, "10.0.0.0/24"))
            .await
            .unwrap();
        let request = ports(vec![on(&network), on(&network)], key("k", "a"));
        let ask = || world.networks.create_ports(&ctx, request.clone());
        let outcomes = join_all((0..8).map(|_| ask())).await;
        let made = ask().await.unwrap().ports;
        assert_eq!(made.len(), 2);
        for outcome in outcomes {
            match outcome {
                Ok(reply) => assert_eq!(reply.ports, made),
                Err(fault) => {
                    assert_eq!(kind(&fault), "IdempotencyKeyInFlight", "{fault}");
                    assert_eq!(fault.retry_after, Some(1));
                }
            }
        }
        assert_eq!(count(&world, &ctx, &network).await, 2);
    }
}

#[tokio::test]
async fn what_is_told_again_is_told_as_it_is_now_and_in_its_order() {
    let world = World::new().await;
    let ctx = member(1);
    let network = world.own_network(&ctx, "own").await.id;
    let named = |name: &str| NewPort {
        name: name.into(),
        ..on(&network)
    };
    let wanted: Vec<NewPort> = (0..20).map(|number| named(&number.to_string())).collect();
    let request = ports(wanted, key("k", "a"));
    let first = world.networks.create_ports(&ctx, request.clone()).await;
    let first = first.unwrap().ports;
    let change = UpdatePortRequest {
        id: first[3].id.clone(),
        name: Some("changed".into()),
        ..UpdatePortRequest::default()
    };
    world.networks.update_port(&ctx, change).await.unwrap();
    let again = world.networks.create_ports(&ctx, request.clone()).await;
    let again = again.unwrap().ports;
    let ids = |ports: &[yakumo_contracts::network::Port]| -> Vec<String> {
        ports.iter().map(|port| port.id.clone()).collect()
    };
    assert_eq!(ids(&first), ids(&again));
    assert_eq!(again[3].name, "changed");
    assert_eq!(again[4].name, "4");

    // One of them is gone: nothing is made in its place.
    let gone = IdRequest {
        id: first[7].id.clone(),
    };
    world.networks.delete_port(&ctx, gone).await.unwrap();
    let fault = world
        .networks
        .create_ports(&ctx, request)
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    assert_eq!(kind(&fault), "IdempotencyKeyGone");
    assert_eq!(fault.retry_after, None);
    assert_eq!(count(&world, &ctx, &network).await, 19);
}

#[tokio::test]
async fn a_key_is_one_projects_and_a_refused_request_does_not_use_it() {
    let world = World::new().await;
    let (ctx, other) = (member(1), member(2));
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let request = |digest: &str| ports(vec![on(&shared.id)], key("k", digest));
    let quota = |limit: i64| SetQuotasRequest {
        project_id: ctx.project_id.unwrap().to_string(),
        quotas: vec![Quota {
            resource: "port".into(),
            limit,
            ..Quota::default()
        }],
        ..SetQuotasRequest::default()
    };
    world.networks.set_quotas(&admin(), quota(0)).await.unwrap();
    let fault = world
        .networks
        .create_ports(&ctx, request("a"))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::OverQuota);
    world.networks.set_quotas(&admin(), quota(1)).await.unwrap();
    let first = world
        .networks
        .create_ports(&ctx, request("b"))
        .await
        .unwrap();
    // The quota is full, and the port was made before.
    let again = world
        .networks
        .create_ports(&ctx, request("b"))
        .await
        .unwrap();
    assert_eq!(first.ports[0].id, again.ports[0].id);
    let foreign = world
        .networks
        .create_ports(&other, request("c"))
        .await
        .unwrap();
    assert_ne!(first.ports[0].id, foreign.ports[0].id);
    let fault = world
        .networks
        .create_ports(&reader(1), request("b"))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let admin = admin();
    let all = world.networks.list_ports(&admin, ListRequest::default());
    let all = all.await.unwrap().ports;
    let own = all.iter().filter(|port| port.device_owner.is_empty());
    assert_eq!(own.count(), 2);
}

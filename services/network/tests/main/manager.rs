//! Networks, subnets, ports, groups, floating IPs, routers, quotas.

use yakumo_contracts::network::{
    CreateFloatingIpsRequest, CreateNetworksRequest, CreatePortsRequest, CreateRoutersRequest,
    CreateSecurityGroupRulesRequest, CreateSecurityGroupsRequest, ExternalGateway, IdRequest,
    ListRequest, NewFloatingIp, NewNetwork, NewPort, NewRouter, NewSecurityGroup, Port,
    RouterInterfaceRequest, SetQuotasRequest, SortKey, UpdateFloatingIpRequest,
    UpdateNetworkRequest, UpdatePortRequest,
};
use yakumo_testing::databases::ALL;
use yakumo_types::{Fault, FaultCode, RequestContext};

use crate::world::{World, admin, filtered, kind, member, new_subnet, reader, rule};

pub async fn port(world: &World, ctx: &RequestContext, port: NewPort) -> Result<Port, Fault> {
    let request = CreatePortsRequest {
        ports: vec![port],
        ..Default::default()
    };
    Ok(world
        .networks
        .create_ports(ctx, request)
        .await?
        .ports
        .remove(0))
}

pub fn on(network: &str) -> NewPort {
    NewPort {
        network_id: network.into(),
        ..NewPort::default()
    }
}

fn id(id: &str) -> IdRequest {
    IdRequest { id: id.into() }
}

#[tokio::test]
async fn the_standard_flow_on_every_database() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let ctx = member(1);
        let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
        let external = world.external_network("172.24.4.0/24").await;
        let made = port(&world, &ctx, on(&shared.id)).await.unwrap();
        assert_eq!(made.fixed_ips[0].ip_address, "10.0.0.2");
        assert!(made.mac_address.starts_with("fa:16:3e:"));
        let group = world.default_group(&ctx).await;
        assert_eq!(made.security_groups, std::slice::from_ref(&group));
        world.open(&ctx, &group, "tcp", Some(22)).await;
        let again = CreateSecurityGroupRulesRequest {
            security_group_rules: vec![rule(&group, "6", Some(22))],
            ..Default::default()
        };
        let fault = world
            .networks
            .create_security_group_rules(&ctx, again)
            .await
            .unwrap_err();
        assert_eq!(kind(&fault), "SecurityGroupRuleExists");
        let floating = world
            .networks
            .create_floating_ips(
                &ctx,
                CreateFloatingIpsRequest {
                    floatingips: vec![NewFloatingIp {
                        floating_network_id: external.id.clone(),
                        port_id: made.id.clone(),
                        ..NewFloatingIp::default()
                    }],
                    ..Default::default()
                },
            )
            .await
            .unwrap()
            .floatingips
            .remove(0);
        assert_eq!(floating.floating_ip_address, "172.24.4.2");
        assert_eq!(floating.fixed_ip_address, "10.0.0.2");
        assert_eq!(floating.status, "ACTIVE");
        world
            .networks
            .delete_port(&ctx, id(&made.id))
            .await
            .unwrap();
        let listed = world
            .networks
            .list_floating_ips(&ctx, ListRequest::default())
            .await
            .unwrap();
        assert_eq!(listed.floatingips[0].port_id, "");
        assert_eq!(listed.floatingips[0].status, "DOWN");
        world
            .networks
            .delete_floating_ip(&ctx, id(&floating.id))
            .await
            .unwrap();
        // Names compare byte by byte on every database.
        for name in ["alpha", "Alpha", "ALPHA "] {
            world.own_network(&ctx, name).await;
        }
        let found = world
            .networks
            .list_networks(&ctx, filtered("name", "Alpha"))
            .await
            .unwrap();
        assert_eq!(found.networks.len(), 1);
        let sorted = ListRequest {
            sorts: vec![SortKey {
                key: "name".into(),
                descending: false,
            }],
            ..ListRequest::default()
        };
        let found = world.networks.list_networks(&ctx, sorted).await.unwrap();
        let names: Vec<&str> = found
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect();
        assert_eq!(names, ["ALPHA ", "Alpha", "alpha", "public", "shared"]);
    }
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let world = World::new().await;
    let (one, two) = (member(1), member(2));
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let own = world.own_network(&one, "own").await;
    let subnet = world
        .subnet(&one, new_subnet(&own.id, "10.1.0.0/24"))
        .await
        .unwrap();
    let made = port(&world, &one, on(&shared.id)).await.unwrap();
    let group = world.default_group(&one).await;
    let router = world
        .networks
        .create_routers(
            &one,
            CreateRoutersRequest {
                routers: vec![NewRouter::default()],
                ..Default::default()
            },
        )
        .await
        .unwrap()
        .routers
        .remove(0);
    let list = ListRequest::default;
    let networks = world
        .networks
        .list_networks(&two, list())
        .await
        .unwrap()
        .networks;
    assert_eq!(
        networks
            .iter()
            .map(|network| &network.id)
            .collect::<Vec<_>>(),
        [&shared.id]
    );
    assert!(
        world
            .networks
            .list_ports(&two, list())
            .await
            .unwrap()
            .ports
            .is_empty()
    );
    assert!(
        world
            .networks
            .list_routers(&two, list())
            .await
            .unwrap()
            .routers
            .is_empty()
    );
    let subnets = world
        .networks
        .list_subnets(&two, list())
        .await
        .unwrap()
        .subnets;
    assert_eq!(subnets.len(), 1);
    let groups = world
        .networks
        .list_security_groups(&two, list())
        .await
        .unwrap()
        .security_groups;
    assert!(groups.iter().all(|other| other.id != group));
    let missing = |fault: Fault, wanted: &str| {
        assert_eq!((fault.code, kind(&fault)), (FaultCode::NotFound, wanted));
    };
    missing(
        world
            .networks
            .delete_network(&two, id(&own.id))
            .await
            .unwrap_err(),
        "NetworkNotFound",
    );
    missing(
        world
            .networks
            .delete_subnet(&two, id(&subnet.id))
            .await
            .unwrap_err(),
        "SubnetNotFound",
    );
    missing(
        world
            .networks
            .delete_port(&two, id(&made.id))
            .await
            .unwrap_err(),
        "PortNotFound",
    );
    missing(
        world
            .networks
            .delete_router(&two, id(&router.id))
            .await
            .unwrap_err(),
        "RouterNotFound",
    );
    missing(
        world
            .networks
            .delete_security_group(&two, id(&group))
            .await
            .unwrap_err(),
        "SecurityGroupNotFound",
    );
    missing(
        port(&world, &two, on(&own.id)).await.unwrap_err(),
        "NetworkNotFound",
    );
    let stolen = NewPort {
        security_groups: Some(yakumo_contracts::network::Texts {
            values: vec![group],
        }),
        ..on(&shared.id)
    };
    missing(
        port(&world, &two, stolen).await.unwrap_err(),
        "SecurityGroupNotFound",
    );
    // Visible is not changeable.
    let rename = UpdateNetworkRequest {
        id: shared.id.clone(),
        name: Some("mine".into()),
        ..UpdateNetworkRequest::default()
    };
    let fault = world
        .networks
        .update_network(&two, rename)
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let fault = world
        .networks
        .delete_network(&two, id(&shared.id))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let fault = world
        .subnet(&two, new_subnet(&shared.id, "10.9.0.0/24"))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
}

#[tokio::test]
async fn what_only_administrators_and_members_may_do() {
    let world = World::new().await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let forbidden = |fault: Fault| assert_eq!(fault.code, FaultCode::Forbidden, "{fault}");
    for new in [
        NewNetwork {
            shared: Some(true),
            ..NewNetwork::default()
        },
        NewNetwork {
            router_external: Some(true),
            ..NewNetwork::default()
        },
        NewNetwork {
            provider_network_type: "flat".into(),
            ..NewNetwork::default()
        },
        NewNetwork {
            project_id: "00000000000000000000000000000002".into(),
            ..NewNetwork::default()
        },
    ] {
        let request = CreateNetworksRequest {
            networks: vec![new],
            ..Default::default()
        };
        forbidden(
            world
                .networks
                .create_networks(&ctx, request)
                .await
                .unwrap_err(),
        );
    }
    let request = CreateNetworksRequest {
        networks: vec![NewNetwork::default()],
        ..Default::default()
    };
    forbidden(
        world
            .networks
            .create_networks(&reader(1), request)
            .await
            .unwrap_err(),
    );
    for new in [
        NewPort {
            binding_host_id: "node-1".into(),
            ..on(&shared.id)
        },
        NewPort {
            device_owner: "network:dhcp".into(),
            ..on(&shared.id)
        },
        // A port that looks like a server's would show up in that server's addresses.
        NewPort {
            device_owner: "compute:nova".into(),
            device_id: "x".into(),
            ..on(&shared.id)
        },
        NewPort {
            mac_address: "fa:16:3e:00:00:01".into(),
            ..on(&shared.id)
        },
        NewPort {
            port_security_enabled: Some(false),
            ..on(&shared.id)
        },
    ] {
        forbidden(port(&world, &ctx, new).await.unwrap_err());
    }
    forbidden(
        world
            .networks
            .list_agents(&ctx, ListRequest::default())
            .await
            .unwrap_err(),
    );
    let quotas = SetQuotasRequest::default();
    forbidden(world.networks.set_quotas(&ctx, quotas).await.unwrap_err());
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let world = World::new().await;
    let (ctx, admin) = (member(1), admin());
    let (shared, subnet) = world.shared_network("shared", "10.0.0.0/24").await;
    let external = world.external_network("172.24.4.0/24").await;
    let conflict = |fault: Fault, wanted: &str| {
        assert_eq!(
            (fault.code, kind(&fault)),
            (FaultCode::Conflict, wanted),
            "{fault}"
        );
    };
    let made = port(&world, &ctx, on(&shared.id)).await.unwrap();
    conflict(
        world
            .networks
            .delete_network(&admin, id(&shared.id))
            .await
            .unwrap_err(),
        "NetworkInUse",
    );
    conflict(
        world
            .networks
            .delete_subnet(&admin, id(&subnet.id))
            .await
            .unwrap_err(),
        "SubnetInUse",
    );
    let group = world.default_group(&ctx).await;
    conflict(
        world
            .networks
            .delete_security_group(&ctx, id(&group))
            .await
            .unwrap_err(),
        "SecurityGroupCannotRemoveDefault",
    );
    let own = CreateSecurityGroupsRequest {
        security_groups: vec![NewSecurityGroup {
            name: "web".into(),
            ..NewSecurityGroup::default()
        }],
        ..Default::default()
    };
    let own = world
        .networks
        .create_security_groups(&ctx, own)
        .await
        .unwrap()
        .security_groups
        .remove(0);
    assert_eq!(own.security_group_rules.len(), 2);
    let join = UpdatePortRequest {
        id: made.id.clone(),
        security_groups: Some(yakumo_contracts::network::Texts {
            values: vec![own.id.clone()],
        }),
        ..UpdatePortRequest::default()
    };
    world.networks.update_port(&ctx, join).await.unwrap();
    conflict(
        world
            .networks
            .delete_security_group(&ctx, id(&own.id))
            .await
            .unwrap_err(),
        "SecurityGroupInUse",
    );
    // A server's port.
    let (_, ports) = world.allocate(&ctx, &shared.id, "node-1").await.unwrap();
    conflict(
        world
            .networks
            .delete_port(&ctx, id(&ports[0].port_id))
            .await
            .unwrap_err(),
        "PortInUse",
    );
    // A second floating IP in front of one address.
    let floating = || CreateFloatingIpsRequest {
        floatingips: vec![NewFloatingIp {
            floating_network_id: external.id.clone(),
            port_id: made.id.clone(),
            ..NewFloatingIp::default()
        }],
        ..Default::default()
    };
    let first = world
        .networks
        .create_floating_ips(&ctx, floating())
        .await
        .unwrap()
        .floatingips
        .remove(0);
    conflict(
        world
            .networks
            .create_floating_ips(&ctx, floating())
            .await
            .unwrap_err(),
        "FloatingIPPortAlreadyAssociated",
    );
    // Nothing was taken for the one that failed.
    let listed = world
        .networks
        .list_floating_ips(&ctx, ListRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.floatingips.len(), 1);
    // The same again is no change.
    let same = UpdateFloatingIpRequest {
        id: first.id.clone(),
        port_id: Some(made.id.clone()),
        ..UpdateFloatingIpRequest::default()
    };
    world.networks.update_floating_ip(&ctx, same).await.unwrap();
    conflict(
        world
            .networks
            .delete_network(&admin, id(&external.id))
            .await
            .unwrap_err(),
        "NetworkInUse",
    );
}

#[tokio::test]
async fn routers_open_the_way_out_for_a_projects_own_network() {
    let world = World::new().await;
    let ctx = member(1);
    let host = world.host("node-1").await;
    let external = world.external_network("172.24.4.0/24").await;
    let own = world.own_network(&ctx, "own").await;
    assert_eq!(own.provider_network_type, "local");
    let subnet = world
        .subnet(&ctx, new_subnet(&own.id, "10.1.0.0/24"))
        .await
        .unwrap();
    let (_, ports) = world.allocate(&ctx, &own.id, "node-1").await.unwrap();
    assert!(!host.pull().await.networks[0].routed);
    let floating = || CreateFloatingIpsRequest {
        floatingips: vec![NewFloatingIp {
            floating_network_id: external.id.clone(),
            port_id: ports[0].port_id.clone(),
            ..NewFloatingIp::default()
        }],
        ..Default::default()
    };
    let fault = world
        .networks
        .create_floating_ips(&ctx, floating())
        .await
        .unwrap_err();
    assert_eq!(kind(&fault), "ExternalGatewayForFloatingIPNotFound");
    let router = CreateRoutersRequest {
        routers: vec![NewRouter {
            name: "r".into(),
            external_gateway_info: Some(ExternalGateway {
                network_id: external.id.clone(),
                enable_snat: true,
                external_fixed_ips: Vec::new(),
            }),
            ..NewRouter::default()
        }],
        ..Default::default()
    };
    let router = world
        .networks
        .create_routers(&ctx, router)
        .await
        .unwrap()
        .routers
        .remove(0);
    let gateway = router.external_gateway_info.unwrap();
    assert_eq!(gateway.external_fixed_ips[0].ip_address, "172.24.4.2");
    let interface = RouterInterfaceRequest {
        router_id: router.id.clone(),
        subnet_id: subnet.id.clone(),
        port_id: String::new(),
    };
    world
        .networks
        .add_router_interface(&ctx, interface.clone())
        .await
        .unwrap();
    let fault = world
        .networks
        .add_router_interface(&ctx, interface.clone())
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Invalid);
    let state = host.pull().await;
    assert!(state.networks[0].routed);
    assert_eq!(state.networks[0].router_id, router.id);
    let made = world
        .networks
        .create_floating_ips(&ctx, floating())
        .await
        .unwrap()
        .floatingips
        .remove(0);
    assert_eq!(made.router_id, router.id);
    let fault = world
        .networks
        .remove_router_interface(&ctx, interface.clone())
        .await
        .unwrap_err();
    assert_eq!(kind(&fault), "RouterInterfaceInUseByFloatingIP");
    let fault = world
        .networks
        .delete_router(&ctx, id(&router.id))
        .await
        .unwrap_err();
    assert_eq!(kind(&fault), "RouterInUse");
    world
        .networks
        .delete_floating_ip(&ctx, id(&made.id))
        .await
        .unwrap();
    world
        .networks
        .remove_router_interface(&ctx, interface)
        .await
        .unwrap();
    world
        .networks
        .delete_router(&ctx, id(&router.id))
        .await
        .unwrap();
    assert!(!host.pull().await.networks[0].routed);
}

//! What is refused: over quota, nonsense, pages that are not there.

use yakumo_contracts::network::{
    CreateNetworksRequest, CreatePortsRequest, FixedIp, FixedIps, ListRequest, NewNetwork, NewPort,
    NewSubnet, Quota, SetQuotasRequest, SortKey,
};
use yakumo_db::Backend;
use yakumo_network::Config;
use yakumo_types::{Fault, FaultCode};

use crate::manager::{on, port};
use crate::world::{World, admin, kind, member, new_subnet};

#[tokio::test]
async fn a_quota_takes_nothing_when_it_is_exceeded() {
    let world = World::new().await;
    let (ctx, admin) = (member(1), admin());
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let set = SetQuotasRequest {
        project_id: ctx.project_id.unwrap().to_string(),
        quotas: vec![Quota {
            resource: "port".into(),
            limit: 2,
            ..Quota::default()
        }],
        reset: false,
    };
    world.networks.set_quotas(&admin, set).await.unwrap();
    let three = CreatePortsRequest {
        ports: vec![on(&shared.id), on(&shared.id), on(&shared.id)],
        ..Default::default()
    };
    let fault = world.networks.create_ports(&ctx, three).await.unwrap_err();
    assert_eq!(
        (fault.code, kind(&fault)),
        (FaultCode::OverQuota, "OverQuota")
    );
    assert!(
        world
            .networks
            .list_ports(&ctx, ListRequest::default())
            .await
            .unwrap()
            .ports
            .is_empty()
    );
    // Many at once find room for two.
    let attempts =
        futures::future::join_all((0..8).map(|_| port(&world, &ctx, on(&shared.id)))).await;
    assert_eq!(attempts.iter().filter(|result| result.is_ok()).count(), 2);
    assert_eq!(
        world
            .networks
            .list_ports(&ctx, ListRequest::default())
            .await
            .unwrap()
            .ports
            .len(),
        2
    );
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let world = World::new().await;
    let ctx = member(1);
    let (shared, _) = world.shared_network("shared", "10.0.0.0/24").await;
    let invalid = |fault: Fault| assert_eq!(fault.code, FaultCode::Invalid, "{fault}");
    for name in ["x".repeat(256), "a\u{7}b".into()] {
        let request = CreateNetworksRequest {
            networks: vec![NewNetwork {
                name,
                ..NewNetwork::default()
            }],
            ..Default::default()
        };
        invalid(
            world
                .networks
                .create_networks(&ctx, request)
                .await
                .unwrap_err(),
        );
    }
    invalid(
        world
            .networks
            .create_networks(&ctx, CreateNetworksRequest::default())
            .await
            .unwrap_err(),
    );
    let own = world.own_network(&ctx, "own").await;
    for subnet in [
        new_subnet(&own.id, "10.0.0.0/25"),
        new_subnet(&own.id, "bogus"),
        NewSubnet {
            ip_version: 6,
            ..new_subnet(&own.id, "fd00::/64")
        },
        NewSubnet {
            gateway_ip: Some("10.5.0.1".into()),
            ..new_subnet(&own.id, "10.4.0.0/24")
        },
        NewSubnet {
            dns_nameservers: vec!["nine".into()],
            ..new_subnet(&own.id, "10.4.0.0/24")
        },
    ] {
        invalid(world.subnet(&ctx, subnet).await.unwrap_err());
    }
    let fixed = |address: &str| NewPort {
        fixed_ips: Some(FixedIps {
            ips: vec![FixedIp {
                subnet_id: String::new(),
                ip_address: address.into(),
            }],
        }),
        ..on(&shared.id)
    };
    for address in ["10.0.1.5", "10.0.0.0", "10.0.0.255", "nonsense"] {
        invalid(port(&world, &ctx, fixed(address)).await.unwrap_err());
    }
    let fault = port(&world, &ctx, fixed("10.0.0.1")).await.unwrap_err();
    assert_eq!(kind(&fault), "IpAddressInUse");
    let wrong = ListRequest {
        sorts: vec![SortKey {
            key: "colour".into(),
            descending: false,
        }],
        ..ListRequest::default()
    };
    invalid(world.networks.list_networks(&ctx, wrong).await.unwrap_err());
    let nowhere = ListRequest {
        marker: "nothing".into(),
        ..ListRequest::default()
    };
    let fault = world.networks.list_ports(&ctx, nowhere).await.unwrap_err();
    assert_eq!(
        (fault.code, kind(&fault)),
        (FaultCode::NotFound, "PortNotFound")
    );
    let fault = port(&world, &ctx, on("no-such-network")).await.unwrap_err();
    assert_eq!(kind(&fault), "NetworkNotFound");
}

#[tokio::test]
async fn a_tenant_takes_neither_the_machines_addresses_nor_everybodys() {
    let mut config = yakumo_network::Config::default();
    let management = "192.168.7.0/24".parse().unwrap();
    config.manager.reserved_cidrs.push(management);
    let world = World::with(yakumo_db::Backend::Sqlite, config).await;
    let (ctx, admin) = (member(1), admin());
    let own = world.own_network(&ctx, "own").await;
    let others = world.own_network(&admin, "others").await;
    let refused = async |ctx: &_, network: &str, cidr: &str| {
        let fault = world
            .subnet(ctx, new_subnet(network, cidr))
            .await
            .unwrap_err();
        assert_eq!(
            (fault.code, kind(&fault)),
            (FaultCode::Invalid, "InvalidInput"),
            "{cidr}: {fault}"
        );
    };
    for cidr in [
        "10.0.0.0/8",
        "10.0.0.0/15",
        "192.168.7.0/24",
        "192.168.7.128/25",
        "192.168.0.0/16",
    ] {
        refused(&ctx, &own.id, cidr).await;
    }
    // Where nothing works, it works for nobody.
    for cidr in [
        "127.0.0.0/24",
        "169.254.0.0/16",
        "169.254.169.0/24",
        "224.1.0.0/16",
        "0.0.0.0/8",
        "250.0.0.0/24",
    ] {
        refused(&ctx, &own.id, cidr).await;
        refused(&admin, &others.id, cidr).await;
    }
    for (ctx, network, cidr) in [
        (&ctx, &own, "10.0.0.0/16"),
        (&ctx, &own, "192.168.8.0/24"),
        (&admin, &others, "192.168.7.0/24"),
        (&admin, &others, "11.0.0.0/8"),
    ] {
        let made = world.subnet(ctx, new_subnet(&network.id, cidr)).await;
        assert_eq!(made.unwrap().cidr, cidr);
    }
}

#[tokio::test]
async fn pages_go_forth_and_back() {
    let world = World::new().await;
    let ctx = member(1);
    for number in 0..5 {
        world.own_network(&ctx, &format!("n{number}")).await;
    }
    let page = |marker: &str, page_reverse| ListRequest {
        sorts: vec![SortKey {
            key: "name".into(),
            descending: false,
        }],
        limit: 2,
        marker: marker.into(),
        page_reverse,
        ..ListRequest::default()
    };
    let ask = async |marker: &str, reverse| {
        let reply = world
            .networks
            .list_networks(&ctx, page(marker, reverse))
            .await
            .unwrap();
        let names: Vec<String> = reply
            .networks
            .iter()
            .map(|network| network.name.clone())
            .collect();
        (names, reply.networks, reply.more)
    };
    let (names, first, more) = ask("", false).await;
    assert_eq!(
        (names, more),
        (vec!["n0".to_owned(), "n1".to_owned()], true)
    );
    let (names, second, _) = ask(&first[1].id, false).await;
    assert_eq!(names, ["n2", "n3"]);
    let (names, _, more) = ask(&second[1].id, false).await;
    assert_eq!((names, more), (vec!["n4".to_owned()], false));
    let (names, ..) = ask(&second[0].id, true).await;
    assert_eq!(names, ["n0", "n1"]);
}

async fn one_range_goes_to_one_of_many(backend: Backend) {
    let world = World::with(backend, Config::default()).await;
    let mut networks = Vec::new();
    for project in 1..=8 {
        let ctx = member(project);
        let network = world.own_network(&ctx, "own").await;
        networks.push((ctx, network.id));
    }
    let asked = networks
        .iter()
        .map(|(ctx, network)| world.subnet(ctx, new_subnet(network, "10.9.0.0/24")));
    let answers = futures::future::join_all(asked).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_that_ask_at_once_do_not_get_the_same_range() {
    one_range_goes_to_one_of_many(Backend::Postgres).await;
    one_range_goes_to_one_of_many(Backend::Mysql).await;
}

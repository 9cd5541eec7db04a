//! Routers, with packets that really go.

use std::time::Duration;

use yakumo_contracts::network::{
    CreateRoutersRequest, ExternalGateway, Network, NewRouter, RouterInterfaceRequest, Subnet,
    UpdateRouterRequest,
};
use yakumo_types::RequestContext;

use crate::agent::{Cloud, within};
use crate::namespaces::{Echo, alive, connect, pings};
use crate::world::{member, new_subnet};

const SOON: Duration = Duration::from_secs(4);

async fn own_network(
    cloud: &Cloud,
    ctx: &RequestContext,
    name: &str,
    cidr: &str,
) -> (Network, Subnet) {
    let network = cloud.world.own_network(ctx, name).await;
    let subnet = new_subnet(&network.id, cidr);
    let subnet = cloud.world.subnet(ctx, subnet).await.unwrap();
    assert_eq!(network.provider_network_type, "local");
    (network, subnet)
}

fn interface(router: &str, subnet: &Subnet) -> RouterInterfaceRequest {
    RouterInterfaceRequest {
        router_id: router.into(),
        subnet_id: subnet.id.clone(),
        port_id: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn networks_meet_each_other_and_the_outside_through_their_router_alone() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let (left, left_subnet) = own_network(&cloud, &ctx, "left", "10.1.0.0/24").await;
    let (right, right_subnet) = own_network(&cloud, &ctx, "right", "10.2.0.0/24").await;
    let external = cloud.world.external_network("172.24.4.0/24").await;
    let a = cloud.boot(&ctx, &left, "a").await;
    let b = cloud.boot(&ctx, &right, "b").await;
    let group = cloud.world.default_group(&ctx).await;
    cloud.world.open(&ctx, &group, "tcp", Some(22)).await;
    let ssh = [Echo::listen(&a.netns, 22), Echo::listen(&b.netns, 22)];
    let web = Echo::listen(&cloud.outside, 80);
    let outside = "172.24.4.1";
    // Both are in one security group, so only the networks keep them apart.
    assert!(!pings(&a.netns, &b.address) && !pings(&b.netns, &a.address));
    assert!(connect(&a.netns, outside, 80).is_none());

    let request = CreateRoutersRequest {
        routers: vec![NewRouter {
            name: "between".into(),
            ..NewRouter::default()
        }],
        ..Default::default()
    };
    let networks = &cloud.world.networks;
    let router = networks.create_routers(&ctx, request).await.unwrap();
    let router = router.routers[0].id.clone();
    for subnet in [&left_subnet, &right_subnet] {
        let request = interface(&router, subnet);
        networks.add_router_interface(&ctx, request).await.unwrap();
    }
    assert!(within(SOON, || pings(&a.netns, &b.address)).is_some());
    assert!(pings(&b.netns, &a.address));
    let mut between = connect(&a.netns, &b.address, 22).expect("through the router");
    assert!(alive(&mut between));
    // Nobody's address was changed on the way.
    assert_eq!(ssh[1].last_peer().unwrap().to_string(), a.address);
    assert!(connect(&a.netns, outside, 80).is_none());

    let request = UpdateRouterRequest {
        id: router.clone(),
        external_gateway_info: Some(ExternalGateway {
            network_id: external.id.clone(),
            enable_snat: true,
            external_fixed_ips: Vec::new(),
        }),
        ..UpdateRouterRequest::default()
    };
    networks.update_router(&ctx, request).await.unwrap();
    for guest in [&a, &b] {
        let out = || connect(&guest.netns, outside, 80);
        assert!(within(SOON, || out().is_some_and(|mut flow| alive(&mut flow))).is_some());
        assert_eq!(web.last_peer().unwrap().to_string(), "172.24.4.254");
    }
    assert!(connect(&cloud.outside, &a.address, 22).is_none());
    let (_, floating) = cloud.floating_ip(&ctx, &external, &a).await;
    let mut inwards = connect(&cloud.outside, &floating, 22).expect("by the floating IP");
    assert!(alive(&mut inwards));
    let mut out = connect(&a.netns, outside, 80).expect("the way out");
    assert!(alive(&mut out));
    assert_eq!(web.last_peer().unwrap().to_string(), floating);
    assert!(alive(&mut between), "nothing of this concerns them");

    // Without its interface a network is alone again, and the others are not.
    let request = interface(&router, &right_subnet);
    networks
        .remove_router_interface(&ctx, request)
        .await
        .unwrap();
    assert!(within(SOON, || !alive(&mut between)).is_some());
    assert!(!pings(&a.netns, &b.address) && !pings(&b.netns, &a.address));
    assert!(connect(&b.netns, outside, 80).is_none());
    assert!(alive(&mut inwards) && alive(&mut out));
}

//! What happens to one network or server of a host leaves the others alone.

use std::time::Duration;

use yakumo_contracts::network::{IdRequest, ServerPortsRequest};
use yakumo_service::ComponentHealth;
use yakumo_types::FaultCode;

use crate::agent::{Cloud, Guest, HOST, within};
use crate::namespaces::{Echo, alive, connect, lease, pings, run};
use crate::world::member;

/// What names of an id's things on a host are made of.
fn key(id: &str) -> String {
    id.replace('-', "")[..11].to_owned()
}

fn trouble(cloud: &Cloud) -> Option<String> {
    let component = format!("network agent {HOST}");
    match cloud
        .world
        .process
        .health
        .report()
        .components
        .get(&component)
    {
        Some(ComponentHealth::Degraded(why)) => Some(why.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_in_trouble_holds_up_no_other_one() {
    let mut cloud = Cloud::start().await;
    let (one, two) = (member(1), member(2));
    let (bad, _) = cloud.world.shared_network("bad", "10.0.0.0/24").await;
    let (odd, _) = cloud.world.shared_network("odd", "10.1.0.0/24").await;
    let (good, _) = cloud.world.shared_network("good", "10.2.0.0/24").await;
    let a = cloud.boot(&one, &bad, "a").await;

    // The DHCP server of one network dies and does not start again, since its
    // log cannot be written; in place of another one's bridge is something else.
    let files = cloud.data().join("network/dhcp").join(&bad.id);
    std::fs::remove_file(files.join("log")).unwrap();
    std::fs::create_dir(files.join("log")).unwrap();
    let pid = std::fs::read_to_string(files.join("pid")).unwrap();
    run(None, &format!("kill -9 {}", pid.split(' ').next().unwrap()));
    let false_bridge = format!("yk-{}", key(&odd.id));
    let make = format!("ip tuntap add dev {false_bridge} mode tap");
    run(Some(&cloud.host), &make);
    let mut held_up = Vec::new();
    for network in [&bad, &odd] {
        let (server, _) = cloud.world.allocate(&one, &network.id, HOST).await.unwrap();
        let request = ServerPortsRequest {
            server_id: server.clone(),
            fence: None,
        };
        let internal = cloud.world.internal();
        let wired = cloud.world.ports.wire_server_ports(&internal, request);
        let fault = wired.await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Unavailable, "{fault}");
        held_up.push(server);
    }
    let both = [
        format!("network {}: dnsmasq", bad.id),
        format!("network {}: ip", odd.id),
    ];
    let told = || trouble(&cloud).is_some_and(|why| both.iter().all(|one| why.contains(one)));
    assert!(
        within(Duration::from_secs(10), told).is_some(),
        "{:?}",
        trouble(&cloud)
    );

    // Meanwhile others are wired, cut and released as ever.
    let b = cloud.boot(&one, &good, "b").await;
    let c = cloud.boot(&two, &good, "c").await;
    let group = cloud.world.default_group(&one).await;
    let _ssh = Echo::listen(&b.netns, 22);
    let rule = cloud.world.open(&one, &group, "tcp", Some(22)).await;
    let opened = || connect(&c.netns, &b.address, 22);
    assert!(within(Duration::from_secs(4), || opened().is_some()).is_some());
    let mut flow = opened().unwrap();
    assert!(alive(&mut flow));
    cloud
        .world
        .networks
        .delete_security_group_rule(&one, IdRequest { id: rule })
        .await
        .unwrap();
    assert!(within(Duration::from_secs(4), || !alive(&mut flow)).is_some());
    assert!(
        cloud.world.release(&b.server).await.unwrap(),
        "the host confirms"
    );
    assert!(!run(Some(&cloud.host), "ip -o link show").contains(&b.port.tap));
    assert!(pings(&a.netns, "10.0.0.1"), "only its DHCP is away");
    assert!(trouble(&cloud).is_some());

    // It is tried again until it succeeds.
    std::fs::remove_dir(files.join("log")).unwrap();
    run(Some(&cloud.host), &format!("ip link del {false_bridge}"));
    for server in &held_up {
        cloud.wire(server).await;
    }
    let got = lease(&a.netns, cloud.folder.path());
    assert!(got.contains(&format!("ip={}\n", a.address)), "{got}");
    cloud.boot(&one, &odd, "d").await;
    assert!(within(Duration::from_secs(10), || trouble(&cloud).is_none()).is_some());
}

/// Everything of a guest that is on its host, by kind.
fn traces(cloud: &Cloud, network: &str, guest: &Guest, floating: &str) -> Vec<&'static str> {
    let host = Some(cloud.host.as_str());
    let (mac, tap, address) = (&guest.port.mac_address, &guest.port.tap, &guest.address);
    let key = key(&guest.port.port_id);
    let dhcp = cloud.data().join("network/dhcp").join(network);
    let leases = std::fs::read_to_string(dhcp.join("leases")).unwrap_or_default();
    let on_host = |script: &str, word: &str| {
        let found = run(host, &format!("{script} | grep -wF -e '{word}' || :"));
        !found.trim().is_empty()
    };
    [
        ("tap", on_host("ip -o link show", tap)),
        ("MAC of the bridge", on_host("bridge fdb show", mac)),
        (
            "lease",
            leases.contains(mac.as_str()) || leases.contains(&format!(" {address} ")),
        ),
        (
            "DHCP host",
            dhcp.join("hosts").join(&guest.port.port_id).exists(),
        ),
        ("member of a set", on_host("ipset save", address)),
        ("flow", on_host("conntrack -L 2>/dev/null", address)),
        (
            "floating IP",
            on_host("ip -o address show dev pub0", &format!("{floating}/32")),
        ),
        (
            "floating IP's rules",
            on_host("iptables-save -t nat", floating),
        ),
        (
            "bridge rules",
            on_host("ebtables -t nat -L", &format!("yk-{key}")),
        ),
        (
            "rules",
            on_host("iptables-save -t filter", &format!("yk-i{key}")),
        ),
    ]
    .into_iter()
    .filter(|(_, there)| *there)
    .map(|(kind, _)| kind)
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_of_a_server_while_its_neighbour_stays() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let external = cloud.world.external_network("172.24.4.0/24").await;
    let gone = cloud.boot(&ctx, &network, "gone").await;
    let stays = cloud.boot(&ctx, &network, "stays").await;
    let group = cloud.world.default_group(&ctx).await;
    cloud.world.open(&ctx, &group, "tcp", Some(22)).await;
    let (_, of_gone) = cloud.floating_ip(&ctx, &external, &gone).await;
    let (_, of_stays) = cloud.floating_ip(&ctx, &external, &stays).await;
    let _listeners = [
        Echo::listen(&gone.netns, 22),
        Echo::listen(&stays.netns, 22),
    ];
    let mut ending = connect(&cloud.outside, &of_gone, 22).unwrap();
    let mut lasting = connect(&cloud.outside, &of_stays, 22).unwrap();
    assert!(alive(&mut ending) && alive(&mut lasting));
    let all = traces(&cloud, &network.id, &stays, &of_stays);
    assert_eq!(all.len(), 10, "{all:?}");
    assert_eq!(traces(&cloud, &network.id, &gone, &of_gone), all);

    assert!(
        cloud.world.release(&gone.server).await.unwrap(),
        "the host confirms"
    );
    let left = traces(&cloud, &network.id, &gone, &of_gone);
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(traces(&cloud, &network.id, &stays, &of_stays), all);
    assert!(!alive(&mut ending));
    assert!(alive(&mut lasting), "the neighbour's flow was cut");
    let got = lease(&stays.netns, cloud.folder.path());
    assert!(got.contains(&format!("ip={}\n", stays.address)), "{got}");
}

//! The agent for real: bridges, rules and dnsmasq in a namespace that plays the
//! host, guests and the outside world in others. A guest's end of its tap is
//! played by a veth of the tap's name.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use yakumo_contracts::network::{
    CreateFloatingIpsRequest, IdRequest, Network, NewFloatingIp, ServerPort, ServerPortsRequest,
    UpdateFloatingIpRequest, UpdatePortRequest,
};
use yakumo_network::{Config, Driver, HostConfig, HostSettings, start_host};
use yakumo_rpc::{Handler, ServeOptions, Server, Topic};
use yakumo_service::Process;
use yakumo_types::{HostId, RequestContext};

use crate::namespaces::{
    Capture, Echo, Namespaces, alive, arp_frame, connect, lease, mac, pings, run, send, udp_frame,
};
use crate::world::{World, member, new_subnet};

pub const HOST: &str = "node-1";

/// A network service, one host with its agent, and the outside.
pub struct Cloud {
    pub world: World,
    namespaces: Namespaces,
    pub host: String,
    pub outside: String,
    pub folder: tempfile::TempDir,
    agent: Option<(Process, Server)>,
}

/// A server, and the namespace that plays its guest.
pub struct Guest {
    pub netns: String,
    pub server: String,
    pub port: ServerPort,
    pub address: String,
}

impl Guest {
    fn ip(&self) -> Ipv4Addr {
        self.address.parse().unwrap()
    }

    fn mac(&self) -> [u8; 6] {
        mac(&self.port.mac_address)
    }
}

impl Cloud {
    pub async fn start() -> Self {
        let mut namespaces = Namespaces::new();
        let host = namespaces.add("host");
        let outside = namespaces.add("out");
        run(
            None,
            &format!("ip link add pub0 netns {host} type veth peer name out0 netns {outside}"),
        );
        run(
            Some(&host),
            "ip addr add 172.24.4.254/24 dev pub0; ip link set pub0 up",
        );
        run(
            Some(&outside),
            "ip addr add 172.24.4.1/24 dev out0; ip link set out0 up",
        );
        let mut cloud = Self {
            world: World::new().await,
            namespaces,
            host,
            outside,
            folder: tempfile::tempdir().unwrap(),
            agent: None,
        };
        cloud.start_agent().await;
        cloud
    }

    async fn start_agent(&mut self) {
        let process = self.world.process.part("agent");
        let bus = self.world.bus.as_host(HOST);
        let config = Config {
            host: HostConfig {
                driver: Driver::Real,
                netns: self.host.clone(),
                public_interface: "pub0".into(),
                public_gateway: Some(Ipv4Addr::new(172, 24, 4, 1)),
                ..HostConfig::default()
            },
            ..Config::default()
        };
        let settings = HostSettings {
            host: HOST.into(),
            recognition: yakumo_service::Recognition::always(),
            beat: yakumo_service::SharedBeat::default(),
            host_id: HostId::from_uuid(uuid::Uuid::from_u128(9)),
            data_dir: self.folder.path().join("data"),
        };
        let handler = start_host(&process, &bus, &settings, &config)
            .await
            .unwrap();
        let handlers: Vec<Arc<dyn Handler>> = vec![handler];
        let server = bus
            .serve(Topic::Host(HOST.into()), handlers, ServeOptions::default())
            .await
            .unwrap();
        self.agent = Some((process, server));
    }

    async fn stop_agent(&mut self) {
        let (process, server) = self.agent.take().unwrap();
        server.stop(Duration::from_secs(5)).await;
        assert!(process.drain(Duration::from_secs(20)).await);
    }

    pub async fn wire(&self, server: &str) {
        let request = ServerPortsRequest {
            server_id: server.into(),
            fence: None,
        };
        // Until the agent serves for the first time nobody hears the question.
        self.world
            .wait_for("the wiring", Duration::from_secs(30), async || {
                self.world
                    .ports
                    .wire_server_ports(&self.world.internal(), request.clone())
                    .await
                    .is_ok()
            })
            .await;
    }

    /// A server with one port, its guest plugged in, without an address yet.
    async fn plug(&mut self, ctx: &RequestContext, network: &Network, name: &str) -> Guest {
        let (server, mut ports) = self.world.allocate(ctx, &network.id, HOST).await.unwrap();
        let port = ports.remove(0);
        self.wire(&server).await;
        let netns = self.namespaces.add(name);
        let (tap, mac, host) = (&port.tap, &port.mac_address, &self.host);
        run(
            Some(host),
            &format!("ip -d link show {tap} | grep -q 'tun type tap'"),
        );
        // An agent that just looks puts the tap back between the two.
        run(
            None,
            &format!(
                "for attempt in 1 2 3 4 5 6 7 8 9; do \
                     ip -n {host} link del {tap} 2>/dev/null || true; \
                     if ip link add {tap} netns {host} type veth \
                         peer name eth0 netns {netns} address {mac}; then exit 0; fi; \
                     sleep 0.1; \
                 done; exit 1"
            ),
        );
        run(Some(&netns), "ip link set eth0 up");
        // A change makes the agent look again, and plug the new end in.
        let change = UpdatePortRequest {
            id: port.port_id.clone(),
            name: Some(name.into()),
            ..UpdatePortRequest::default()
        };
        self.world.networks.update_port(ctx, change).await.unwrap();
        self.wire(&server).await;
        let address = port.addresses[0].split('/').next().unwrap().to_owned();
        Guest {
            netns,
            server,
            port,
            address,
        }
    }

    /// The same, with its lease.
    pub async fn boot(&mut self, ctx: &RequestContext, network: &Network, name: &str) -> Guest {
        let guest = self.plug(ctx, network, name).await;
        let got = lease(&guest.netns, self.folder.path());
        assert!(got.contains(&format!("ip={}\n", guest.address)), "{got}");
        guest
    }

    pub async fn floating_ip(
        &self,
        ctx: &RequestContext,
        network: &Network,
        guest: &Guest,
    ) -> (String, String) {
        let request = CreateFloatingIpsRequest {
            floatingips: vec![NewFloatingIp {
                floating_network_id: network.id.clone(),
                port_id: guest.port.port_id.clone(),
                ..NewFloatingIp::default()
            }],
            ..Default::default()
        };
        let made = self
            .world
            .networks
            .create_floating_ips(ctx, request)
            .await
            .unwrap()
            .floatingips
            .remove(0);
        self.wire(&guest.server).await;
        (made.id, made.floating_ip_address)
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }
}

pub fn within(bound: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let started = Instant::now();
    while started.elapsed() < bound {
        if condition() {
            return Some(started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn leftovers(host: &str) -> String {
    run(
        Some(host),
        "iptables-save | grep yk- || :; ebtables-save | grep yk- || :; ipset save | grep yk- || :; \
         ip -o link show | grep -E ' (yk-|tap)' || :; ip -o addr show dev pub0 | grep /32 || :; \
         for pid in $(ip netns pids $(ip netns identify $$)); do tr '\\0' ' ' < /proc/$pid/cmdline | grep ^dnsmasq || :; done",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn projects_on_a_shared_bridge_are_apart_and_nobody_pretends() {
    let mut cloud = Cloud::start().await;
    let (one, two) = (member(1), member(2));
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let a = cloud.boot(&one, &network, "a").await;
    let a2 = cloud.boot(&one, &network, "a2").await;
    let b = cloud.boot(&two, &network, "b").await;

    // Own project: yes. Other project: no. The gateway: yes.
    assert!(pings(&a.netns, "10.0.0.1"));
    assert!(pings(&a.netns, &a2.address));
    assert!(!pings(&a.netns, &b.address));
    assert!(!pings(&b.netns, &a.address));
    let capture = Capture::start(&b.netns);
    assert!(pings(&a.netns, &a2.address));
    let marker = b"only-for-project-one";
    let broadcast = Ipv4Addr::new(10, 0, 0, 255);
    let everybody = [0xff; 6];
    for (to, destination) in [
        (a2.mac(), a2.ip()),
        // A MAC that nobody has, the other guest's MAC with a wrong address, and broadcasts.
        (mac("fa:16:3e:99:99:99"), a2.ip()),
        (b.mac(), a2.ip()),
        (b.mac(), b.ip()),
        (everybody, broadcast),
        (everybody, Ipv4Addr::BROADCAST),
        (mac("01:00:5e:00:00:fb"), Ipv4Addr::new(224, 0, 0, 251)),
    ] {
        send(
            &a.netns,
            udp_frame(to, a.mac(), a.ip(), destination, marker),
        );
    }
    // Something that is no IPv4 and no ARP at all.
    let mut strange = vec![0xff; 6];
    strange.extend(a.mac());
    strange.extend([0x88, 0xb5]);
    strange.extend(marker);
    send(&a.netns, strange);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!capture.saw(marker), "the other project saw a payload");
    for frame in capture.frames() {
        let (to, from, kind) = (&frame[..6], &frame[6..12], &frame[12..14]);
        if from == a.mac() || from == a2.mac() {
            assert_eq!(kind, [0x08, 0x06], "the other project saw {frame:02x?}");
            assert_eq!(to, [0xff; 6], "the other project saw a unicast");
        }
    }

    // Nobody speaks with another MAC, another address, or another's ARP.
    let capture = Capture::start(&a2.netns);
    let honest = udp_frame(a2.mac(), a.mac(), a.ip(), a2.ip(), b"honest");
    send(&a.netns, honest.clone());
    assert!(within(Duration::from_secs(2), || capture.saw(b"honest")).is_some());
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    send(
        &a.netns,
        udp_frame(
            a2.mac(),
            mac("fa:16:3e:00:00:99"),
            a.ip(),
            a2.ip(),
            b"false mac",
        ),
    );
    send(
        &a.netns,
        udp_frame(a2.mac(), a2.mac(), a.ip(), a2.ip(), b"your own mac"),
    );
    send(
        &a.netns,
        udp_frame(a2.mac(), a.mac(), gateway, a2.ip(), b"false ip"),
    );
    send(
        &a.netns,
        udp_frame(a2.mac(), a.mac(), b.ip(), a2.ip(), b"foreign ip"),
    );
    let strange = Ipv4Addr::new(10, 0, 0, 222);
    send(&a.netns, arp_frame(a.mac(), a.mac(), gateway, strange));
    send(
        &a.netns,
        arp_frame(a.mac(), mac("fa:16:3e:00:00:99"), a.ip(), strange),
    );
    send(
        &a.netns,
        arp_frame(mac("fa:16:3e:00:00:99"), a.mac(), a.ip(), strange),
    );
    send(&a.netns, honest);
    std::thread::sleep(Duration::from_millis(300));
    for lie in [
        b"false mac".as_slice(),
        b"your own mac",
        b"false ip",
        b"foreign ip",
        &strange.octets(),
    ] {
        assert!(
            !capture.saw(lie),
            "{:?} came through",
            String::from_utf8_lossy(lie)
        );
    }
    // And the truth still does.
    send(&a.netns, arp_frame(a.mac(), a.mac(), a.ip(), strange));
    assert!(within(Duration::from_secs(2), || capture.saw(&strange.octets())).is_some());

    // A rule lets the other project in.
    let group = cloud.world.default_group(&two).await;
    cloud.world.open(&two, &group, "icmp", None).await;
    assert!(within(Duration::from_secs(2), || pings(&a.netns, &b.address)).is_some());
    assert!(!pings(&b.netns, &a.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_a_rule_cuts_its_flows_and_a_restart_cuts_none() {
    let mut cloud = Cloud::start().await;
    let (one, two) = (member(1), member(2));
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let a = cloud.boot(&one, &network, "a").await;
    let b = cloud.boot(&two, &network, "b").await;
    let group = cloud.world.default_group(&two).await;
    let (_ssh, _web) = (Echo::listen(&b.netns, 22), Echo::listen(&b.netns, 80));
    assert!(connect(&a.netns, &b.address, 22).is_none());

    let ssh_rule = cloud.world.open(&two, &group, "tcp", Some(22)).await;
    cloud.world.open(&two, &group, "tcp", Some(80)).await;
    assert!(
        within(Duration::from_secs(2), || connect(&a.netns, &b.address, 80)
            .is_some())
        .is_some()
    );
    let mut ssh = connect(&a.netns, &b.address, 22).expect("an opened rule lets pass");
    let mut web = connect(&a.netns, &b.address, 80).expect("an opened rule lets pass");
    assert!(alive(&mut ssh) && alive(&mut web));

    // The agent's end and new start: rules that are right are not even touched.
    let counters = |host: &str| -> u64 {
        run(
            Some(host),
            "{ iptables-save -c | grep yk- | tr '[:' '  '; ebtables -t nat -L --Lc | grep -o 'pcnt = [0-9]*' | cut -c7-; } \
             | awk '{ sum += $1 } END { print sum }'",
        )
        .trim()
        .parse()
        .unwrap()
    };
    let before = counters(&cloud.host);
    cloud.stop_agent().await;
    assert!(
        alive(&mut ssh) && alive(&mut web),
        "flows outlive the agent"
    );
    cloud.start_agent().await;
    cloud.wire(&b.server).await;
    assert!(alive(&mut ssh) && alive(&mut web), "a restart cuts nothing");
    let after = counters(&cloud.host);
    assert!(
        before > 0 && after >= before,
        "rules were rewritten: {before} packets before, {after} after"
    );

    let started = Instant::now();
    let request = IdRequest { id: ssh_rule };
    cloud
        .world
        .networks
        .delete_security_group_rule(&two, request)
        .await
        .unwrap();
    let cut = within(Duration::from_secs(4), || !alive(&mut ssh));
    assert!(cut.is_some(), "the flow goes on");
    // A read gives up after half a second, which is part of what was measured.
    assert!(
        started.elapsed() < Duration::from_millis(2500),
        "it took {:?}",
        started.elapsed()
    );
    assert!(alive(&mut web), "another rule's flow was cut");
    assert!(!alive(&mut ssh), "it came back");
    assert!(connect(&a.netns, &b.address, 22).is_none());

    cloud.world.open(&two, &group, "tcp", Some(22)).await;
    assert!(
        within(Duration::from_secs(3), || connect(&a.netns, &b.address, 22)
            .is_some())
        .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn floating_ips_reach_servers_from_outside_and_from_inside() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let external = cloud.world.external_network("172.24.4.0/24").await;
    let a = cloud.boot(&ctx, &network, "a").await;
    let b = cloud.boot(&ctx, &network, "b").await;
    let group = cloud.world.default_group(&ctx).await;
    cloud.world.open(&ctx, &group, "tcp", Some(22)).await;
    cloud.wire(&a.server).await;
    let ssh = Echo::listen(&a.netns, 22);
    let web = Echo::listen(&cloud.outside, 80);

    // Without a floating IP a server goes out under the host's address.
    let mut out = connect(&a.netns, "172.24.4.1", 80).expect("the way out");
    assert!(alive(&mut out));
    assert_eq!(web.last_peer().unwrap().to_string(), "172.24.4.254");

    let (id, address) = cloud.floating_ip(&ctx, &external, &a).await;
    assert_eq!(address, "172.24.4.2");
    let mut flow = connect(&cloud.outside, &address, 22).expect("from outside");
    assert!(alive(&mut flow));
    assert_eq!(ssh.last_peer().unwrap().to_string(), "172.24.4.1");
    assert!(
        connect(&cloud.outside, &address, 81).is_none(),
        "rules hold for floating IPs"
    );
    let mut out = connect(&a.netns, "172.24.4.1", 80).expect("the way out");
    assert!(alive(&mut out));
    assert_eq!(web.last_peer().unwrap().to_string(), address);

    // From a neighbour, and from itself.
    let mut neighbour = connect(&b.netns, &address, 22).expect("from a neighbour");
    assert!(alive(&mut neighbour));
    let mut itself = connect(&a.netns, &address, 22).expect("from itself");
    assert!(alive(&mut itself));

    // Taken away: what went through it ends, and the address is gone.
    let take = UpdateFloatingIpRequest {
        id,
        port_id: Some(String::new()),
        ..UpdateFloatingIpRequest::default()
    };
    cloud
        .world
        .networks
        .update_floating_ip(&ctx, take)
        .await
        .unwrap();
    assert!(within(Duration::from_secs(3), || !alive(&mut flow)).is_some());
    assert!(connect(&cloud.outside, &address, 22).is_none());
    assert!(!run(Some(&cloud.host), "ip -o addr show dev pub0").contains(&format!("{address}/32")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn metadata_is_for_the_guest_that_asks() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let a = cloud.boot(&ctx, &network, "a").await;
    // A guest that lies about itself in every header.
    let ask = |netns: &str, address: &str, port: u16, path: &str| {
        let mut stream = connect(netns, address, port).expect("the listener");
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: x\r\nX-Instance-ID: forged\r\nX-Forwarded-For: 10.0.0.99\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let project = ctx.project_id.unwrap();
    let answer = ask(&a.netns, "169.254.169.254", 80, "/latest/meta-data/");
    assert!(answer.contains("200 OK"), "{answer}");
    let told = format!(
        "host.node-1 {} {project} {} /latest/meta-data/",
        a.server, a.port.port_id
    );
    assert!(answer.ends_with(&told), "{answer}");
    assert!(ask(&a.netns, "169.254.169.254", 80, "/missing").contains("404"));
    // The host itself is no guest; and guests do not get at the listener past the translation.
    assert!(ask(&cloud.host, "10.0.0.1", 8775, "/latest/").contains("404"));
    assert!(connect(&a.netns, "10.0.0.1", 8775).is_none());
    assert!(connect(&a.netns, "10.0.0.1", 22).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_free_address_goes_from_server_to_server_and_nothing_is_left() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let network = cloud.world.own_network(&ctx, "tiny").await;
    let subnet = yakumo_contracts::network::NewSubnet {
        allocation_pools: vec![yakumo_contracts::network::AllocationPool {
            start: "10.3.0.9".into(),
            end: "10.3.0.9".into(),
        }],
        ..new_subnet(&network.id, "10.3.0.0/24")
    };
    cloud.world.subnet(&ctx, subnet).await.unwrap();
    let external = cloud.world.external_network("172.24.4.0/24").await;
    let _ = external;
    for round in ["one", "two"] {
        let guest = cloud.boot(&ctx, &network, round).await;
        assert_eq!(guest.address, "10.3.0.9");
        assert!(pings(&guest.netns, "10.3.0.1"));
        // A network without a router does not get out.
        assert!(connect(&guest.netns, "172.24.4.1", 80).is_none());
        assert!(
            cloud.world.release(&guest.server).await.unwrap(),
            "the host confirms"
        );
        let left = leftovers(&cloud.host);
        assert!(left.trim().is_empty(), "left behind:\n{left}");
        let flows = run(
            Some(&cloud.host),
            "conntrack -L 2>/dev/null | grep 10.3.0.9 || :",
        );
        assert!(flows.trim().is_empty(), "{flows}");
        assert_eq!(files_in(&cloud.data().join("network/dhcp")), 0);
    }
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_kept_state_is_made_real_without_the_control_plane() {
    let mut cloud = Cloud::start().await;
    let ctx = member(1);
    let (network, _) = cloud.world.shared_network("shared", "10.0.0.0/24").await;
    let a = cloud.boot(&ctx, &network, "a").await;
    cloud.stop_agent().await;
    // As after a reboot of the host: nothing is left but the agent's files.
    run(
        Some(&cloud.host),
        "for link in $(ip -o link show type bridge | cut -d: -f2); do ip link del $link; done; \
         iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X; ipset destroy; \
         ebtables -t nat -F; ebtables -t nat -X",
    );
    // An agent whose bus leads nowhere.
    let process = cloud.world.process.part("agent");
    let lonely = crate::world::lonely_bus(&cloud.world.env).as_host(HOST);
    let config = Config {
        host: HostConfig {
            netns: cloud.host.clone(),
            public_interface: "pub0".into(),
            ..HostConfig::default()
        },
        ..Config::default()
    };
    let settings = HostSettings {
        host: HOST.into(),
        recognition: yakumo_service::Recognition::always(),
        beat: yakumo_service::SharedBeat::default(),
        host_id: HostId::from_uuid(uuid::Uuid::from_u128(9)),
        data_dir: cloud.data(),
    };
    start_host(&process, &lonely, &settings, &config)
        .await
        .unwrap();
    assert!(within(Duration::from_secs(10), || pings(&a.netns, "10.0.0.1")).is_some());
    let got = lease(&a.netns, cloud.folder.path());
    assert!(got.contains(&format!("ip={}\n", a.address)), "{got}");
    assert!(process.drain(Duration::from_secs(20)).await);
}

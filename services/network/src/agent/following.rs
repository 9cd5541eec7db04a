//! An agent that takes changes knows what one knows that asks for everything,
//! whatever happens to the network and to its messages.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use yakumo_contracts::network::{
    AllocateServerPortsRequest, CreateFloatingIpsRequest, CreatePortsRequest,
    CreateSecurityGroupRulesRequest, CreateSecurityGroupsRequest, FixedIp, FixedIps, HostDelta,
    IdRequest, Known, NewFloatingIp, NewPort, NewSecurityGroup, PullStateRequest,
    ReportAppliedRequest, ResolvedNetwork, SecurityGroupRule, ServerSecurityGroupRequest, Texts,
    UpdateFloatingIpRequest, UpdateNetworkRequest, UpdatePortRequest, UpdateSubnetRequest,
};
use yakumo_contracts::network_host::NetworkHostHandler;
use yakumo_db::{Backend, Db};
use yakumo_rpc::{Handler, ServeOptions, Topic};
use yakumo_testing::databases::ALL;
use yakumo_types::{RequestContext, ServerId};

use super::driver::{NetworkDriver, Outcome, SimulatedDriver};
use super::model::Model;
use super::{Agent, AgentSettings, Desired, Pulled};
use crate::store;
use world::{FakeHost, World, admin, member};

#[path = "../../tests/main/world.rs"]
#[allow(dead_code, reason = "the tests of the whole service use all of it")]
mod world;

const HOSTS: [&str; 2] = ["node-a", "node-b"];

fn agent(world: &World, host: &FakeHost, files: Option<&std::path::Path>) -> Agent {
    let settings = AgentSettings {
        host: host.name.clone(),
        recognition: yakumo_service::Recognition::always(),
        beat: yakumo_service::SharedBeat::default(),
        host_id: String::new(),
        availability_zone: String::new(),
        resync: Duration::from_secs(60),
        announce: Duration::from_secs(10),
        report: Duration::ZERO,
    };
    Agent::new(
        world.process.clone(),
        settings,
        host.client.clone(),
        Arc::new(SimulatedDriver),
        files.map(Agent::files),
    )
}

/// What the agent would know if it asked for everything.
async fn everything(host: &FakeHost) -> Desired {
    Desired::read(host.pull().await, None)
}

/// An agent that is sent what the service sends its host.
async fn served(world: &World, host: &FakeHost) -> Arc<Agent> {
    serve(world, host, agent(world, host, None)).await
}

async fn serve(world: &World, host: &FakeHost, agent: Agent) -> Arc<Agent> {
    let agent = Arc::new(agent);
    let handlers: Vec<Arc<dyn Handler>> =
        vec![Arc::new(NetworkHostHandler::new(Arc::clone(&agent)))];
    let topic = Topic::Host(host.name.clone());
    let options = ServeOptions::default();
    let bus = world.bus.as_host(host.name.as_str());
    bus.serve(topic, handlers, options).await.unwrap();
    agent.announce().await.unwrap();
    agent
}

/// Takes what is new, until the agent knows the same as if it had asked for
/// everything. Whether what it asked for first was everything, or `None` if it
/// got nothing.
async fn follow(agent: &Agent, host: &FakeHost) -> Option<bool> {
    let mut first = None;
    let begun = tokio::time::Instant::now();
    loop {
        agent.take_members().await;
        let pulled = agent.pull().await.unwrap();
        let all = match &pulled {
            Pulled::Nothing => None,
            Pulled::State(_) => Some(true),
            Pulled::Delta(_) => Some(false),
        };
        first.get_or_insert(all);
        let mut wanted = agent.wanted.lock().await;
        agent.take(&mut wanted, pulled).await.unwrap();
        let all = everything(host).await;
        if wanted.as_ref().unwrap().desired == all {
            return first.flatten();
        }
        // Others' joining and leaving is sent a moment later.
        if begun.elapsed() > Duration::from_secs(20) {
            assert_eq!(wanted.as_ref().unwrap().desired, all);
        }
        drop(wanted);
        agent
            .process
            .env
            .clock
            .sleep(Duration::from_millis(1))
            .await;
    }
}

/// Numbers that look like chance and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len())].clone())
    }
}

/// What the operations are done with.
struct Play {
    world: World,
    dice: Dice,
    members: [RequestContext; 2],
    networks: Vec<(String, String)>,
    external: String,
    /// For each project its default group and another one.
    groups: Vec<[String; 2]>,
    /// Server, its project, one of its ports.
    servers: Vec<(String, usize, String)>,
    /// Ports without a server, and their projects.
    loose: Vec<(String, usize)>,
    rules: Vec<(String, usize)>,
    floating: Vec<(String, usize)>,
}

impl Play {
    async fn begin(backend: Backend, seed: u64) -> Self {
        let mut config = crate::Config::default();
        config.manager.release_wait_seconds = 0;
        let world = World::with(backend, config).await;
        let members = [member(1), member(2)];
        let mut networks = Vec::new();
        for (name, cidr) in [("one", "10.1.0.0/24"), ("two", "10.2.0.0/24")] {
            let (network, subnet) = world.shared_network_on(name, name, cidr).await;
            networks.push((network.id, subnet.id));
        }
        let external = world.external_network("172.24.4.0/24").await.id;
        let mut groups = Vec::new();
        for ctx in &members {
            let web = CreateSecurityGroupsRequest {
                security_groups: vec![NewSecurityGroup {
                    name: "web".into(),
                    ..NewSecurityGroup::default()
                }],
                ..Default::default()
            };
            let made = world.networks.create_security_groups(ctx, web).await;
            let web = made.unwrap().security_groups.remove(0).id;
            groups.push([world.default_group(ctx).await, web]);
        }
        Self {
            world,
            dice: Dice(seed),
            members,
            networks,
            external,
            groups,
            servers: Vec::new(),
            loose: Vec::new(),
            rules: Vec::new(),
            floating: Vec::new(),
        }
    }

    fn some_groups(&mut self, project: usize) -> Vec<String> {
        match self.dice.below(4) {
            0 => vec![self.groups[project][1].clone()],
            1 => self.groups[project].to_vec(),
            _ => vec![self.groups[project][0].clone()],
        }
    }

    async fn boot(&mut self, project: usize, host: &str, port: Option<String>) {
        let groups = self.some_groups(project);
        self.boot_in(project, host, port, groups).await;
    }

    /// In the project's default group.
    async fn boot_with_others(&mut self, project: usize, host: &str) {
        let groups = vec![self.groups[project][0].clone()];
        self.boot_in(project, host, None, groups).await;
    }

    async fn boot_in(
        &mut self,
        project: usize,
        host: &str,
        port: Option<String>,
        groups: Vec<String>,
    ) {
        let server = self.world.env.id::<ServerId>().to_string();
        let network = self.dice.below(self.networks.len());
        let request = AllocateServerPortsRequest {
            server_id: server.clone(),
            project_id: self.members[project].project_id.unwrap().to_string(),
            host: host.into(),
            hostname: "guest".into(),
            networks: vec![ResolvedNetwork {
                network_id: self.networks[network].0.clone(),
                port_id: port.unwrap_or_default(),
                ..ResolvedNetwork::default()
            }],
            security_group_ids: groups,
            ..AllocateServerPortsRequest::default()
        };
        let internal = self.world.internal();
        // A port that is just being let go by its host is refused.
        let made = self.world.ports.allocate_server_ports(&internal, request);
        if let Ok(made) = made.await {
            let port = made.ports[0].port_id.clone();
            self.servers.push((server, project, port));
        }
    }

    async fn step(&mut self) {
        let project = self.dice.below(2);
        let host = HOSTS[self.dice.below(2)];
        let internal = self.world.internal();
        let some_server = self.dice.one(&self.servers);
        match self.dice.below(16) {
            0..=3 => self.boot(project, host, None).await,
            4 | 5 => {
                if let Some((server, ..)) = some_server {
                    self.world.release(&server).await.unwrap();
                    self.servers.retain(|(other, ..)| *other != server);
                }
            }
            6 => {
                // To another host, if it is not there already.
                if let Some((server, project, _)) = some_server {
                    let request = AllocateServerPortsRequest {
                        server_id: server,
                        project_id: self.members[project].project_id.unwrap().to_string(),
                        host: host.into(),
                        ..AllocateServerPortsRequest::default()
                    };
                    let moved = self.world.ports.allocate_server_ports(&internal, request);
                    moved.await.unwrap();
                }
            }
            7 => {
                if let Some((_, project, port)) = some_server {
                    let up = self.dice.below(2) == 0;
                    let wanted = (self.dice.below(2) == 0).then(|| self.some_groups(project));
                    let change = UpdatePortRequest {
                        id: port,
                        admin_state_up: Some(up),
                        security_groups: wanted.map(|values| Texts { values }),
                        ..UpdatePortRequest::default()
                    };
                    let ctx = &self.members[project];
                    self.world.networks.update_port(ctx, change).await.unwrap();
                }
            }
            8 => {
                if let Some((server_id, project, _)) = some_server {
                    let request = ServerSecurityGroupRequest {
                        server_id,
                        project_id: self.members[project].project_id.unwrap().to_string(),
                        security_group: self.groups[project][1].clone(),
                    };
                    let ports = &self.world.ports;
                    if self.dice.below(2) == 0 {
                        let _ = ports.add_server_security_group(&internal, request).await;
                    } else {
                        let _ = ports.remove_server_security_group(&internal, request).await;
                    }
                }
            }
            9 => self.change_rules(project).await,
            10 => self.change_floating(some_server).await,
            11 => self.change_loose(project, host).await,
            12 => {
                let network = self.dice.below(self.networks.len());
                let (network, subnet) = self.networks[network].clone();
                let root = admin();
                if self.dice.below(2) == 0 {
                    let change = UpdateNetworkRequest {
                        id: network,
                        mtu: Some(1400 + u32::try_from(self.dice.below(50)).unwrap()),
                        ..UpdateNetworkRequest::default()
                    };
                    let changed = self.world.networks.update_network(&root, change);
                    changed.await.unwrap();
                } else {
                    let dns = format!("9.9.9.{}", self.dice.below(9));
                    let change = UpdateSubnetRequest {
                        id: subnet,
                        dns_nameservers: Some(Texts { values: vec![dns] }),
                        ..UpdateSubnetRequest::default()
                    };
                    let changed = self.world.networks.update_subnet(&root, change);
                    changed.await.unwrap();
                }
            }
            13 => {
                let ctx = &self.members[project];
                let fixed = FixedIp {
                    subnet_id: self.networks[0].1.clone(),
                    ip_address: String::new(),
                };
                if let Some((port, _)) = self.loose.iter().find(|(_, own)| *own == project) {
                    let change = UpdatePortRequest {
                        id: port.clone(),
                        fixed_ips: Some(FixedIps {
                            ips: vec![fixed.clone(), fixed],
                        }),
                        ..UpdatePortRequest::default()
                    };
                    // Only those of the first network.
                    let _ = self.world.networks.update_port(ctx, change).await;
                }
            }
            _ => self.settle(host).await,
        }
    }

    /// A host says that it has everything.
    async fn settle(&self, host: &str) {
        self.world.known_host(host).apply().await;
    }

    /// Returns when hosts were told of all that was done to groups.
    async fn told(&self) {
        let db = Db::connect(&self.world.database.config).await.unwrap();
        let begun = tokio::time::Instant::now();
        loop {
            let noted = store::members::changed(db.read(), 1).await.unwrap();
            let untold = store::members::untold(db.read(), 0, i64::MAX)
                .await
                .unwrap();
            if noted.is_empty() && untold.is_empty() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20));
            self.world.env.clock.sleep(Duration::from_millis(1)).await;
        }
        db.close().await;
    }

    async fn change_rules(&mut self, project: usize) {
        if self.dice.below(2) == 0
            && let Some((rule, owner)) = self.dice.one(&self.rules)
        {
            self.rules.retain(|(other, _)| *other != rule);
            let ctx = &self.members[owner];
            let gone = self
                .world
                .networks
                .delete_security_group_rule(ctx, IdRequest { id: rule });
            gone.await.unwrap();
            return;
        }
        let ethertype = ["IPv4", "IPv6"][self.dice.below(2)];
        let (group, remote) = (self.dice.below(2), self.dice.below(3));
        let remote = self.groups[project].get(remote).cloned();
        let rule = SecurityGroupRule {
            security_group_id: self.groups[project][group].clone(),
            direction: "ingress".into(),
            ethertype: ethertype.into(),
            protocol: "tcp".into(),
            remote_group_id: remote.unwrap_or_default(),
            ..SecurityGroupRule::default()
        };
        let request = CreateSecurityGroupRulesRequest {
            security_group_rules: vec![rule],
            ..Default::default()
        };
        let ctx = &self.members[project];
        let networks = &self.world.networks;
        // The same rule may be there.
        if let Ok(made) = networks.create_security_group_rules(ctx, request).await {
            let id = made.security_group_rules[0].id.clone();
            self.rules.push((id, project));
        }
    }

    async fn change_floating(&mut self, server: Option<(String, usize, String)>) {
        let there = self.dice.one(&self.floating);
        match (there, server, self.dice.below(3)) {
            (Some((id, project)), _, 0) => {
                self.floating.retain(|(other, _)| *other != id);
                let ctx = &self.members[project];
                let gone = self
                    .world
                    .networks
                    .delete_floating_ip(ctx, IdRequest { id });
                gone.await.unwrap();
            }
            (Some((id, owner)), Some((_, project, port)), 1) if owner == project => {
                let change = UpdateFloatingIpRequest {
                    id,
                    port_id: Some(port),
                    ..UpdateFloatingIpRequest::default()
                };
                let ctx = &self.members[project];
                // The port may have one already.
                let _ = self.world.networks.update_floating_ip(ctx, change).await;
            }
            (_, Some((_, project, port_id)), _) => {
                let request = CreateFloatingIpsRequest {
                    floatingips: vec![NewFloatingIp {
                        floating_network_id: self.external.clone(),
                        port_id,
                        ..NewFloatingIp::default()
                    }],
                    ..Default::default()
                };
                let ctx = &self.members[project];
                if let Ok(made) = self.world.networks.create_floating_ips(ctx, request).await {
                    self.floating
                        .push((made.floatingips[0].id.clone(), project));
                }
            }
            _ => {}
        }
    }

    async fn change_loose(&mut self, project: usize, host: &str) {
        let there = self.dice.one(&self.loose);
        match (there, self.dice.below(3)) {
            (Some((id, owner)), 0) => {
                let ctx = &self.members[owner];
                let gone = self
                    .world
                    .networks
                    .delete_port(ctx, IdRequest { id: id.clone() });
                if gone.await.is_ok() {
                    self.loose.retain(|(other, _)| *other != id);
                }
            }
            (Some((id, owner)), 1) => self.boot(owner, host, Some(id)).await,
            _ => {
                let network = self.dice.below(self.networks.len());
                let groups = self.some_groups(project);
                let request = CreatePortsRequest {
                    ports: vec![NewPort {
                        network_id: self.networks[network].0.clone(),
                        security_groups: Some(Texts { values: groups }),
                        ..NewPort::default()
                    }],
                    ..Default::default()
                };
                let ctx = &self.members[project];
                let made = self
                    .world
                    .networks
                    .create_ports(ctx, request)
                    .await
                    .unwrap();
                self.loose.push((made.ports[0].id.clone(), project));
            }
        }
    }
}

async fn play(backend: Backend, seed: u64, steps: usize) {
    let mut play = Play::begin(backend, seed).await;
    let mut following = Vec::new();
    for name in HOSTS {
        let host = play.world.host(name).await;
        following.push((served(&play.world, &host).await, host));
    }
    let mut changes = 0;
    for step in 0..steps {
        play.step().await;
        for (agent, host) in &following {
            // Now and then an agent misses something, or does not get the answer.
            match play.dice.below(8) {
                0 => continue,
                1 => drop(agent.pull().await.unwrap()),
                2 => agent.waiting_members().clear(),
                _ => {}
            }
            // It would when it says who it is.
            agent.groups_stale.store(true, Ordering::Release);
            let all = follow(agent, host).await;
            tracing::debug!(?backend, seed, step, host = host.name, ?all);
            changes += usize::from(all == Some(false));
        }
    }
    assert!(changes > steps / 4, "{backend:?} {seed}: {changes}");
}

#[tokio::test]
async fn what_changes_make_of_a_state_is_what_a_whole_one_is() {
    for seed in 1..=6 {
        play(Backend::Sqlite, seed, 60).await;
    }
}

#[tokio::test]
async fn it_is_so_on_every_database() {
    for backend in ALL {
        play(backend, 77, 40).await;
    }
}

#[tokio::test]
async fn a_boot_beside_others_is_told_by_itself() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let other = play.world.host("node-b").await;
    let one = served(&play.world, &host).await;
    let two = served(&play.world, &other).await;
    for (project, name) in [(0, "node-a"), (1, "node-a"), (0, "node-b")] {
        play.boot_with_others(project, name).await;
    }
    play.told().await;
    assert_eq!(follow(&one, &host).await, Some(true));
    assert_eq!(follow(&two, &other).await, Some(true));
    // The default group lets its members in: both hosts hear of a new one.
    play.boot_with_others(0, "node-a").await;
    play.told().await;
    // It is sent alone, and nothing that the host has no business with.
    let asked = PullStateRequest {
        host: "node-a".into(),
        since_revision: one.changeable().await.unwrap().0,
        deltas: true,
        network_ids: vec![play.external.clone()],
        group_ids: vec![play.groups[1][1].clone()],
        ..PullStateRequest::default()
    };
    let ask = async |asked| {
        let told = host.client.pull_state(&host.ctx, asked).await.unwrap();
        assert!(told.delta);
        let told: HostDelta = prost::Message::decode(told.chunk.as_slice()).unwrap();
        assert_eq!((told.ports.len(), told.remote_ports.len()), (1, 0));
        let parts = (told.networks.len(), told.security_groups.len());
        (parts, told.members.len())
    };
    assert_eq!(ask(asked.clone()).await, ((0, 0), 0));
    // Nor what it has.
    let known = one.changeable().await.unwrap().1;
    let knowing = |known| PullStateRequest {
        known: Some(known),
        ..asked.clone()
    };
    assert_eq!(ask(knowing(known)).await, ((0, 0), 0));
    // What it lacks comes along.
    assert_eq!(ask(knowing(Known::default())).await, ((1, 1), 1));
    assert_eq!(follow(&one, &host).await, Some(false));
    // Where nothing but the group's members changed, nothing is asked for.
    assert_eq!(follow(&two, &other).await, None);
    // The first of a project on a host brings what it needs.
    play.boot_with_others(1, "node-b").await;
    assert_eq!(follow(&two, &other).await, Some(false));
    // Rules change more than ports.
    let (ctx, group) = (play.members[0].clone(), play.groups[0][0].clone());
    play.world.open(&ctx, &group, "tcp", Some(22)).await;
    assert_eq!(follow(&one, &host).await, Some(true));
}

#[tokio::test]
async fn an_answer_that_comes_twice_changes_nothing_and_a_gap_is_filled_by_everything() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let agent = served(&play.world, &host).await;
    play.boot_with_others(0, "node-a").await;
    assert_eq!(follow(&agent, &host).await, Some(true));
    play.boot_with_others(0, "node-a").await;
    let Pulled::Delta(delta) = agent.pull().await.unwrap() else {
        panic!("a boot is told by itself");
    };
    let mut wanted = agent.wanted.lock().await;
    let take = |delta| Pulled::Delta(delta);
    agent.take(&mut wanted, take(delta.clone())).await.unwrap();
    let again = agent.take(&mut wanted, take(delta)).await;
    assert!(again.is_err());
    drop(wanted);
    assert_eq!(follow(&agent, &host).await, None);
    // What another agent of the host had is no longer noted.
    play.boot_with_others(0, "node-a").await;
    play.settle("node-a").await;
    assert_eq!(follow(&agent, &host).await, Some(true));
    play.boot_with_others(0, "node-a").await;
    assert_eq!(follow(&agent, &host).await, Some(false));
}

#[tokio::test]
async fn an_agent_that_starts_again_has_what_it_had_and_asks_for_everything() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let folder = tempfile::tempdir().unwrap();
    let first = agent(&play.world, &host, Some(folder.path()));
    let first = serve(&play.world, &host, first).await;
    for _ in 0..3 {
        play.boot_with_others(0, "node-a").await;
        assert!(first.pass(false).await.unwrap());
    }
    // Others' words go to the disk as well.
    play.told().await;
    follow(&first, &host).await;
    assert!(first.keep(false).await.unwrap());
    let second = agent(&play.world, &host, Some(folder.path()));
    second.restore().await.unwrap();
    let kept = second.wanted.lock().await;
    assert_eq!(kept.as_ref().unwrap().desired, everything(&host).await);
    assert_eq!(kept.as_ref().unwrap().desired.model().ports.len(), 3);
    drop(kept);
    assert_eq!(follow(&second, &host).await, Some(true));
}

/// Counts how often the host is looked at.
#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait::async_trait]
impl NetworkDriver for Counting {
    async fn apply(&self, _: &Model, _: &BTreeSet<Ipv4Addr>) -> anyhow::Result<Outcome> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Ok(Outcome::default())
    }

    async fn stop(&self) {}

    fn name(&self) -> &'static str {
        "counting"
    }
}

#[tokio::test]
async fn a_host_that_is_not_recognized_is_kept_and_asks_for_nothing() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let folder = tempfile::tempdir().unwrap();
    let before = agent(&play.world, &host, Some(folder.path()));
    play.boot_with_others(0, "node-a").await;
    before.pass(false).await.unwrap();
    let kept = before.revision().await.unwrap();

    let (word, heard) = tokio::sync::watch::channel(false);
    let driver = Arc::new(Counting::default());
    let mut after = agent(&play.world, &host, Some(folder.path()));
    after.driver = driver.clone();
    after.settings.recognition = yakumo_service::Recognition::of(heard);
    after.settings.announce = Duration::from_millis(5);
    after.settings.resync = Duration::from_millis(200);
    let after = Arc::new(after);
    let running = tokio::spawn(Arc::clone(&after).run());
    // There is something new, and it is told of it.
    play.boot_with_others(0, "node-a").await;
    let clock = after.process.env.clock.clone();
    let looked = || driver.0.load(Ordering::Acquire);
    for _ in 0..100 {
        after.changed.store(true, Ordering::Release);
        after.nudge.notify_one();
        clock.sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(after.revision().await, Some(kept), "it asked");
    let times = looked();
    assert!((2..=10).contains(&times), "{times} looks in a second");
    let health = || after.process.health.report().status;
    assert_eq!(health(), "degraded");

    word.send_replace(true);
    let begun = tokio::time::Instant::now();
    while after.revision().await == Some(kept) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        clock.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(health(), "up");
    after.process.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn only_what_is_new_is_said_of_a_host_and_its_changes_are_forgotten() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let agent = served(&play.world, &host).await;
    play.boot_with_others(0, "node-a").await;
    agent.pass(false).await.unwrap();
    let before = agent.changeable().await.unwrap().0;
    play.boot_with_others(0, "node-a").await;
    assert!(agent.pass(false).await.unwrap());
    let live = agent.live.lock().await;
    assert!(live.untold.is_empty());
    assert_eq!((live.told.len(), live.wired.len()), (2, 2));
    drop(live);
    // An old word is no word.
    let old = ReportAppliedRequest {
        host: host.name.clone(),
        revision: before,
        ..ReportAppliedRequest::default()
    };
    host.client.report_applied(&host.ctx, old).await.unwrap();
    let asked = |since_revision| PullStateRequest {
        host: host.name.clone(),
        since_revision,
        deltas: true,
        ..PullStateRequest::default()
    };
    let late = host.client.pull_state(&host.ctx, asked(before)).await;
    assert!(
        !late.unwrap().delta,
        "the change was reported and is forgotten"
    );
}

/// Returns when a word of members has come.
async fn come(agent: &Agent) {
    let begun = tokio::time::Instant::now();
    while agent.waiting_members().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        agent
            .process
            .env
            .clock
            .sleep(Duration::from_millis(1))
            .await;
    }
}

#[tokio::test]
async fn a_host_that_was_not_told_of_members_asks_for_them() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let (host, other) = (
        play.world.host("node-a").await,
        play.world.host("node-b").await,
    );
    let (one, two) = (
        served(&play.world, &host).await,
        served(&play.world, &other).await,
    );
    play.boot_with_others(0, "node-a").await;
    play.boot_with_others(0, "node-b").await;
    play.told().await;
    follow(&one, &host).await;
    follow(&two, &other).await;
    let group = play.groups[0][0].clone();
    let members = async |agent: &Agent| {
        let wanted = agent.wanted.lock().await;
        wanted.as_ref().unwrap().desired.model().members[&group].len()
    };
    let revision = async |agent: &Agent| {
        let groups = agent.groups().await;
        let found = groups.iter().find(|it| it.group_id == group);
        found.unwrap().revision
    };
    let lost = revision(&one).await;
    // The word of a new member gets lost.
    play.boot_with_others(0, "node-b").await;
    play.told().await;
    come(&one).await;
    one.waiting_members().clear();
    assert_eq!((members(&one).await, revision(&one).await), (2, lost));
    // The next one shows it.
    play.boot_with_others(0, "node-b").await;
    play.told().await;
    come(&one).await;
    assert!(!one.take_members().await);
    assert!(one.groups_stale.load(Ordering::Acquire));
    assert!(one.pass(false).await.unwrap());
    assert_eq!(members(&one).await, 4);
    // Without a next one, the agent hears of it when it says who it is.
    play.boot_with_others(0, "node-b").await;
    play.told().await;
    come(&one).await;
    one.waiting_members().clear();
    assert!(one.announce().await.is_some());
    assert!(one.groups_stale.load(Ordering::Acquire));
    assert!(one.pass(false).await.unwrap());
    assert_eq!(members(&one).await, 5);
    assert!(one.announce().await.is_some());
    assert!(!one.groups_stale.load(Ordering::Acquire));
}

#[tokio::test]
async fn what_nobody_told_to_the_end_is_told_again() {
    let mut play = Play::begin(Backend::Sqlite, 5).await;
    let host = play.world.host("node-a").await;
    let agent = served(&play.world, &host).await;
    play.boot_with_others(0, "node-a").await;
    play.told().await;
    follow(&agent, &host).await;
    let group = play.groups[0][0].clone();
    let before = agent.groups().await.remove(0).revision;
    // Somebody counted a change, and died.
    let db = Db::connect(&play.world.database.config).await.unwrap();
    let now = play.world.env.now().minus(Duration::from_secs(10));
    db.write(move |txn| {
        let groups = [group.clone()];
        Box::pin(async move {
            let change = ("change".into(), groups[0].clone(), "a port".into());
            store::members::note(txn, vec![change]).await?;
            store::members::take(txn, &groups, 10, now.as_micros()).await?;
            Ok(())
        })
    })
    .await
    .unwrap();
    let begun = tokio::time::Instant::now();
    while agent.groups().await[0].revision == before {
        assert!(begun.elapsed() < Duration::from_secs(30));
        agent.take_members().await;
        let stale = agent.groups_stale.load(Ordering::Acquire);
        if stale {
            agent.pass(false).await.unwrap();
        }
        agent
            .process
            .env
            .clock
            .sleep(Duration::from_millis(10))
            .await;
    }
    db.close().await;
}

//! A manager whose database was put back, and hosts that have heard more.

use std::collections::BTreeMap;
use std::time::Duration;

use yakumo_contracts::network::{
    AnnounceRequest, ForgetHostRequest, HostsLiveRequest, ListRequest, NetworkHostsClient,
    PullStateRequest,
};
use yakumo_network::upkeep;
use yakumo_rpc::Target;
use yakumo_testing::databases::ALL;
use yakumo_types::FaultCode;

use crate::world::{FakeHost, World, admin, member};

/// Announces a revision that was applied; the manager's answer.
async fn announce(host: &FakeHost, applied_revision: u64) -> u64 {
    let request = AnnounceRequest {
        host: host.name.clone(),
        host_id: "00000000-0000-4000-8000-000000000001".into(),
        driver: "real".into(),
        started_at: 1,
        applied_revision,
        availability_zone: "nova".into(),
        ..AnnounceRequest::default()
    };
    let reply = host.client.announce(&host.ctx, request).await;
    reply.unwrap().revision
}

/// Whether a host that has a revision is told anything, and all or a change.
async fn told(host: &FakeHost, since_revision: u64) -> (bool, bool) {
    let request = PullStateRequest {
        host: host.name.clone(),
        since_revision,
        deltas: true,
        ..PullStateRequest::default()
    };
    let reply = host.client.pull_state(&host.ctx, request).await.unwrap();
    (reply.total_bytes > 0, reply.delta)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_pull_everything_after_a_restore_on_every_database() {
    for backend in ALL {
        let world = World::with(backend, yakumo_network::Config::default()).await;
        let host = world.host("node-a").await;
        let (network, _) = world.shared_network("one", "10.1.0.0/24").await;
        world
            .allocate(&member(1), &network.id, "node-a")
            .await
            .unwrap();
        let state = host.apply().await;
        assert_eq!(told(&host, state.revision).await, (false, false));
        let groups = async || host.pull().await.members[0].revision;
        world
            .wait_for(
                "the group's revision",
                Duration::from_secs(10),
                async || groups().await == 1,
            )
            .await;
        let db = &world.database.db;
        let done = upkeep::restored(db).await.unwrap();
        let counts: Vec<u64> = done.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 1, 1], "{backend:?}");
        assert!(groups().await > 1_000_000_000);
        // Whatever it has heard of, it is told everything, and of more than that.
        for known in [1, state.revision, 90_000] {
            assert_eq!(told(&host, known).await, (true, false), "{backend:?}");
        }
        let state = host.apply().await;
        assert!(state.revision > 1_000_000_000, "{}", state.revision);
        assert_eq!(state.ports.len(), 1);
        assert_eq!(told(&host, state.revision).await, (false, false));
        // And then changes again; a second restore goes beyond them.
        world
            .allocate(&member(1), &network.id, "node-a")
            .await
            .unwrap();
        assert_eq!(told(&host, state.revision).await, (true, true));
        let before = host.apply().await.revision;
        upkeep::restored(db).await.unwrap();
        assert!(host.pull().await.revision > before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_restored_database_never_heard_of_is_overtaken() {
    let world = World::new().await;
    let host = world.host("node-a").await;
    let revision = announce(&host, 0).await;
    assert!(revision < 1000);
    let revision = announce(&host, 1000).await;
    assert!(revision > 1_000_000_000, "{revision}");
    assert_eq!(told(&host, 1000).await, (true, false));
    // What it says is not what the manager counts by.
    let high = announce(&host, u64::MAX).await;
    assert!(high < revision * 2, "{high}");
    host.apply().await;
}

/// That a host was heard an hour ahead is what a clock that was put back leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_heard_before_the_clock_was_put_back_is_not_up() {
    let world = World::new().await;
    let host = world.host("node-a").await;
    announce(&host, 0).await;
    let is_up = async || {
        let (ctx, all) = (admin(), ListRequest::default());
        let listed = world.networks.list_agents(&ctx, all).await.unwrap();
        listed.agents[0].alive
    };
    assert!(is_up().await);
    let ahead = "UPDATE hosts SET heard_at = heard_at + 3600000000";
    world.database.run(ahead).await.unwrap();
    assert!(!is_up().await);
    // And up again with its first word after that.
    announce(&host, 0).await;
    assert!(is_up().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_forgotten_with_what_waits_for_its_word() {
    for backend in ALL {
        let mut config = yakumo_network::Config::default();
        config.manager.release_wait_seconds = 0;
        let world = World::with(backend, config).await;
        let host = world.host("node-a").await;
        let (network, _) = world.shared_network("one", "10.1.0.0/24").await;
        let (server, _) = world
            .allocate(&member(1), &network.id, "node-a")
            .await
            .unwrap();
        host.apply().await;
        let hosts = NetworkHostsClient::new(world.bus.clone(), Target::service("network"));
        let forget = async |check_only| {
            let request = ForgetHostRequest {
                host: "node-a".into(),
                check_only,
            };
            let reply = hosts.forget_host(&world.internal(), request).await;
            reply.map(|reply| reply.was_known)
        };
        let fault = forget(false).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Conflict);
        assert!(fault.message.contains("still has ports: 1"), "{fault}");
        // The host is down and never says that the port is gone.
        world.release(&server).await.unwrap();
        assert!(forget(true).await.unwrap(), "{backend:?}");
        assert!(forget(true).await.unwrap(), "only asked");
        assert!(forget(false).await.unwrap());
        assert!(!forget(false).await.unwrap());
        let deleted = world
            .networks
            .delete_network(
                &crate::world::admin(),
                yakumo_contracts::network::IdRequest { id: network.id },
            )
            .await;
        deleted.unwrap();
        // Nor may a host forget another one.
        let hosts =
            NetworkHostsClient::new(world.bus.as_host("node-a"), Target::service("network"));
        let request = ForgetHostRequest {
            host: "node-b".into(),
            check_only: false,
        };
        let fault = hosts.forget_host(&host.ctx, request).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_live_by_the_word_of_the_control_plane() {
    let world = World::new().await;
    let host = world.host("node-a").await;
    world.host("node-b").await;
    let heard = async || {
        let request = ListRequest::default();
        let reply = world.networks.list_agents(&admin(), request).await;
        let agents = reply.unwrap().agents;
        assert_eq!(agents.len(), 2, "nobody appears by it");
        let all = agents.into_iter();
        all.map(|it| (it.host, it.heartbeat_timestamp))
            .collect::<BTreeMap<_, _>>()
    };
    let before = heard().await;
    let live = |names: &[&str]| HostsLiveRequest {
        hosts: names.iter().map(ToString::to_string).collect(),
    };
    // A host cannot say that others live; it is not told so, since nobody answers.
    let client = NetworkHostsClient::new(world.bus.as_host("node-a"), Target::service("network"));
    client
        .hosts_live(&host.ctx, live(&["node-b"]))
        .await
        .unwrap();
    let client = NetworkHostsClient::new(world.bus.clone(), Target::service("network"));
    let hosts = live(&["node-a", "unheard-of"]);
    client.hosts_live(&world.internal(), hosts).await.unwrap();
    let bound = Duration::from_secs(20);
    world
        .wait_for("a sign of life", bound, async || {
            heard().await["node-a"] > before["node-a"]
        })
        .await;
    assert_eq!(heard().await["node-b"], before["node-b"]);
}

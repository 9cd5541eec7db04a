//! Two processes under one host's name: one of them is the host, and the other one
//! takes no message and says why.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yakumo_compute::drivers::simulated::SimulatedHypervisor;
use yakumo_compute::{Config, Reports, SimulatedConfig, start_with};
use yakumo_contracts::compute_host::ListServersRequest;
use yakumo_rpc::ServeOptions;
use yakumo_service::{ComponentHealth, Process, system_env};
use yakumo_types::FaultCode;

use crate::support::{self, HOST, World, context, new_server};

const DRAIN: Duration = Duration::from_secs(20);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let bound = Duration::from_secs(30);
    let seen = support::until(bound, || holds().then_some(())).await;
    assert!(seen.is_some(), "not {what} within {bound:?}");
}

fn hypervisor() -> Arc<SimulatedHypervisor> {
    let config = SimulatedConfig::default();
    Arc::new(SimulatedHypervisor::new(system_env(), config))
}

/// Starts another process under the name of the world's host.
async fn second(world: &World, folder: &Path) -> Process {
    let process = Process::new("second", system_env());
    let config = Config {
        data_dir: folder.to_owned(),
        ..world.config.clone()
    };
    let bus = world.bus.as_host(HOST);
    let started = start_with(
        process.clone(),
        bus.clone(),
        config,
        hypervisor(),
        Reports::WhenServed,
    );
    let started = started.await.unwrap();
    process.spawn("host_rpc", async move {
        let handlers = vec![started.handler];
        let options = ServeOptions::default();
        started.agent.serve(&bus, handlers, options, DRAIN).await;
    });
    process
}

fn complaint(process: &Process) -> String {
    let report = process.health.report();
    match report.components.get(&format!("host {HOST}")) {
        Some(ComponentHealth::Degraded(why)) => why.clone(),
        _ => String::new(),
    }
}

/// The world's host, and not the other one, hears everything.
async fn the_first_hears_all(world: &World) {
    let mut servers: Vec<String> = Vec::new();
    for _ in 0..20 {
        let server = new_server();
        world.claim(server, 1).await.unwrap();
        servers.push(server.to_string());
    }
    servers.sort();
    let mut known = world.list().await.claims;
    known.retain(|claim| servers.contains(claim));
    assert_eq!(known, servers);
}

/// What is asked waits in vain.
async fn nobody_hears(world: &World) {
    let bound = Duration::from_secs(30);
    let end = system_env().clock.monotonic() + bound;
    let client = world.client().with_deadline(Duration::from_millis(500));
    loop {
        let request = ListServersRequest::default();
        match client.list_servers(&context(), request).await {
            Err(fault) if fault.code == FaultCode::Timeout => return,
            // It has yet to stop.
            said => assert!(system_env().clock.monotonic() < end, "{said:?}"),
        }
    }
}

#[tokio::test]
async fn one_with_another_id_is_refused_until_the_host_is_removed() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::new(own.path(), hypervisor()).await;
    until("registered", || world.api.incarnation() == 1).await;
    let process = second(&world, other.path()).await;
    until("refused", || complaint(&process).contains("another host's")).await;
    the_first_hears_all(&world).await;

    // Nor does it take the name when the host is away.
    world.stop().await;
    nobody_hears(&world).await;
    assert_eq!(world.api.incarnation(), 1);

    world.api.remove_host();
    until("accepted", || world.api.incarnation() == 2).await;
    assert!(world.list().await.claims.is_empty(), "it is a new host");
    assert_eq!(complaint(&process), "");

    // One that is refused after it was accepted serves no more.
    world.api.give_name_to("somebody else");
    world.api.forget();
    until("refused", || complaint(&process).contains("another host's")).await;
    nobody_hears(&world).await;
    assert!(process.drain(DRAIN).await);
}

#[tokio::test]
async fn one_with_the_same_id_waits_and_takes_over() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::new(own.path(), hypervisor()).await;
    until("registered", || world.api.incarnation() == 1).await;
    let file = "compute/host.json";
    std::fs::create_dir(other.path().join("compute")).unwrap();
    std::fs::copy(own.path().join(file), other.path().join(file)).unwrap();
    let process = second(&world, other.path()).await;
    let waits = || complaint(&process).contains("Another process serves");
    until("waiting", waits).await;
    the_first_hears_all(&world).await;
    // It keeps silent meanwhile.
    let before = world.api.incarnation();
    world.stop().await;
    until("taken over", || world.api.incarnation() > before).await;
    assert!(world.list().await.claims.is_empty());
    assert_eq!(complaint(&process), "");
    assert!(process.drain(DRAIN).await);
}

//! What every hypervisor driver must do, run on each of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use yakumo_compute::SimulatedConfig;
use yakumo_compute::decision::{Domain, Ending};
use yakumo_compute::drivers::simulated::SimulatedHypervisor;
use yakumo_compute::drivers::{Hypervisor, HypervisorEvent, Stage};
use yakumo_contracts::compute_host::ServerSpec;
use yakumo_service::system_env;
use yakumo_types::ServerId;

use crate::support::{new_server, spec, until};

/// Waits for an event that makes somebody look at `server`.
async fn told(events: &mut tokio::sync::broadcast::Receiver<HypervisorEvent>, server: ServerId) {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(HypervisorEvent::Server(told)) if told == server => return,
                Ok(HypervisorEvent::All) => return,
                Ok(HypervisorEvent::Server(_)) => {}
                Err(error) => panic!("no more events: {error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("an event within 20 s");
}

async fn domain(hypervisor: &dyn Hypervisor, server: ServerId) -> Domain {
    hypervisor.observe(server).await.unwrap().domain
}

/// The life of a guest, every step of it twice, as after a crash of the agent.
pub async fn a_guests_life(hypervisor: Arc<dyn Hypervisor>, spec: ServerSpec) {
    let hypervisor = &*hypervisor;
    let server = new_server();
    let stage = Stage::default();
    let capacity = hypervisor.capacity().await.unwrap();
    assert!(capacity.total.vcpus > 0 && capacity.total.memory_mib > 0);
    assert!(capacity.total.disk_gib > 0);

    assert_eq!(domain(hypervisor, server).await, Domain::Absent);
    hypervisor.pull_plug(server).await.unwrap();
    hypervisor.remove(server).await.unwrap();

    hypervisor.build(server, &spec, &stage).await.unwrap();
    hypervisor.build(server, &spec, &stage).await.unwrap();
    hypervisor.await_ports(&spec).await.unwrap();
    let mut events = hypervisor.events();
    hypervisor.start(server, &spec).await.unwrap();
    told(&mut events, server).await;
    hypervisor.start(server, &spec).await.unwrap();
    assert_eq!(domain(hypervisor, server).await, Domain::Running);
    assert!(
        hypervisor
            .observe_all()
            .await
            .unwrap()
            .contains_key(&server)
    );

    hypervisor.pause(server).await.unwrap();
    hypervisor.pause(server).await.unwrap();
    assert_eq!(domain(hypervisor, server).await, Domain::Paused);
    hypervisor.resume(server).await.unwrap();
    hypervisor.resume(server).await.unwrap();
    assert_eq!(domain(hypervisor, server).await, Domain::Running);

    let mut events = hypervisor.events();
    hypervisor.pull_plug(server).await.unwrap();
    told(&mut events, server).await;
    hypervisor.pull_plug(server).await.unwrap();
    assert_eq!(
        domain(hypervisor, server).await,
        Domain::Off(Ending::Destroyed)
    );
    assert_eq!(
        hypervisor.observe(server).await.unwrap().volumes,
        BTreeSet::new()
    );

    hypervisor.start(server, &spec).await.unwrap();
    assert_eq!(domain(hypervisor, server).await, Domain::Running);
    hypervisor.remove(server).await.unwrap();
    hypervisor.remove(server).await.unwrap();
    assert_eq!(domain(hypervisor, server).await, Domain::Absent);
    assert!(
        !hypervisor
            .observe_all()
            .await
            .unwrap()
            .contains_key(&server)
    );
    assert!(
        hypervisor
            .console_log(server, 4096)
            .await
            .unwrap()
            .is_empty()
    );
}

/// The power button, on a guest that obeys it.
pub async fn a_guest_obeys_its_power_button(
    hypervisor: Arc<dyn Hypervisor>,
    spec: ServerSpec,
    ready: impl AsyncFn(&dyn Hypervisor, ServerId),
) {
    let hypervisor = &*hypervisor;
    let server = new_server();
    hypervisor
        .build(server, &spec, &Stage::default())
        .await
        .unwrap();
    hypervisor.start(server, &spec).await.unwrap();
    ready(hypervisor, server).await;
    let mut events = hypervisor.events();
    hypervisor.ask_to_stop(server).await.unwrap();
    let clock = system_env().clock;
    let start = clock.monotonic();
    while domain(hypervisor, server).await == Domain::Running {
        assert!(clock.monotonic() - start < Duration::from_secs(60));
        let _ = tokio::time::timeout(Duration::from_millis(200), events.recv()).await;
    }
    assert_eq!(domain(hypervisor, server).await, Domain::Off(Ending::Guest));
    hypervisor.remove(server).await.unwrap();
}

fn simulated() -> Arc<SimulatedHypervisor> {
    Arc::new(SimulatedHypervisor::new(
        system_env(),
        SimulatedConfig::default(),
    ))
}

#[tokio::test]
async fn a_guests_life_simulated() {
    a_guests_life(simulated(), spec()).await;
}

#[tokio::test]
async fn a_guest_obeys_its_power_button_simulated() {
    a_guest_obeys_its_power_button(simulated(), spec(), async |_, _| {}).await;
}

#[tokio::test]
async fn a_crash_is_seen_simulated() {
    let hypervisor = simulated();
    let server = new_server();
    hypervisor.start(server, &spec()).await.unwrap();
    let mut events = hypervisor.events();
    hypervisor.crash(server);
    told(&mut events, server).await;
    let seen = until(Duration::from_secs(1), || Some(hypervisor.clone())).await;
    assert_eq!(
        domain(&*seen.unwrap(), server).await,
        Domain::Off(Ending::Crashed)
    );
}

//! What an agent has made real is heard by the service, whatever got lost on
//! the way: until then the addresses of what is gone come back to nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use yakumo_contracts::common::Empty;
use yakumo_contracts::network::{
    AnnounceReply, AnnounceRequest, HostBeat, HostNetwork, HostPort, HostState, HostStatesHandler,
    HostStatesServer, PullStateReply, PullStateRequest, ReportAppliedRequest,
};
use yakumo_network::{Config, Driver, HostConfig, HostSettings, start_host};
use yakumo_rpc::{Bus, Handler, Incoming, ServeOptions, Topic};
use yakumo_service::{Process, system_env};
use yakumo_types::{Env, Fault, HostId};

use crate::namespaces::Namespaces;
use crate::world::lonely_bus;

const HOST: &str = "node-1";
const NETWORK: &str = "11111111-1111-4111-8111-111111111111";
const PORT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// A service that wants the same of its host at all times, and that can be made
/// to take no report.
struct FakeService {
    state: HostState,
    deaf: AtomicBool,
    refused: Mutex<Vec<ReportAppliedRequest>>,
    taken: Mutex<Vec<ReportAppliedRequest>>,
}

impl FakeService {
    fn taken(&self) -> Vec<ReportAppliedRequest> {
        self.taken.lock().unwrap().clone()
    }

    fn refused(&self) -> usize {
        self.refused.lock().unwrap().len()
    }
}

#[async_trait]
impl HostStatesServer for FakeService {
    async fn pull_state(
        &self,
        _: &Incoming,
        request: PullStateRequest,
    ) -> Result<PullStateReply, Fault> {
        let revision = self.state.revision;
        if request.since_revision == revision {
            return Ok(PullStateReply {
                revision,
                ..PullStateReply::default()
            });
        }
        let chunk = prost::Message::encode_to_vec(&self.state);
        Ok(PullStateReply {
            revision,
            total_bytes: chunk.len() as u64,
            chunk,
            ..PullStateReply::default()
        })
    }

    async fn report_applied(
        &self,
        _: &Incoming,
        request: ReportAppliedRequest,
    ) -> Result<Empty, Fault> {
        if self.deaf.load(Ordering::SeqCst) {
            self.refused.lock().unwrap().push(request);
            return Err(Fault::unavailable("The database is away."));
        }
        self.taken.lock().unwrap().push(request);
        Ok(Empty {})
    }

    async fn announce(&self, _: &Incoming, _: AnnounceRequest) -> Result<AnnounceReply, Fault> {
        Ok(AnnounceReply {
            revision: self.state.revision,
            ..AnnounceReply::default()
        })
    }

    async fn beat(&self, _: &Incoming, _: HostBeat) -> Result<(), Fault> {
        Ok(())
    }
}

/// A service that takes no report yet, on a bus of its own.
async fn deaf_service(env: &Env, state: HostState) -> (Bus, Arc<FakeService>) {
    let bus = lonely_bus(env);
    let service = Arc::new(FakeService {
        state,
        deaf: AtomicBool::new(true),
        refused: Mutex::default(),
        taken: Mutex::default(),
    });
    let handlers: Vec<Arc<dyn Handler>> =
        vec![Arc::new(HostStatesHandler::new(Arc::clone(&service)))];
    bus.serve(Topic::Control("network"), handlers, ServeOptions::default())
        .await
        .unwrap();
    (bus, service)
}

async fn start_agent(process: &Process, bus: &Bus, host: HostConfig, folder: &std::path::Path) {
    let config = Config {
        host,
        ..Config::default()
    };
    let settings = HostSettings {
        host: HOST.into(),
        recognition: yakumo_service::Recognition::always(),
        beat: yakumo_service::SharedBeat::default(),
        host_id: HostId::from_uuid(uuid::Uuid::from_u128(9)),
        data_dir: folder.to_owned(),
    };
    start_host(process, &bus.as_host(HOST), &settings, &config)
        .await
        .unwrap();
}

async fn wait_for(env: &Env, what: &str, mut condition: impl FnMut() -> bool) {
    let end = env.clock.monotonic() + Duration::from_secs(20);
    while !condition() {
        assert!(env.clock.monotonic() < end, "waited in vain for {what}");
        env.clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_report_that_was_lost_is_sent_again() {
    let env = system_env();
    let state = HostState {
        host: HOST.into(),
        revision: 5,
        networks: vec![HostNetwork {
            id: NETWORK.into(),
            mtu: 1500,
            ..HostNetwork::default()
        }],
        ports: vec![HostPort {
            id: PORT.into(),
            network_id: NETWORK.into(),
            mac_address: "fa:16:3e:00:00:0a".into(),
            ..HostPort::default()
        }],
        ..HostState::default()
    };
    let (bus, service) = deaf_service(&env, state).await;
    let process = Process::new("host", env.clone());
    let folder = tempfile::tempdir().unwrap();
    let simulated = HostConfig {
        driver: Driver::Simulated,
        ..HostConfig::default()
    };
    start_agent(&process, &bus, simulated, folder.path()).await;
    wait_for(&env, "the first report", || service.refused() > 0).await;
    service.deaf.store(false, Ordering::SeqCst);
    wait_for(&env, "another report", || !service.taken().is_empty()).await;
    let report = service.taken().remove(0);
    assert_eq!(report.revision, 5);
    assert_eq!(report.wired_port_ids, [PORT]);
    assert!(process.drain(Duration::from_secs(20)).await);
    // It was taken, so it was not said a second time.
    assert_eq!(service.taken().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ended_before_its_report_was_heard_reports_after_its_restart() {
    let env = system_env();
    let state = HostState {
        host: HOST.into(),
        revision: 7,
        ..HostState::default()
    };
    let (bus, service) = deaf_service(&env, state).await;
    let mut namespaces = Namespaces::new();
    let real = HostConfig {
        driver: Driver::Real,
        netns: namespaces.add("host"),
        ..HostConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let first = Process::new("host", env.clone());
    start_agent(&first, &bus, real.clone(), folder.path()).await;
    wait_for(&env, "the first report", || service.refused() > 0).await;
    assert!(first.drain(Duration::from_secs(20)).await);
    assert!(folder.path().join("network/applied").exists());
    service.deaf.store(false, Ordering::SeqCst);
    let second = Process::new("host", env.clone());
    start_agent(&second, &bus, real, folder.path()).await;
    wait_for(&env, "the report", || !service.taken().is_empty()).await;
    assert_eq!(service.taken()[0].revision, 7);
    assert!(second.drain(Duration::from_secs(20)).await);
}

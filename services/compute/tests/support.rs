//! A control plane that only listens, and the means to talk to one agent.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use yakumo_compute::drivers::Hypervisor;
use yakumo_compute::{Config, StartedHost};
use yakumo_contracts::api::{
    Heartbeat, HostReport, HostReportReply, HostReportsHandler, HostReportsServer, MetadataReply,
    MetadataRequest, RegisterHostReply, RegisterHostRequest, ServerState,
};
use yakumo_contracts::common::Page;
use yakumo_contracts::compute_host::{
    ClaimServerRequest, ComputeHostClient, DesiredServer, ImageSource, ListServersReply,
    ListServersRequest, Power, Resources, ServerRequest, ServerSpec, SetDesiredRequest,
    VolumeConnection,
};
use yakumo_rpc::{Bus, Incoming, ServeOptions, Server, Target, Topic};
use yakumo_service::{HealthReport, Process, SharedBeat, system_env};
use yakumo_types::{
    Clock, ContextSeal, Fault, FaultCode, RequestContext, RequestId, ServerId, Timestamp, VolumeId,
};

/// In process, contexts need no seal.
pub struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("nothing is sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::internal("nothing is sealed here"))
    }
}

/// A clock for a hypervisor whose actions a test holds.
#[derive(Default)]
pub struct HeldClock {
    /// While somebody has it no pause ends, and without that none lasts.
    pub pauses: Arc<tokio::sync::Mutex<()>>,
}

impl Clock for HeldClock {
    fn now(&self) -> Timestamp {
        system_env().now()
    }

    fn monotonic(&self) -> Duration {
        system_env().clock.monotonic()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        let pauses = Arc::clone(&self.pauses);
        Box::pin(async move {
            drop(pauses.lock().await);
        })
    }
}

#[derive(Default)]
struct Heard {
    incarnation: u64,
    sequences: Vec<(u64, u64)>,
    states: HashMap<String, ServerState>,
    reports: u64,
    beats: u64,
    /// What the last heartbeat said.
    beat: HostReport,
    passes_on: bool,
    network_lives: u64,
    fail: u32,
    forget: bool,
    register_refusals: u32,
    /// The host of each name.
    host_ids: HashMap<String, String>,
}

/// Hears what hosts report.
#[derive(Default)]
pub struct FakeApi {
    heard: Mutex<Heard>,
    /// Whoever has it answers no reports.
    pub answers: tokio::sync::Mutex<()>,
}

impl FakeApi {
    /// The next reports fail.
    pub fn fail(&self, times: u32) {
        self.heard.lock().unwrap().fail = times;
    }

    /// The next registrations fail.
    pub fn refuse_registration(&self, times: u32) {
        self.heard.lock().unwrap().register_refusals = times;
    }

    /// Says to who registers that it passes on that a host's other agents live.
    pub fn pass_on(&self) {
        self.heard.lock().unwrap().passes_on = true;
    }

    /// How often it heard that a network agent lives.
    pub fn network_lives(&self) -> u64 {
        self.heard.lock().unwrap().network_lives
    }

    /// Forgets everything and wants a new registration.
    pub fn forget(&self) {
        let mut heard = self.heard.lock().unwrap();
        heard.states.clear();
        heard.forget = true;
    }

    /// Another one may have its name.
    pub fn remove_host(&self) {
        self.heard.lock().unwrap().host_ids.clear();
    }

    /// It is another one's from now on.
    pub fn give_name_to(&self, host_id: &str) {
        let mut heard = self.heard.lock().unwrap();
        heard.host_ids.insert(HOST.into(), host_id.into());
    }

    pub fn incarnation(&self) -> u64 {
        self.heard.lock().unwrap().incarnation
    }

    pub fn beats(&self) -> u64 {
        self.heard.lock().unwrap().beats
    }

    /// How many reports came, answered or not.
    pub fn reports(&self) -> u64 {
        self.heard.lock().unwrap().reports
    }

    /// What the last heartbeat said.
    pub fn beat(&self) -> HostReport {
        self.heard.lock().unwrap().beat.clone()
    }

    /// The last state that was reported of a server.
    pub fn state(&self, server: ServerId) -> Option<ServerState> {
        self.heard
            .lock()
            .unwrap()
            .states
            .get(&server.to_string())
            .cloned()
    }

    /// Every (incarnation, sequence) in the order of arrival.
    pub fn order(&self) -> Vec<(u64, u64)> {
        self.heard.lock().unwrap().sequences.clone()
    }
}

#[async_trait]
impl HostReportsServer for FakeApi {
    async fn register(
        &self,
        call: &Incoming,
        request: RegisterHostRequest,
    ) -> Result<RegisterHostReply, Fault> {
        let facts = request.facts.unwrap();
        call.sender.require_host(&facts.host)?;
        let mut heard = self.heard.lock().unwrap();
        if heard.register_refusals > 0 {
            heard.register_refusals -= 1;
            return Err(Fault::conflict("Another host has this name."));
        }
        let known = heard.host_ids.entry(facts.host.clone());
        let known = known.or_insert_with(|| facts.host_id.clone());
        if *known != facts.host_id {
            return Err(Fault::conflict("The name is another host's."));
        }
        heard.incarnation += 1;
        heard.forget = false;
        Ok(RegisterHostReply {
            incarnation: heard.incarnation,
            heartbeat_seconds: 1,
            passes_on: heard.passes_on,
        })
    }

    async fn report(&self, call: &Incoming, request: HostReport) -> Result<HostReportReply, Fault> {
        call.sender.require_host(&request.host)?;
        self.heard.lock().unwrap().reports += 1;
        let _answers = self.answers.lock().await;
        let mut heard = self.heard.lock().unwrap();
        if heard.fail > 0 {
            heard.fail -= 1;
            return Err(Fault::unavailable("The database is away."));
        }
        if heard.forget {
            return Ok(HostReportReply {
                register_again: true,
                ..HostReportReply::default()
            });
        }
        heard
            .sequences
            .push((request.incarnation, request.sequence));
        heard.network_lives += u64::from(request.network_lives);
        for state in request.servers {
            heard.states.insert(state.server_id.clone(), state);
        }
        Ok(HostReportReply::default())
    }

    async fn beat(&self, _: &Incoming, request: Heartbeat) -> Result<(), Fault> {
        let mut heard = self.heard.lock().unwrap();
        heard.beats += 1;
        heard.beat = request.report.unwrap();
        heard.network_lives += u64::from(heard.beat.network_lives);
        Ok(())
    }

    async fn get_metadata(&self, _: &Incoming, _: MetadataRequest) -> Result<MetadataReply, Fault> {
        Err(Fault::not_found("There is no metadata here."))
    }
}

/// An agent on a bus with a listening control plane; the hypervisor and the
/// folder outlive its restarts.
pub struct World {
    pub bus: Bus,
    pub api: Arc<FakeApi>,
    pub config: Config,
    pub hypervisor: Arc<dyn Hypervisor>,
    running: Option<(Process, StartedHost, Server)>,
    _api: Server,
}

pub const HOST: &str = "node-1";

impl World {
    /// What the other agents of the host say along.
    pub fn beat(&self) -> SharedBeat {
        let (_, host, _) = self.running.as_ref().unwrap();
        host.agent.beat()
    }

    pub async fn new(folder: &Path, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self::with(
            Config {
                host: HOST.into(),
                data_dir: folder.to_owned(),
                reserved_memory_mib: 0,
                heartbeat_seconds: 1,
                reconcile_seconds: 1,
                ..Config::default()
            },
            hypervisor,
        )
        .await
    }

    pub async fn with(config: Config, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let bus = Bus::in_process(system_env(), Arc::new(NoSeal));
        let api = Arc::new(FakeApi::default());
        let server = bus
            .serve(
                Topic::Control("api"),
                vec![Arc::new(HostReportsHandler::new(Arc::clone(&api)))],
                ServeOptions::default(),
            )
            .await
            .unwrap();
        let mut world = Self {
            bus,
            api,
            config,
            hypervisor,
            running: None,
            _api: server,
        };
        world.start().await;
        world
    }

    pub async fn start(&mut self) {
        let process = Process::new("compute", system_env());
        let host = yakumo_compute::start_with(
            process.clone(),
            self.bus.as_host(HOST),
            self.config.clone(),
            Arc::clone(&self.hypervisor),
            yakumo_compute::Reports::AtOnce,
        )
        .await
        .unwrap();
        let server = self
            .bus
            .as_host(HOST)
            .serve(
                Topic::Host(HOST.into()),
                vec![Arc::clone(&host.handler)],
                ServeOptions::default(),
            )
            .await
            .unwrap();
        self.running = Some((process, host, server));
    }

    /// Ends the agent as a kill would: nothing is awaited but its tasks' end.
    pub async fn stop(&mut self) {
        if let Some((process, host, server)) = self.running.take() {
            server.stop(Duration::ZERO).await;
            drop(host);
            assert!(process.drain(Duration::from_secs(10)).await);
        }
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// What the running agent says of itself.
    pub fn health(&self) -> HealthReport {
        self.running.as_ref().unwrap().0.health.report()
    }

    pub fn client(&self) -> ComputeHostClient {
        ComputeHostClient::new(self.bus.clone(), Target::host(HOST))
    }

    pub async fn claim(&self, server: ServerId, generation: u64) -> Result<(), Fault> {
        self.claim_of(server, generation, flavor()).await
    }

    pub async fn claim_of(
        &self,
        server: ServerId,
        generation: u64,
        resources: Resources,
    ) -> Result<(), Fault> {
        self.client()
            .claim_server(
                &context(),
                ClaimServerRequest {
                    server_id: server.to_string(),
                    generation,
                    resources: Some(resources),
                    project_id: "demo".into(),
                    fence: None,
                },
            )
            .await
            .map(drop)
    }

    pub async fn set(&self, desired: DesiredServer) -> Result<(), Fault> {
        self.client()
            .set_desired(
                &context(),
                SetDesiredRequest {
                    server: Some(desired),
                    fence: None,
                },
            )
            .await
            .map(drop)
    }

    pub async fn confirm(&self, server: ServerId, generation: u64) -> Result<(), Fault> {
        self.client()
            .confirm_absent(&context(), request(server, generation))
            .await
            .map(drop)
    }

    pub async fn release(&self, server: ServerId, generation: u64) -> Result<(), Fault> {
        self.client()
            .release_claim(&context(), request(server, generation))
            .await
            .map(drop)
    }

    /// What the agent says that it has, once it has looked at all of it.
    pub async fn list(&self) -> ListServersReply {
        let look = async {
            loop {
                let request = ListServersRequest {
                    page: Some(Page::default()),
                };
                match self.client().list_servers(&context(), request).await {
                    Ok(reply) => return reply,
                    Err(fault) if fault.code == FaultCode::Unavailable => {
                        tokio::task::yield_now().await
                    }
                    Err(fault) => panic!("the agent does not list its servers: {fault}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look)
            .await
            .expect("the agent never looked at all of its servers")
    }

    /// Waits until the control plane heard a state that `holds`.
    pub async fn heard(
        &self,
        server: ServerId,
        what: &str,
        holds: impl Fn(&ServerState) -> bool,
    ) -> ServerState {
        self.heard_within(server, what, Duration::from_secs(30), holds)
            .await
    }

    pub async fn heard_within(
        &self,
        server: ServerId,
        what: &str,
        bound: Duration,
        holds: impl Fn(&ServerState) -> bool,
    ) -> ServerState {
        let found = until(bound, || {
            self.api.state(server).filter(|state| holds(state))
        })
        .await;
        found.unwrap_or_else(|| {
            panic!(
                "never heard that {server} is {what}: {:?}",
                self.api.state(server)
            )
        })
    }

    /// Waits until the server reached generation and power state.
    pub async fn reached(
        &self,
        server: ServerId,
        generation: u64,
        power_state: &str,
    ) -> ServerState {
        self.heard(server, power_state, |state| {
            state.generation == generation && state.converged && state.power_state == power_state
        })
        .await
    }
}

/// Looks every few milliseconds until there is something to see.
pub async fn until<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let clock = system_env().clock;
    let start = clock.monotonic();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if clock.monotonic() - start > bound {
            return None;
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
}

fn request(server: ServerId, generation: u64) -> ServerRequest {
    ServerRequest {
        server_id: server.to_string(),
        generation,
        fence: None,
    }
}

pub fn context() -> RequestContext {
    RequestContext::internal(RequestId::from_uuid(uuid::Uuid::from_u128(1)))
}

pub fn new_server() -> ServerId {
    system_env().id()
}

pub fn flavor() -> Resources {
    Resources {
        vcpus: 1,
        memory_mib: 128,
        disk_gib: 1,
    }
}

pub fn spec() -> ServerSpec {
    ServerSpec {
        name: "web-1".into(),
        hostname: "web-1".into(),
        flavor: Some(flavor()),
        flavor_name: "m1.tiny".into(),
        image: Some(ImageSource {
            image_id: "0".into(),
            sha512: "0".repeat(128),
            disk_format: "qcow2".into(),
            ..ImageSource::default()
        }),
        ..ServerSpec::default()
    }
}

pub fn desired(server: ServerId, generation: u64, power: Power) -> DesiredServer {
    DesiredServer {
        server_id: server.to_string(),
        generation,
        power: power.into(),
        spec: (power != Power::Absent).then(spec),
        stop_timeout_seconds: 60,
        ..DesiredServer::default()
    }
}

pub fn volume(number: u8) -> VolumeConnection {
    // The serial number is the beginning of the id.
    let id = VolumeId::from_uuid(uuid::Uuid::from_u128((u128::from(number) + 1) << 96));
    let letter = char::from(b'b' + number);
    VolumeConnection {
        volume_id: id.to_string(),
        attachment_id: id.to_string(),
        nbd_socket: "/nowhere/volume.sock".into(),
        nbd_export: format!("export-{number}"),
        device: format!("vd{letter}"),
        serial: id.to_string().chars().take(20).collect(),
    }
}

/// Ids of the volumes, for comparison.
pub fn ids(volumes: &[VolumeConnection]) -> Vec<String> {
    let ids: BTreeMap<&str, ()> = volumes
        .iter()
        .map(|volume| (volume.volume_id.as_str(), ()))
        .collect();
    ids.into_keys().map(str::to_owned).collect()
}

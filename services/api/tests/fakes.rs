//! The other services, as far as the api service can tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use yakumo_contracts::api::{
    Heartbeat, HostFacts, HostReport, HostReportsClient, RegisterHostRequest, ServerState,
};
use yakumo_contracts::common::{Empty, Fence};
use yakumo_contracts::compute_host::{
    ClaimServerReply, ClaimServerRequest, ComputeHostHandler, ComputeHostServer, ConsoleLogReply,
    ConsoleLogRequest, DesiredServer, ListServersReply, ListServersRequest, Power, Resources,
    ServerReport, ServerRequest, SetDesiredRequest,
};
use yakumo_contracts::image::{
    GetImageRequest, GetImagesReply, GetImagesRequest, Image, ImagesHandler, ImagesServer,
    IssueTicketRequest, Ticket,
};
use yakumo_contracts::network::{
    AllocateServerPortsRequest, ForgetHostReply, ForgetHostRequest, HostsLiveRequest,
    ListServerAddressesReply, ListServerAddressesRequest, NetworkHostsHandler, NetworkHostsServer,
    ReleaseServerPortsReply, ResolveServerNetworksReply, ResolveServerNetworksRequest,
    ResolvedNetwork, ServerAddresses, ServerPort, ServerPortsHandler, ServerPortsReply,
    ServerPortsRequest, ServerPortsServer, ServerSecurityGroupRequest,
};
use yakumo_contracts::scheduler::{
    ChooseHostsReply, ChooseHostsRequest, HostsChanged, RankedHost, SchedulerHandler,
    SchedulerServer,
};
use yakumo_rpc::{Bus, Incoming, ServeOptions, Target, Topic};
use yakumo_types::{Env, Fault, RequestContext};

#[path = "fake_maker.rs"]
mod fake_maker;
#[path = "fake_volumes.rs"]
mod fake_volumes;

pub use fake_maker::{FakeMaker, MADE};
pub use fake_volumes::FakeVolumes;

pub const IMAGE: &str = "33333333-3333-4333-8333-333333333333";
pub const QUEUED_IMAGE: &str = "33333333-3333-4333-8333-333333333334";
pub const BIG_IMAGE: &str = "33333333-3333-4333-8333-333333333335";
pub const NETWORK: &str = "44444444-4444-4444-8444-444444444444";

/// A fault to answer with, once or for good.
#[derive(Default)]
pub struct Trouble(Mutex<HashMap<String, (Fault, u32)>>);

impl Trouble {
    /// `method` fails `times` times.
    pub fn fail(&self, method: &str, fault: Fault, times: u32) {
        self.0
            .lock()
            .unwrap()
            .insert(method.to_owned(), (fault, times));
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn check(&self, method: &str) -> Result<(), Fault> {
        let mut all = self.0.lock().unwrap();
        if let Some((fault, left)) = all.get_mut(method)
            && *left > 0
        {
            *left -= 1;
            return Err(fault.clone());
        }
        Ok(())
    }
}

/// The newest epoch of each thing that workflows change.
#[derive(Default)]
struct Epochs(Mutex<HashMap<String, u64>>);

impl Epochs {
    /// Refuses whoever was overtaken.
    fn admit(&self, of: &str, epoch: u64) -> Result<(), Fault> {
        let mut all = self.0.lock().unwrap();
        let known = all.entry(of.to_owned()).or_default();
        if epoch < *known {
            return Err(Fault::stale("A later workflow step was here."));
        }
        *known = epoch;
        Ok(())
    }

    /// The same, and what this claim sent before is refused from here on.
    fn admit_last(&self, of: &str, epoch: u64) -> Result<(), Fault> {
        if self.0.lock().unwrap().get(of) == Some(&(epoch + 1)) {
            return Ok(());
        }
        self.admit(of, epoch)?;
        self.admit(of, epoch + 1)
    }
}

fn epoch_of(fence: Option<&Fence>) -> Result<u64, Fault> {
    fence
        .map(|fence| fence.epoch)
        .ok_or_else(|| Fault::invalid("A change must say which workflow step it is for."))
}

#[derive(Default)]
pub struct FakeNetwork {
    pub trouble: Trouble,
    epochs: Epochs,
    /// Ports by server.
    pub ports: Mutex<BTreeMap<String, Vec<ServerPort>>>,
    /// Hosts that were to be forgotten.
    pub forgotten: Mutex<Vec<String>>,
    /// The hosts whose network agents were said to live last.
    pub living: Mutex<Vec<String>>,
    /// Makes networks and all the rest.
    pub maker: Arc<FakeMaker>,
    revision: AtomicU64,
}

impl FakeNetwork {
    pub async fn serve(bus: &Bus) -> Arc<Self> {
        let fake = Arc::new(Self::default());
        bus.serve(
            Topic::Control("network"),
            vec![
                Arc::new(ServerPortsHandler::new(fake.clone())),
                Arc::new(NetworkHostsHandler::new(fake.clone())),
                fake.maker.clone(),
            ],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        fake
    }
}

#[async_trait]
impl NetworkHostsServer for FakeNetwork {
    async fn hosts_live(&self, call: &Incoming, request: HostsLiveRequest) -> Result<(), Fault> {
        call.sender.require_control()?;
        *self.living.lock().unwrap() = request.hosts;
        Ok(())
    }

    async fn forget_host(
        &self,
        call: &Incoming,
        request: ForgetHostRequest,
    ) -> Result<ForgetHostReply, Fault> {
        call.sender.require_control()?;
        self.trouble.check("forget_host")?;
        if !request.check_only {
            self.forgotten.lock().unwrap().push(request.host);
        }
        Ok(ForgetHostReply { was_known: false })
    }
}

#[async_trait]
impl ServerPortsServer for FakeNetwork {
    async fn resolve_server_networks(
        &self,
        _: &Incoming,
        request: ResolveServerNetworksRequest,
    ) -> Result<ResolveServerNetworksReply, Fault> {
        self.trouble.check("resolve")?;
        let mut networks = Vec::new();
        for wanted in &request.requested {
            if wanted.network_id != NETWORK {
                return Err(Fault::not_found("Network could not be found."));
            }
            networks.push(ResolvedNetwork {
                network_id: wanted.network_id.clone(),
                fixed_ip: wanted.fixed_ip.clone(),
                label: "flat".into(),
                ..ResolvedNetwork::default()
            });
        }
        Ok(ResolveServerNetworksReply {
            networks,
            security_group_ids: vec!["55555555-5555-4555-8555-555555555555".into()],
            security_group_names: vec!["default".into()],
        })
    }

    async fn allocate_server_ports(
        &self,
        _: &Incoming,
        request: AllocateServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        self.trouble.check("allocate")?;
        let epoch = request.fence.as_ref().map_or(0, |fence| fence.epoch);
        self.epochs.admit(&request.server_id, epoch)?;
        let mut all = self.ports.lock().unwrap();
        let number = all.len();
        let ports = all.entry(request.server_id.clone()).or_insert_with(|| {
            request
                .networks
                .iter()
                .map(|network| ServerPort {
                    port_id: request.server_id.clone(),
                    network_id: network.network_id.clone(),
                    mac_address: "fa:16:3e:00:00:01".into(),
                    tap: "tap0".into(),
                    mtu: 1500,
                    addresses: vec![format!("10.0.0.{}/24", number + 2)],
                    network_label: network.label.clone(),
                    ..ServerPort::default()
                })
                .collect()
        });
        Ok(ServerPortsReply {
            ports: ports.clone(),
        })
    }

    async fn wire_server_ports(
        &self,
        _: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        self.trouble.check("wire")?;
        let all = self.ports.lock().unwrap();
        Ok(ServerPortsReply {
            ports: all.get(&request.server_id).cloned().unwrap_or_default(),
        })
    }

    async fn release_server_ports(
        &self,
        _: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ReleaseServerPortsReply, Fault> {
        self.trouble.check("release")?;
        // Only the reconciler of a server that is gone comes without a fence.
        if let Some(fence) = &request.fence {
            self.epochs.admit(&request.server_id, fence.epoch)?;
        }
        self.ports.lock().unwrap().remove(&request.server_id);
        Ok(ReleaseServerPortsReply { confirmed: true })
    }

    async fn add_server_security_group(
        &self,
        _: &Incoming,
        request: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(ServerAddresses {
            server_id: request.server_id,
            project_id: request.project_id,
            revision,
            addresses_json: r#"{"flat":[{"addr":"10.0.0.2","version":4,"mac":"fa:16:3e:00:00:01","type":"fixed"}]}"#.into(),
            security_groups: vec!["default".into(), request.security_group],
            host: String::new(),
        })
    }

    async fn remove_server_security_group(
        &self,
        call: &Incoming,
        request: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        let mut reply = self.add_server_security_group(call, request).await?;
        reply.security_groups.pop();
        Ok(reply)
    }

    async fn list_server_addresses(
        &self,
        _: &Incoming,
        _: ListServerAddressesRequest,
    ) -> Result<ListServerAddressesReply, Fault> {
        Ok(ListServerAddressesReply::default())
    }
}

#[derive(Default)]
pub struct FakeImages {
    pub trouble: Trouble,
    /// Whoever holds it for writing holds back those who ask for an image.
    pub gate: tokio::sync::RwLock<()>,
    /// How often an image was asked for.
    pub asked: AtomicU64,
}

impl FakeImages {
    pub async fn serve(bus: &Bus) -> Arc<Self> {
        let fake = Arc::new(Self::default());
        bus.serve(
            Topic::Control("image"),
            vec![Arc::new(ImagesHandler::new(fake.clone()))],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        fake
    }
}

#[async_trait]
impl ImagesServer for FakeImages {
    async fn get_image(&self, _: &Incoming, request: GetImageRequest) -> Result<Image, Fault> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.read().await;
        self.trouble.check("get")?;
        let status = match request.image_id.as_str() {
            IMAGE | BIG_IMAGE => "active",
            QUEUED_IMAGE => "queued",
            _ => return Err(Fault::not_found("Image could not be found.")),
        };
        Ok(Image {
            virtual_size: (request.image_id == BIG_IMAGE).then_some(5 << 30),
            id: request.image_id,
            status: status.into(),
            disk_format: "qcow2".into(),
            size: Some(1 << 20),
            ..Image::default()
        })
    }

    async fn get_images(&self, _: &Incoming, _: GetImagesRequest) -> Result<GetImagesReply, Fault> {
        Ok(GetImagesReply::default())
    }

    async fn issue_ticket(&self, _: &Incoming, _: IssueTicketRequest) -> Result<Ticket, Fault> {
        self.trouble.check("ticket")?;
        Ok(Ticket {
            endpoint: "http://127.0.0.1:9293".into(),
            ticket: "ticket".into(),
            size: 1 << 20,
            sha512: "00".repeat(64),
            disk_format: "qcow2".into(),
            ..Ticket::default()
        })
    }
}

#[derive(Default)]
pub struct FakeScheduler {
    pub trouble: Trouble,
    hosts: Mutex<Vec<String>>,
    pub told: Mutex<HashMap<String, yakumo_contracts::scheduler::HostChanged>>,
}

impl FakeScheduler {
    pub async fn serve(bus: &Bus) -> Arc<Self> {
        let fake = Arc::new(Self::default());
        bus.serve(
            Topic::Control("scheduler"),
            vec![Arc::new(SchedulerHandler::new(fake.clone()))],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        fake
    }

    pub fn add(&self, host: &str) {
        self.hosts.lock().unwrap().push(host.to_owned());
    }
}

#[async_trait]
impl SchedulerServer for FakeScheduler {
    async fn choose_hosts(
        &self,
        _: &Incoming,
        request: ChooseHostsRequest,
    ) -> Result<ChooseHostsReply, Fault> {
        self.trouble.check("choose")?;
        let hosts: Vec<_> = self
            .hosts
            .lock()
            .unwrap()
            .iter()
            .filter(|host| !request.excluded_hosts.contains(host))
            .filter(|host| request.forced_host.is_empty() || request.forced_host == **host)
            .map(|host| RankedHost {
                host: host.clone(),
                score: 1.0,
                availability_zone: "nova".into(),
            })
            .collect();
        if hosts.is_empty() {
            return Err(
                Fault::no_valid_host("No valid host was found. Of 0 hosts, none.")
                    .with_details(serde_json::json!({ "filters": [] })),
            );
        }
        Ok(ChooseHostsReply {
            hosts,
            ..ChooseHostsReply::default()
        })
    }

    async fn hosts_reported(&self, _: &Incoming, request: HostsChanged) -> Result<(), Fault> {
        let mut told = self.told.lock().unwrap();
        for change in request.hosts {
            if let Some(host) = &change.host {
                told.insert(host.host.clone(), change.clone());
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
struct Record {
    claim: Option<u64>,
    desired: Option<DesiredServer>,
    power: String,
    reboots: u64,
    /// The volumes that the guest has.
    volumes: BTreeSet<String>,
}

fn volumes_of(desired: &DesiredServer) -> BTreeSet<String> {
    let spec = desired.spec.as_ref();
    spec.map_or(&[][..], |spec| &spec.volumes)
        .iter()
        .map(|volume| volume.volume_id.clone())
        .collect()
}

/// Whether two desired states of one generation mean the same.
fn same_wish(one: &DesiredServer, other: &DesiredServer) -> bool {
    one.power == other.power
        && one.reboot_count == other.reboot_count
        && volumes_of(one) == volumes_of(other)
}

/// A compute host that converges at once.
pub struct FakeHost {
    pub name: String,
    pub host_id: String,
    pub trouble: Trouble,
    /// While this is set the host takes orders and does nothing.
    pub frozen: AtomicBool,
    /// What changes power ends in this complaint.
    pub complaint: Mutex<Option<String>>,
    /// What changes the volumes of a guest that runs ends in this complaint.
    pub volume_complaint: Mutex<Option<String>>,
    /// By server and workflow.
    epochs: Epochs,
    env: Env,
    records: Mutex<BTreeMap<String, Record>>,
    /// Generations whose claims were given back: they are no good any more.
    floors: Mutex<HashMap<String, u64>>,
    reports: HostReportsClient,
    incarnation: AtomicU64,
    sequence: AtomicU64,
    reporting: tokio::sync::Mutex<()>,
    me: std::sync::Weak<FakeHost>,
}

impl FakeHost {
    pub async fn serve(bus: &Bus, env: &Env, name: &str) -> Arc<Self> {
        let bus = bus.as_host(name);
        let host_id = env.rng.uuid().to_string();
        let fake = Arc::new_cyclic(|me| Self {
            name: name.to_owned(),
            host_id,
            trouble: Trouble::default(),
            frozen: AtomicBool::new(false),
            complaint: Mutex::default(),
            volume_complaint: Mutex::default(),
            epochs: Epochs::default(),
            env: env.clone(),
            records: Mutex::default(),
            floors: Mutex::default(),
            reports: HostReportsClient::new(bus.clone(), Target::service("api")),
            incarnation: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            reporting: tokio::sync::Mutex::default(),
            me: me.clone(),
        });
        bus.serve(
            Topic::Host(name.to_owned()),
            vec![Arc::new(ComputeHostHandler::new(fake.clone()))],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        fake.register().await.unwrap();
        fake
    }

    fn context(&self) -> RequestContext {
        RequestContext::host(self.env.id())
    }

    pub async fn register(&self) -> Result<(), Fault> {
        let request = RegisterHostRequest {
            facts: Some(HostFacts {
                host: self.name.clone(),
                host_id: self.host_id.clone(),
                vcpus: 8,
                memory_mib: 16_384,
                disk_gib: 100,
                hypervisor_type: "fake".into(),
                driver: "fake".into(),
                ..HostFacts::default()
            }),
        };
        let reply = self.reports.register(&self.context(), request).await?;
        self.incarnation.store(reply.incarnation, Ordering::SeqCst);
        self.sequence.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Gives a sign of life, which nobody answers.
    pub async fn beat(&self, report: HostReport) {
        let beat = Heartbeat {
            report: Some(report),
        };
        self.reports.beat(&self.context(), beat).await.unwrap();
    }

    pub fn report_of(&self, servers: Vec<ServerState>) -> HostReport {
        HostReport {
            host: self.name.clone(),
            host_id: self.host_id.clone(),
            incarnation: self.incarnation.load(Ordering::SeqCst),
            sequence: self.sequence.fetch_add(1, Ordering::SeqCst) + 1,
            claimed_vcpus: u32::try_from(self.records.lock().unwrap().len()).unwrap(),
            servers,
            ..HostReport::default()
        }
    }

    pub async fn send(
        &self,
        report: HostReport,
    ) -> Result<yakumo_contracts::api::HostReportReply, Fault> {
        self.reports.report(&self.context(), report).await
    }

    /// The guest does something by itself.
    pub async fn observe(&self, server: &str, power: &str) {
        if let Some(record) = self.records.lock().unwrap().get_mut(server) {
            record.power = power.to_owned();
        }
        self.report(server).await;
    }

    fn state(&self, server: &str) -> Option<ServerState> {
        let records = self.records.lock().unwrap();
        let record = records.get(server)?;
        let desired = record.desired.as_ref()?;
        let mut complaint = self.complaint.lock().unwrap().clone();
        if complaint.is_none() && record.volumes != volumes_of(desired) {
            complaint = self.volume_complaint.lock().unwrap().clone();
        }
        let failed = complaint.is_some() && desired.power() != Power::Absent;
        Some(ServerState {
            server_id: server.to_owned(),
            generation: desired.generation,
            converged: !failed,
            power_state: record.power.clone(),
            fault: complaint.filter(|_| failed).unwrap_or_default(),
            fault_is_final: failed,
            reboot_count: record.reboots,
            attached_volume_ids: record.volumes.iter().cloned().collect(),
            ..ServerState::default()
        })
    }

    /// One at a time and until it is heard, as hosts do: a report that is
    /// overtaken by a later one is old.
    pub async fn report(&self, server: &str) {
        let _turn = self.reporting.lock().await;
        for _ in 0..20 {
            let Some(state) = self.state(server) else {
                return;
            };
            let report = self.report_of(vec![state]);
            if self.send(report).await.is_ok() {
                return;
            }
            self.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    fn converge(&self, server: &str) {
        if self.frozen.load(Ordering::SeqCst) {
            return;
        }
        {
            let mut records = self.records.lock().unwrap();
            let Some(record) = records.get_mut(server) else {
                return;
            };
            let Some(desired) = &record.desired else {
                return;
            };
            let absent = matches!(desired.power(), Power::Absent | Power::Unspecified);
            // Power comes first, volumes come last.
            if absent || self.complaint.lock().unwrap().is_none() {
                record.reboots = record.reboots.max(desired.reboot_count);
                record.power = match desired.power() {
                    Power::Running => "running",
                    Power::Stopped => "shutdown",
                    Power::Paused => "paused",
                    Power::Absent | Power::Unspecified => {
                        record.claim = None;
                        "nostate"
                    }
                }
                .to_owned();
                if absent || self.volume_complaint.lock().unwrap().is_none() {
                    record.volumes = volumes_of(desired);
                }
            }
        }
        let (me, server) = (self.me.clone(), server.to_owned());
        tokio::spawn(async move {
            if let Some(me) = me.upgrade() {
                me.report(&server).await;
            }
        });
    }

    /// Goes on after having been frozen.
    pub fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        let all: Vec<String> = self.records.lock().unwrap().keys().cloned().collect();
        for server in all {
            self.converge(&server);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.records.lock().unwrap().is_empty()
    }

    pub fn left(&self) -> String {
        format!("{:?}", self.records.lock().unwrap())
    }

    pub fn has(&self, server: &str) -> bool {
        self.records.lock().unwrap().contains_key(server)
    }

    /// The volumes that the guest has.
    pub fn volumes(&self, server: &str) -> BTreeSet<String> {
        let records = self.records.lock().unwrap();
        records
            .get(server)
            .map(|record| record.volumes.clone())
            .unwrap_or_default()
    }

    /// Whether any guest has this volume.
    pub fn guest_has(&self, volume: &str) -> bool {
        let records = self.records.lock().unwrap();
        records
            .values()
            .any(|record| record.volumes.contains(volume))
    }

    /// A workflow that was overtaken is refused; the control plane's
    /// reconcilers come without a fence.
    fn pass(&self, server: &str, fence: Option<&Fence>) -> Result<(), Fault> {
        match fence {
            Some(fence) => self
                .epochs
                .admit(&format!("{server} {}", fence.workflow_id), fence.epoch),
            None => Ok(()),
        }
    }

    pub fn desired(&self, server: &str) -> Option<DesiredServer> {
        self.records.lock().unwrap().get(server)?.desired.clone()
    }

    /// Loses everything, as a host with a new disk would.
    pub fn forget_everything(&self) {
        self.records.lock().unwrap().clear();
    }

    /// Something is here that the control plane knows nothing of.
    pub fn plant(&self, server: &str) {
        self.records.lock().unwrap().insert(
            server.to_owned(),
            Record {
                claim: Some(1),
                desired: Some(DesiredServer {
                    server_id: server.to_owned(),
                    generation: 1,
                    power: Power::Running.into(),
                    ..DesiredServer::default()
                }),
                power: "running".into(),
                reboots: 0,
                volumes: BTreeSet::new(),
            },
        );
    }
}

#[async_trait]
impl ComputeHostServer for FakeHost {
    async fn claim_server(
        &self,
        _: &Incoming,
        request: ClaimServerRequest,
    ) -> Result<ClaimServerReply, Fault> {
        self.trouble.check("claim")?;
        self.pass(&request.server_id, request.fence.as_ref())?;
        {
            let floors = self.floors.lock().unwrap();
            let floor = floors.get(&request.server_id).copied().unwrap_or(0);
            if request.generation <= floor {
                return Err(Fault::stale("That claim was given back."));
            }
            let mut records = self.records.lock().unwrap();
            records.entry(request.server_id).or_default().claim = Some(request.generation);
        }
        // The claim holds, and its answer is lost on the way.
        self.trouble.check("claim_answer")?;
        Ok(ClaimServerReply {
            total: Some(Resources::default()),
            claimed: Some(Resources::default()),
        })
    }

    async fn release_claim(&self, _: &Incoming, request: ServerRequest) -> Result<Empty, Fault> {
        self.trouble.check("release_claim")?;
        self.pass(&request.server_id, request.fence.as_ref())?;
        let mut records = self.records.lock().unwrap();
        if let Some(record) = records.get_mut(&request.server_id) {
            match &record.desired {
                None => {
                    records.remove(&request.server_id);
                    let mut floors = self.floors.lock().unwrap();
                    floors.insert(request.server_id, request.generation);
                }
                Some(desired) if desired.power() == Power::Absent => {}
                Some(_) => return Err(Fault::conflict("The server is on this host.")),
            }
        }
        Ok(Empty {})
    }

    async fn set_desired(&self, _: &Incoming, request: SetDesiredRequest) -> Result<Empty, Fault> {
        self.trouble.check("set_desired")?;
        let desired = request.server.unwrap();
        let server = desired.server_id.clone();
        self.pass(&server, request.fence.as_ref())?;
        {
            let mut records = self.records.lock().unwrap();
            let record = records.entry(server.clone()).or_default();
            let known = record
                .desired
                .as_ref()
                .map_or(0, |desired| desired.generation);
            if desired.generation < known {
                return Err(Fault::stale("overtaken"));
            }
            if let Some(mine) = &record.desired
                && mine.generation == desired.generation
                && !same_wish(mine, &desired)
            {
                return Err(Fault::conflict(
                    "The same generation asked for something else before.",
                ));
            }
            if desired.power() != Power::Absent && record.claim.is_none() {
                records.remove(&server);
                return Err(Fault::conflict("The server has no claim on this host."));
            }
            record.desired = Some(desired);
        }
        self.converge(&server);
        // It is taken, and the answer is lost on the way.
        self.trouble.check("set_desired_answer")?;
        Ok(Empty {})
    }

    async fn confirm_absent(&self, _: &Incoming, request: ServerRequest) -> Result<Empty, Fault> {
        self.trouble.check("confirm")?;
        self.pass(&request.server_id, request.fence.as_ref())?;
        let mut records = self.records.lock().unwrap();
        if let Some(record) = records.get(&request.server_id) {
            let absent = record
                .desired
                .as_ref()
                .is_none_or(|desired| desired.power() == Power::Absent);
            if !absent {
                return Err(Fault::conflict("The server is not removed yet."));
            }
            records.remove(&request.server_id);
        }
        Ok(Empty {})
    }

    async fn get_console_log(
        &self,
        _: &Incoming,
        request: ConsoleLogRequest,
    ) -> Result<ConsoleLogReply, Fault> {
        Ok(ConsoleLogReply {
            output: format!("{} lines of {}", request.lines, request.server_id),
        })
    }

    async fn list_servers(
        &self,
        _: &Incoming,
        _: ListServersRequest,
    ) -> Result<ListServersReply, Fault> {
        let records = self.records.lock().unwrap().clone();
        let mut reply = ListServersReply::default();
        for (server, record) in records {
            match (&record.desired, self.state(&server)) {
                (Some(_), Some(state)) => reply.servers.push(ServerReport {
                    server_id: server,
                    generation: state.generation,
                    converged: state.converged,
                    power_state: state.power_state,
                    ..ServerReport::default()
                }),
                _ => reply.claims.push(server),
            }
        }
        Ok(reply)
    }
}

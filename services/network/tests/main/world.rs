//! A network service on a bus in this process, with a fake api service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;
use yakumo_contracts::api::{
    ApiHandler, ApiServer, Heartbeat, HostReport, HostReportReply, HostReportsHandler,
    HostReportsServer, MetadataReply, MetadataRequest, RegisterHostReply, RegisterHostRequest,
    ServerProjection, SnapshotReply, SnapshotRequest,
};
use yakumo_contracts::network::{
    AllocateServerPortsRequest, AnnounceRequest, CreateNetworksRequest,
    CreateSecurityGroupRulesRequest, CreateSubnetsRequest, Filter, HostState, HostStatesClient,
    ListRequest, Network, NetworksClient, NewNetwork, NewSubnet, PullStateRequest,
    ReportAppliedRequest, ResolvedNetwork, SecurityGroupRule, ServerPort, ServerPortsClient,
    ServerPortsRequest, Subnet,
};
use yakumo_db::Backend;
use yakumo_network::{Config, start_manager};
use yakumo_rpc::{Bus, Handler, Incoming, ServeOptions, Target, Topic};
use yakumo_service::{Process, system_env};
use yakumo_testing::databases::{TestDatabase, fresh};
use yakumo_types::{ContextSeal, Env, Fault, ProjectId, RequestContext, RequestId, ServerId};

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

/// Remembers projections, and answers metadata requests with what it was asked.
#[derive(Default)]
pub struct FakeApi {
    projections: Mutex<HashMap<String, ServerProjection>>,
}

impl FakeApi {
    /// The newest projection of a server.
    pub fn projection(&self, server: &str) -> Option<ServerProjection> {
        self.projections.lock().unwrap().get(server).cloned()
    }
}

#[async_trait]
impl HostReportsServer for FakeApi {
    async fn register(
        &self,
        _: &Incoming,
        _: RegisterHostRequest,
    ) -> Result<RegisterHostReply, Fault> {
        Ok(RegisterHostReply::default())
    }

    async fn report(&self, _: &Incoming, _: HostReport) -> Result<HostReportReply, Fault> {
        Ok(HostReportReply::default())
    }

    async fn beat(&self, _: &Incoming, _: Heartbeat) -> Result<(), Fault> {
        Ok(())
    }

    async fn get_metadata(
        &self,
        call: &Incoming,
        request: MetadataRequest,
    ) -> Result<MetadataReply, Fault> {
        if request.path.ends_with("/missing") {
            return Err(Fault::not_found("There is no such thing."));
        }
        Ok(MetadataReply {
            status: 200,
            content_type: "text/plain".into(),
            body: format!(
                "{} {} {} {} {}",
                call.sender, request.server_id, request.project_id, request.port_id, request.path
            )
            .into_bytes(),
        })
    }
}

#[async_trait]
impl ApiServer for FakeApi {
    async fn snapshot(&self, _: &Incoming, _: SnapshotRequest) -> Result<SnapshotReply, Fault> {
        Ok(SnapshotReply::default())
    }

    async fn project_server(&self, _: &Incoming, request: ServerProjection) -> Result<(), Fault> {
        let mut projections = self.projections.lock().unwrap();
        let known = projections
            .get(&request.server_id)
            .map_or(0, |known| known.revision);
        if request.revision >= known {
            projections.insert(request.server_id.clone(), request);
        }
        Ok(())
    }
}

/// The world of one test.
pub struct World {
    pub env: Env,
    pub process: Process,
    pub bus: Bus,
    pub api: Arc<FakeApi>,
    pub networks: NetworksClient,
    pub ports: ServerPortsClient,
    pub database: TestDatabase,
}

impl World {
    /// On SQLite, with defaults.
    pub async fn new() -> Self {
        Self::with(Backend::Sqlite, Config::default()).await
    }

    pub async fn with(backend: Backend, mut config: Config) -> Self {
        let env = system_env();
        let process = Process::new("network", env.clone());
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let database = fresh(backend).await.unwrap();
        config.manager.database = database.config.clone();
        let api = Arc::new(FakeApi::default());
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(HostReportsHandler::new(Arc::clone(&api))),
            Arc::new(ApiHandler::new(Arc::clone(&api))),
        ];
        bus.serve(Topic::Control("api"), handlers, ServeOptions::default())
            .await
            .unwrap();
        start_manager(process.clone(), bus.clone(), config)
            .await
            .unwrap();
        Self {
            networks: NetworksClient::new(bus.clone(), Target::service("network")),
            ports: ServerPortsClient::new(bus.clone(), Target::service("network")),
            env,
            process,
            bus,
            api,
            database,
        }
    }

    /// A host that says what it is told to.
    pub async fn host(&self, name: &str) -> FakeHost {
        self.host_that(name, true).await
    }

    /// A host whose agent takes changes of groups by themselves, or one of the
    /// release before.
    pub async fn host_that(&self, name: &str, follows_groups: bool) -> FakeHost {
        let host = self.known_host(name);
        host.client
            .announce(
                &host.ctx,
                AnnounceRequest {
                    host: name.into(),
                    host_id: self.env.rng.uuid().to_string(),
                    driver: "real".into(),
                    started_at: 1,
                    applied_revision: 0,
                    availability_zone: "nova".into(),
                    follows_groups,
                    ..AnnounceRequest::default()
                },
            )
            .await
            .unwrap();
        host
    }

    /// A host that has said who it is.
    pub fn known_host(&self, name: &str) -> FakeHost {
        FakeHost {
            name: name.into(),
            ctx: RequestContext::host(self.env.id()),
            client: HostStatesClient::new(self.bus.as_host(name), Target::service("network")),
        }
    }

    pub fn internal(&self) -> RequestContext {
        RequestContext::internal(self.env.id())
    }

    /// A network with one subnet, made by an administrator and shared.
    pub async fn shared_network(&self, name: &str, cidr: &str) -> (Network, Subnet) {
        self.shared_network_on("", name, cidr).await
    }

    /// The same, carried by a physical network; the usual one, if that is free,
    /// where none is named.
    pub async fn shared_network_on(
        &self,
        physical: &str,
        name: &str,
        cidr: &str,
    ) -> (Network, Subnet) {
        let admin = admin();
        let network = self
            .networks
            .create_networks(
                &admin,
                CreateNetworksRequest {
                    networks: vec![NewNetwork {
                        name: name.into(),
                        shared: Some(true),
                        provider_physical_network: physical.into(),
                        ..NewNetwork::default()
                    }],
                    ..Default::default()
                },
            )
            .await
            .unwrap()
            .networks
            .remove(0);
        let subnet = self
            .subnet(&admin, new_subnet(&network.id, cidr))
            .await
            .unwrap();
        (network, subnet)
    }

    /// An external network for floating IPs.
    pub async fn external_network(&self, cidr: &str) -> Network {
        let admin = admin();
        let network = self
            .networks
            .create_networks(
                &admin,
                CreateNetworksRequest {
                    networks: vec![NewNetwork {
                        name: "public".into(),
                        router_external: Some(true),
                        ..NewNetwork::default()
                    }],
                    ..Default::default()
                },
            )
            .await
            .unwrap()
            .networks
            .remove(0);
        let subnet = NewSubnet {
            enable_dhcp: Some(false),
            ..new_subnet(&network.id, cidr)
        };
        self.subnet(&admin, subnet).await.unwrap();
        network
    }

    pub async fn own_network(&self, ctx: &RequestContext, name: &str) -> Network {
        self.networks
            .create_networks(
                ctx,
                CreateNetworksRequest {
                    networks: vec![NewNetwork {
                        name: name.into(),
                        ..NewNetwork::default()
                    }],
                    ..Default::default()
                },
            )
            .await
            .unwrap()
            .networks
            .remove(0)
    }

    pub async fn subnet(&self, ctx: &RequestContext, subnet: NewSubnet) -> Result<Subnet, Fault> {
        let request = CreateSubnetsRequest {
            subnets: vec![subnet],
            ..Default::default()
        };
        Ok(self
            .networks
            .create_subnets(ctx, request)
            .await?
            .subnets
            .remove(0))
    }

    /// The default group of the caller's project.
    pub async fn default_group(&self, ctx: &RequestContext) -> String {
        let reply = self
            .networks
            .list_security_groups(ctx, filtered("name", "default"))
            .await
            .unwrap();
        let project = ctx.project_id.unwrap().to_string();
        reply
            .security_groups
            .into_iter()
            .find(|group| group.project_id == project)
            .unwrap()
            .id
    }

    /// Opens a group; returns the rule's id.
    pub async fn open(
        &self,
        ctx: &RequestContext,
        group: &str,
        protocol: &str,
        port: Option<i32>,
    ) -> String {
        let request = CreateSecurityGroupRulesRequest {
            security_group_rules: vec![rule(group, protocol, port)],
            ..Default::default()
        };
        self.networks
            .create_security_group_rules(ctx, request)
            .await
            .unwrap()
            .security_group_rules
            .remove(0)
            .id
    }

    /// Makes the ports of a new server on one network.
    pub async fn allocate(
        &self,
        ctx: &RequestContext,
        network: &str,
        host: &str,
    ) -> Result<(String, Vec<ServerPort>), Fault> {
        let group = self.default_group(ctx).await;
        let server = self.env.id::<ServerId>().to_string();
        let reply = self
            .ports
            .allocate_server_ports(
                &self.internal(),
                AllocateServerPortsRequest {
                    server_id: server.clone(),
                    project_id: ctx.project_id.unwrap().to_string(),
                    host: host.into(),
                    hostname: "guest".into(),
                    networks: vec![ResolvedNetwork {
                        network_id: network.into(),
                        ..ResolvedNetwork::default()
                    }],
                    security_group_ids: vec![group],
                    ..AllocateServerPortsRequest::default()
                },
            )
            .await?;
        Ok((server, reply.ports))
    }

    pub async fn release(&self, server: &str) -> Result<bool, Fault> {
        let request = ServerPortsRequest {
            server_id: server.into(),
            fence: None,
        };
        Ok(self
            .ports
            .release_server_ports(&self.internal(), request)
            .await?
            .confirmed)
    }

    /// Waits for a condition.
    pub async fn wait_for(
        &self,
        what: &str,
        bound: Duration,
        mut condition: impl AsyncFnMut() -> bool,
    ) {
        let end = self.env.clock.monotonic() + bound;
        while !condition().await {
            assert!(
                self.env.clock.monotonic() < end,
                "waited in vain for {what}"
            );
            self.env.clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A host without an agent: the test speaks for it.
pub struct FakeHost {
    pub name: String,
    pub ctx: RequestContext,
    pub client: HostStatesClient,
}

impl FakeHost {
    pub async fn pull(&self) -> HostState {
        let request = PullStateRequest {
            host: self.name.clone(),
            ..PullStateRequest::default()
        };
        let reply = self.client.pull_state(&self.ctx, request).await.unwrap();
        assert_eq!(reply.total_bytes, reply.chunk.len() as u64);
        prost::Message::decode(reply.chunk.as_slice()).unwrap()
    }

    /// Says that everything up to now is real.
    pub async fn apply(&self) -> HostState {
        let state = self.pull().await;
        self.client
            .report_applied(
                &self.ctx,
                ReportAppliedRequest {
                    host: self.name.clone(),
                    revision: state.revision,
                    wired_port_ids: state.ports.iter().map(|port| port.id.clone()).collect(),
                },
            )
            .await
            .unwrap();
        state
    }
}

fn context(project: u128, role: &str) -> RequestContext {
    RequestContext {
        project_id: Some(ProjectId::from_uuid(Uuid::from_u128(project))),
        roles: vec![role.into()],
        ..RequestContext::host(RequestId::from_uuid(Uuid::from_u128(1)))
    }
}

/// A member of a project of this number.
pub fn member(project: u128) -> RequestContext {
    context(project, "member")
}

/// A reader of a project of this number.
pub fn reader(project: u128) -> RequestContext {
    context(project, "reader")
}

/// An administrator, with a project of their own.
pub fn admin() -> RequestContext {
    context(0xad, "admin")
}

pub fn new_subnet(network: &str, cidr: &str) -> NewSubnet {
    NewSubnet {
        network_id: network.into(),
        cidr: cidr.into(),
        ip_version: 4,
        ..NewSubnet::default()
    }
}

/// An ingress rule.
pub fn rule(group: &str, protocol: &str, port: Option<i32>) -> SecurityGroupRule {
    SecurityGroupRule {
        security_group_id: group.into(),
        direction: "ingress".into(),
        ethertype: "IPv4".into(),
        protocol: protocol.into(),
        port_range_min: port,
        port_range_max: port,
        ..SecurityGroupRule::default()
    }
}

pub fn filtered(key: &str, value: &str) -> ListRequest {
    ListRequest {
        filters: vec![Filter {
            key: key.into(),
            values: vec![value.into()],
        }],
        ..ListRequest::default()
    }
}

/// The API's name for what went wrong.
pub fn kind(fault: &Fault) -> &str {
    fault.type_name().unwrap_or("")
}

/// A bus that nobody serves.
pub fn lonely_bus(env: &Env) -> Bus {
    Bus::in_process(env.clone(), Arc::new(NoSeal))
}

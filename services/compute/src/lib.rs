//! The compute agent: makes the servers of a host be as the control plane
//! wants them, and says what they are.
//!
//! The control plane owns intent; the host owns reality. The agent has no
//! database and no credentials for one. It is sent the *desired state* of a
//! server with a generation, writes it to its own disk, and converges on it:
//! after its own crash, after libvirtd's, after a reboot of the host. A server
//! that is to vanish leaves a tombstone until the control plane confirms that
//! it saw it go, so that no late message brings it back.
//!
//! Rooms: [`decision`] is the pure core; `agent` carries out, with one owner
//! task for each server; [`claims`] holds what is promised; [`store`] is the
//! disk; [`drivers`] carry the guests; `rpc` is the door.

mod agent;
pub mod claims;
mod config;
pub mod decision;
pub mod drivers;
mod rpc;
pub mod store;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt;
use futures::future::BoxFuture;
use yakumo_contracts::compute_host::ComputeHostHandler;
use yakumo_rpc::{Bus, Handler, Principal};
use yakumo_service::Process;
use yakumo_types::{Env, HostId};

pub use agent::{Agent, AgentParts, Reports};
pub use config::{
    Config, Connections, DriverKind, ImagesConfig, LibvirtConfig, SimulatedConfig, VirtType,
};

use drivers::Hypervisor;
use drivers::simulated::SimulatedHypervisor;
use rpc::ComputeHostService;
use store::Durability;

/// One running host: its name, and what serves its topic.
pub struct StartedHost {
    /// The host's name; its topic is `Topic::Host(name)`.
    pub name: String,
    /// Serves the contract `ComputeHost`. A process serves a topic once, for
    /// all its roles, so it gathers this with the handlers of the others.
    pub handler: Arc<dyn Handler>,
    /// The agent itself.
    pub agent: Agent,
    /// Speaks as the host.
    pub bus: Bus,
}

/// Where the hosts of a process get a bus.
pub struct Buses {
    /// The process's own.
    pub own: Bus,
    /// Makes a further connection.
    pub more: Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<Bus>> + Send + Sync>,
}

impl Buses {
    /// All hosts over one connection.
    pub fn one(own: Bus) -> Self {
        let shared = own.clone();
        let more = move || std::future::ready(Ok(shared.clone())).boxed();
        Self {
            own,
            more: Box::new(more),
        }
    }
}

/// What [`start`] brought up.
#[derive(Default)]
pub struct Started {
    /// Every host of this process: one, unless they are simulated.
    pub hosts: Vec<StartedHost>,
}

impl Started {
    /// Serves every host's topic with the compute agent alone: for processes
    /// in which the host has no other role.
    pub async fn serve(&self) -> Result<Vec<yakumo_rpc::Server>, yakumo_rpc::RpcError> {
        let mut servers = Vec::with_capacity(self.hosts.len());
        for host in &self.hosts {
            let server = host
                .bus
                .serve(
                    yakumo_rpc::Topic::Host(host.name.clone()),
                    vec![Arc::clone(&host.handler)],
                    yakumo_rpc::ServeOptions::default(),
                )
                .await?;
            servers.push(server);
        }
        Ok(servers)
    }
}

/// Starts the agents of this process's hosts and returns once they have taken
/// up their servers. They take messages once the caller serves their topics with
/// the handlers in [`Started`].
pub fn start(
    process: Process,
    buses: Buses,
    config: Config,
    reports: Reports,
) -> BoxFuture<'static, anyhow::Result<Started>> {
    async move {
        config.check()?;
        if !config.enabled {
            return Ok(Started::default());
        }
        let own = host_name(&config)?;
        match config.driver {
            DriverKind::Simulated => start_simulated(process, buses, config, own, reports).await,
            DriverKind::Libvirt => start_libvirt(process, buses.own, config, own, reports).await,
        }
    }
    .boxed()
}

/// The host's name: the configured one, or the machine's.
pub fn host_name(config: &Config) -> anyhow::Result<String> {
    if !config.host.is_empty() {
        return Ok(config.host.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("reading the machine's host name")?;
    let name = name.trim();
    anyhow::ensure!(
        !name.is_empty(),
        "the machine has no host name: set compute.host"
    );
    Ok(name.to_owned())
}

/// The own id of the one host of this configuration: made and kept when it is
/// asked for first. Blocks.
///
/// # Errors
/// A configuration of several simulated hosts, and a folder that cannot be
/// written.
pub fn host_id(config: &Config, env: &Env) -> anyhow::Result<HostId> {
    let own = host_name(config)?;
    let (root, durability) = match config.driver {
        DriverKind::Libvirt => (root(config), Durability::Flushed),
        DriverKind::Simulated => {
            let names = config.simulated.names(&own);
            anyhow::ensure!(
                names.len() == 1,
                "compute.simulated has {} hosts, each of which would need a name of its own",
                names.len()
            );
            (
                root(config).join("simulated").join(&own),
                Durability::Cached,
            )
        }
    };
    let (store, _) = store::Store::open(&root, durability)?;
    Ok(store.host_id(env)?)
}

/// The handle that speaks as the host. A process of the control plane (the
/// embedded cloud) steps down to it; a host's own process is it already.
fn host_bus(bus: &Bus, name: &str) -> Bus {
    match bus.principal() {
        Principal::Host(host) if host == name => bus.clone(),
        Principal::Host(_) | Principal::Control => bus.as_host(name),
    }
}

fn started_host(agent: Agent, bus: Bus) -> StartedHost {
    let service = Arc::new(ComputeHostService::new(agent.clone()));
    StartedHost {
        name: agent.name().to_owned(),
        handler: Arc::new(ComputeHostHandler::new(service)),
        agent,
        bus,
    }
}

async fn start_simulated(
    process: Process,
    buses: Buses,
    config: Config,
    own: String,
    reports: Reports,
) -> anyhow::Result<Started> {
    let names = config.simulated.names(&own);
    let durability = if config.simulated.flush {
        Durability::Flushed
    } else {
        Durability::Cached
    };
    let root = config.data_dir.join("compute").join("simulated");
    let config = Arc::new(config);
    let mut started = Started::default();
    for (number, name) in names.into_iter().enumerate() {
        let hypervisor: Arc<dyn Hypervisor> = Arc::new(SimulatedHypervisor::new(
            process.env.clone(),
            config.simulated.clone(),
        ));
        let bus = match config.simulated.connections {
            Connections::Shared => buses.own.clone(),
            Connections::Each => (buses.more)().await?,
        };
        let bus = host_bus(&bus, &name);
        let agent = Agent::start(AgentParts {
            process: process.clone(),
            bus: bus.clone(),
            config: Arc::clone(&config),
            root: root.join(&name),
            name,
            durability,
            hypervisor,
            // Of those that share a connection, one is enough.
            proves_hearing: number == 0 || config.simulated.connections == Connections::Each,
            reports,
        })
        .await?;
        started.hosts.push(started_host(agent, bus));
    }
    Ok(started)
}

/// Starts one host by a hypervisor that the caller made: for tests, which
/// keep it over a restart of the agent.
pub async fn start_with(
    process: Process,
    bus: Bus,
    config: Config,
    hypervisor: Arc<dyn Hypervisor>,
    reports: Reports,
) -> anyhow::Result<StartedHost> {
    config.check()?;
    let name = host_name(&config)?;
    let root = root(&config);
    let bus = host_bus(&bus, &name);
    let agent = Agent::start(AgentParts {
        process,
        bus: bus.clone(),
        config: Arc::new(config),
        name,
        root,
        durability: Durability::Flushed,
        hypervisor,
        proves_hearing: true,
        reports,
    })
    .await?;
    Ok(started_host(agent, bus))
}

fn root(config: &Config) -> PathBuf {
    config.data_dir.join("compute")
}

#[cfg(feature = "libvirt")]
async fn start_libvirt(
    process: Process,
    bus: Bus,
    config: Config,
    own: String,
    reports: Reports,
) -> anyhow::Result<Started> {
    let hypervisor = drivers::libvirt::LibvirtHypervisor::start(&process, &config).await?;
    let config = Config {
        host: own,
        ..config
    };
    let host = start_with(process, bus, config, Arc::new(hypervisor), reports).await?;
    Ok(Started { hosts: vec![host] })
}

#[cfg(not(feature = "libvirt"))]
async fn start_libvirt(
    _process: Process,
    _bus: Bus,
    _config: Config,
    _own: String,
    _reports: Reports,
) -> anyhow::Result<Started> {
    anyhow::bail!(
        "compute.driver is libvirt, and this program was built without the feature `libvirt`"
    )
}

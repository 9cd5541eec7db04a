//! The services of a cloud within the test itself, on embedded databases and
//! the in-process bus, with simulated guests, and a client that speaks to them
//! as a person's would.

mod client;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use yakumo_auth::{JwsContextSeal, TokenVerifier, VerifierConfig};
use yakumo_compute::{Buses, DriverKind};
use yakumo_db::{Db, DbConfig};
use yakumo_rpc::{Bus, Handler, ServeOptions, Topic};
use yakumo_service::{Process, system_env};

pub use client::{Answer, Client, Endpoints};

/// What kind of cloud a test wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Simulated hosts.
    pub hosts: u32,
    /// vCPUs of each.
    pub vcpus: u32,
    /// MiB of each.
    pub memory_mib: u64,
    /// How long the making of a guest takes, in milliseconds.
    pub build_ms: u64,
    /// How often a guest cannot be made; 0 to 1.
    pub build_failures: f64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            hosts: 2,
            vcpus: 8,
            memory_mib: 8192,
            build_ms: 5,
            build_failures: 0.0,
        }
    }
}

/// A running cloud with a flavor, an image and a network in it.
pub struct TestCloud {
    process: Process,
    /// The administrator, in the project `admin`.
    pub admin: Client,
    /// The flavor `m1.tiny`: 1 vCPU, 512 MiB, 1 GiB.
    pub flavor: String,
    /// A small image.
    pub image: String,
    /// A network that everybody shares.
    pub network: String,
    folder: tempfile::TempDir,
}

const PASSWORD: &str = "correct horse battery";

fn database(folder: &Path, service: &str) -> DbConfig {
    DbConfig {
        sqlite_durable: false,
        ..DbConfig::sqlite(&folder.join(format!("{service}.sqlite")))
    }
}

fn any_port() -> std::net::SocketAddr {
    std::net::SocketAddr::from(([127, 0, 0, 1], 0))
}

impl TestCloud {
    /// Starts a cloud of two hosts.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_as(Wanted::default()).await
    }

    /// Starts a cloud as it is wanted.
    pub async fn start_as(wanted: Wanted) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let process = Process::new("test cloud", system_env());
        match Self::assemble(&process, folder, wanted).await {
            Ok(cloud) => Ok(cloud),
            Err(error) => {
                process.drain(Duration::from_secs(5)).await;
                Err(error)
            }
        }
    }

    async fn assemble(
        process: &Process,
        folder: tempfile::TempDir,
        wanted: Wanted,
    ) -> anyhow::Result<Self> {
        let env = process.env.clone();
        let root = folder.path();
        let seal = JwsContextSeal::ephemeral(env.clone())?;
        let bus = Bus::in_process(env, Arc::new(seal));
        let verifier = TokenVerifier::start(process, &bus, VerifierConfig::default());

        let identity = start_identity(process, &bus, root).await?;
        verifier.refresh().await?;
        let image = yakumo_image::start(
            process.named("image"),
            bus.clone(),
            image_config(root),
            Some(verifier.clone()),
        )
        .await
        .context("image")?;
        let api = yakumo_api::start(
            process.named("api"),
            bus.clone(),
            yakumo_api::Config {
                database: database(root, "api"),
                compute_listen: any_port(),
                network_listen: any_port(),
                volume_listen: any_port(),
                metadata_listen: any_port(),
                identity_url: format!("http://{identity}"),
                ..yakumo_api::Config::default()
            },
            verifier,
        )
        .await
        .context("api")?;
        let config = yakumo_scheduler::Config::default();
        yakumo_scheduler::start(process.named("scheduler"), bus.clone(), config)
            .await
            .context("scheduler")?;
        yakumo_network::start_manager(process.named("network"), bus.clone(), network_config(root))
            .await
            .context("network")?;
        yakumo_volume::start_manager(process.named("volume"), bus.clone(), volume_config(root))
            .await
            .context("volume")?;
        start_hosts(process, &bus, root, &wanted).await?;

        let endpoints = client::Endpoints {
            identity: format!("http://{identity}/v3"),
            compute: format!("http://{}/v2.1", api.compute),
            network: format!("http://{}/v2.0", api.network),
            volume: format!("http://{}/v3", api.volume),
            image: format!("http://{}/v2", image.address),
        };
        let admin = Client::log_in(endpoints, "admin", PASSWORD, "admin").await?;
        let mut cloud = Self {
            process: process.clone(),
            admin,
            flavor: String::new(),
            image: String::new(),
            network: String::new(),
            folder,
        };
        cloud.furnish().await?;
        Ok(cloud)
    }

    /// Makes what a boot needs.
    async fn furnish(&mut self) -> anyhow::Result<()> {
        self.flavor = self.admin.make_flavor("m1.tiny", 1, 512, 1).await?;
        self.image = self.admin.make_image("tiny", &[0; 4096]).await?;
        self.network = self.admin.make_network("flat", "10.20.0.0/24").await?;
        Ok(())
    }

    /// Where the services keep their files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything, in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        let ended = self.process.drain(Duration::from_secs(20)).await;
        anyhow::ensure!(ended, "some tasks did not end");
        Ok(())
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        self.process.shutdown.cancel();
    }
}

async fn start_identity(
    process: &Process,
    bus: &Bus,
    root: &Path,
) -> anyhow::Result<std::net::SocketAddr> {
    let mut config = yakumo_identity::Config {
        listen: any_port(),
        ..yakumo_identity::Config::default()
    };
    config.bootstrap.admin_password = yakumo_service::Secret::new(PASSWORD);
    // Hashing is not what these tests are about.
    config.password.memory_kib = 64;
    config.password.iterations = 1;
    let db = Db::connect(&database(root, "identity")).await?;
    let started = yakumo_identity::start(process.named("identity"), bus.clone(), db, config)
        .await
        .context("identity")?;
    Ok(started.address)
}

fn image_config(root: &Path) -> yakumo_image::Config {
    let mut config = yakumo_image::Config {
        listen: any_port(),
        database: database(root, "image"),
        data_dir: root.join("image"),
        ..yakumo_image::Config::default()
    };
    config.grpc.listen = any_port();
    config
}

fn network_config(root: &Path) -> yakumo_network::Config {
    let mut config = yakumo_network::Config::default();
    config.manager.database = database(root, "network");
    config.host.driver = yakumo_network::Driver::Simulated;
    config
}

fn volume_config(root: &Path) -> yakumo_volume::Config {
    let mut config = yakumo_volume::Config {
        database: database(root, "volume"),
        ..yakumo_volume::Config::default()
    };
    config.host.driver = yakumo_volume::Driver::Simulated;
    config
}

/// Starts the agents of simulated hosts: compute, network and volume under
/// one name and one topic each.
async fn start_hosts(
    process: &Process,
    bus: &Bus,
    root: &Path,
    wanted: &Wanted,
) -> anyhow::Result<()> {
    let mut config = yakumo_compute::Config {
        host: "node".into(),
        data_dir: root.join("hosts"),
        driver: DriverKind::Simulated,
        heartbeat_seconds: 1,
        reserved_memory_mib: 0,
        ..yakumo_compute::Config::default()
    };
    config.simulated.hosts = wanted.hosts;
    config.simulated.vcpus = wanted.vcpus;
    config.simulated.memory_mib = wanted.memory_mib;
    config.simulated.build_ms = wanted.build_ms;
    config.simulated.build_failures = wanted.build_failures;
    config.simulated.flush = false;
    let (network, volume) = (network_config(root), volume_config(root));
    let started = yakumo_compute::start(
        process.named("compute"),
        Buses::one(bus.clone()),
        config,
        yakumo_compute::Reports::AtOnce,
    )
    .await
    .context("compute")?;
    for host in started.hosts {
        let bus = host.bus;
        let data_dir = root.join("hosts").join(&host.name);
        let on_network = yakumo_network::HostSettings {
            host: host.name.clone(),
            host_id: host.agent.host_id(),
            recognition: host.agent.recognition(),
            beat: host.agent.beat(),
            data_dir: data_dir.clone(),
        };
        let on_volumes = yakumo_volume::HostSettings {
            host: host.name.clone(),
            host_id: host.agent.host_id(),
            recognition: host.agent.recognition(),
            beat: host.agent.beat(),
            data_dir,
        };
        let handlers: Vec<Arc<dyn Handler>> = vec![
            host.handler,
            yakumo_network::start_host(process, &bus, &on_network, &network).await?,
            yakumo_volume::start_host(process, &bus, &on_volumes, &volume).await?,
        ];
        bus.serve(Topic::Host(host.name), handlers, ServeOptions::default())
            .await?;
    }
    Ok(())
}

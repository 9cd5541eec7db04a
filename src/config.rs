//! The whole configuration: what all services share, and one section for each.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use yakumo_auth::VerifierConfig;
use yakumo_db::{DatabaseUrl, DbConfig};
use yakumo_service::{OpsConfig, Secret, TelemetryConfig, load_config};

use crate::endpoints;

/// What is written in place of a service's name in `database.url`.
const SERVICE: &str = "{service}";

/// Everything that can be configured. `yakumo config show` prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where services keep files, unless their own section says otherwise.
    pub data_dir: PathBuf,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The operators' listener of this process: health, metrics, log level.
    pub ops: OpsConfig,
    /// How services speak to each other.
    pub bus: BusConfig,
    /// The databases of services whose sections name none. `{service}` in the
    /// URL becomes the service's name; empty is SQLite below `data_dir`.
    pub database: DbConfig,
    /// How tokens are verified.
    pub tokens: VerifierConfig,
    /// This machine as a host of guests, networks and volumes.
    pub host: HostConfig,
    /// How long a process may take to end in order, in seconds.
    pub drain_seconds: u64,
    #[allow(missing_docs)]
    pub identity: yakumo_identity::Config,
    #[allow(missing_docs)]
    pub image: yakumo_image::Config,
    #[allow(missing_docs)]
    pub object_store: yakumo_object_store::Config,
    #[allow(missing_docs)]
    pub api: yakumo_api::Config,
    #[allow(missing_docs)]
    pub scheduler: yakumo_scheduler::Config,
    #[allow(missing_docs)]
    pub compute: yakumo_compute::Config,
    #[allow(missing_docs)]
    pub network: yakumo_network::Config,
    #[allow(missing_docs)]
    pub volume: yakumo_volume::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/yakumo".into(),
            telemetry: TelemetryConfig::default(),
            ops: OpsConfig::default(),
            bus: BusConfig::default(),
            database: DbConfig::default(),
            tokens: VerifierConfig::default(),
            host: HostConfig::default(),
            drain_seconds: 20,
            identity: Default::default(),
            image: Default::default(),
            object_store: Default::default(),
            api: Default::default(),
            scheduler: Default::default(),
            compute: Default::default(),
            network: Default::default(),
            volume: Default::default(),
        }
    }
}

/// `[bus]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// `amqp://user:password@host:port/vhost` or `amqps://…`; empty keeps the
    /// bus within this process, for a cloud in one process.
    pub url: Secret,
    /// Certificates (PEM) that the broker's is checked against.
    pub ca_file: Option<PathBuf>,
    /// The private key that control services seal request contexts with; the
    /// same for all of them, and on no host. `yakumo bus-keys` makes one. Not
    /// needed in one process.
    pub context_key: Secret,
    /// The public keys whose seals are accepted besides: all that a host needs.
    pub context_public_keys: Vec<String>,
    /// The broker's management, by which hosts are let in and removed; for the
    /// api service alone.
    pub management: ManagementConfig,
}

/// `[bus.management]`: RabbitMQ's plugin of that name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManagementConfig {
    /// `http://host:15672` or `https://…`; empty if hosts are not to be let in.
    pub url: String,
    /// A user with the tag `administrator`.
    pub user: String,
    #[allow(missing_docs)]
    pub password: Secret,
    /// Certificates (PEM) that the management's is checked against; those of
    /// `bus.ca_file` if it names none.
    pub ca_file: Option<PathBuf>,
    /// The broker as hosts reach it, without a user; that of `bus.url` if empty.
    pub host_url: String,
}

/// `[host]`: this machine as a host; used by every agent on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The host's name, unique in the cloud; the machine's name if empty.
    pub name: String,
    /// The network namespace that bridges, taps, dnsmasq, rules and guests live
    /// in; the machine's own if empty.
    pub netns: String,
}

impl Config {
    /// Reads file, environment and flags, and fills in what sections leave to
    /// the shared part.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> anyhow::Result<Self> {
        let mut config: Self = load_config(file, "YAKUMO", overrides)?;
        config.fill_in()?;
        Ok(config)
    }

    fn fill_in(&mut self) -> anyhow::Result<()> {
        self.data_dir = std::path::absolute(&self.data_dir).context("data_dir")?;
        if self.host.name.is_empty() {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
                .context("reading the machine's name")?;
            self.host.name = name.trim().to_owned();
        }
        let shared = |service: &str, own: &DbConfig| {
            if own.url.is_empty() {
                self.shared_database(service)
            } else {
                own.clone()
            }
        };
        let databases = [
            shared("identity", &self.identity.database),
            shared("image", &self.image.database),
            shared("object_store", &self.object_store.database),
            shared("api", &self.api.database),
            shared("network", &self.network.manager.database),
            shared("volume", &self.volume.database),
        ];
        [
            self.identity.database,
            self.image.database,
            self.object_store.database,
            self.api.database,
            self.network.manager.database,
            self.volume.database,
        ] = databases;
        // Sections that name no folder of their own follow `data_dir`.
        let built_in = Self::default();
        if self.image.data_dir == built_in.image.data_dir {
            self.image.data_dir = self.data_dir.join("image");
        }
        if self.object_store.data_dir == built_in.object_store.data_dir {
            self.object_store.data_dir = self.data_dir.join("object-store");
        }
        if self.compute.data_dir == built_in.compute.data_dir {
            self.compute.data_dir.clone_from(&self.data_dir);
        }
        let bootstrap = &mut self.identity.bootstrap;
        if bootstrap.admin_password.is_empty()
            && bootstrap.admin_password_file.as_os_str().is_empty()
        {
            bootstrap.admin_password_file = self.data_dir.join("admin.password");
        }
        if self.identity.bootstrap.endpoints.is_empty() {
            self.identity.bootstrap.endpoints = endpoints::catalog(self);
        }
        if self.compute.host.is_empty() {
            self.compute.host.clone_from(&self.host.name);
        }
        for netns in [&mut self.compute.netns, &mut self.network.host.netns] {
            if netns.is_empty() {
                netns.clone_from(&self.host.netns);
            }
        }
        Ok(())
    }

    /// The database of one service, by the shared part.
    fn shared_database(&self, service: &str) -> DbConfig {
        let url = if self.database.url.is_empty() {
            format!(
                "sqlite://{}",
                self.data_dir.join(format!("{service}.sqlite")).display()
            )
        } else {
            self.database.url.reveal().replace(SERVICE, service)
        };
        DbConfig {
            url: DatabaseUrl::new(url),
            ..self.database.clone()
        }
    }
}

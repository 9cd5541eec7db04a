//! The `[api]` section.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yakumo_db::DbConfig;
use yakumo_rpc::ManagementConfig;
use yakumo_service::Secret;

/// The front door: compute, network and volume APIs, metadata.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the service keeps its tables.
    pub database: DbConfig,
    /// Where the compute API listens.
    pub compute_listen: SocketAddr,
    /// Where the network API listens.
    pub network_listen: SocketAddr,
    /// Where the volume API listens.
    pub volume_listen: SocketAddr,
    /// Where the metadata service listens for network nodes that forward
    /// requests over HTTP. Hosts that forward over the bus don't need it; it is
    /// off without `metadata_secret`.
    pub metadata_listen: SocketAddr,
    /// What those network nodes sign requests with.
    pub metadata_secret: Option<Secret>,
    /// Where clients log in, without `/v3`.
    pub identity_url: String,
    /// The zone of hosts that don't name one, and of servers without one.
    pub default_availability_zone: String,
    /// Limits of projects that have none of their own; -1 is without limit.
    pub quota: QuotaConfig,
    /// Items in one page of a listing at most.
    pub max_page: u32,
    /// Servers that one request may make.
    pub max_servers_per_request: u32,
    /// Seconds between two heartbeats of a host.
    pub heartbeat_seconds: u32,
    /// A host that was silent for longer counts as down. Seconds.
    pub host_silence_seconds: u32,
    /// How long the making of a server may take. Seconds.
    pub boot_bound_seconds: u64,
    /// How long a start, stop, reboot or pause may take. Seconds.
    pub power_bound_seconds: u64,
    /// How long a guest may take to switch itself off. Seconds.
    pub stop_timeout_seconds: u32,
    /// How long a deletion waits for a host that is up. Seconds.
    pub delete_bound_seconds: u64,
    /// How long deleted servers stay known. Days.
    pub keep_deleted_days: u32,
    /// Workflows that one process works on at the same time.
    pub workflow_concurrency: u32,
    /// How hosts join; made of what the program knows of the bus, and nothing
    /// where they cannot.
    #[serde(skip)]
    pub join: Option<JoinConfig>,
}

/// What a host that joins gets, and how its broker user is made.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// The broker's management.
    pub management: ManagementConfig,
    /// The broker as hosts reach it: `amqp://host:port/vhost`, without a user.
    pub broker_url: String,
    /// Certificates (PEM) that the broker's is checked against.
    pub broker_ca: Option<String>,
    /// Whose seals on request contexts hosts accept.
    pub context_public_keys: Vec<String>,
}

/// Limits of a project.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaConfig {
    /// Servers.
    pub instances: i64,
    /// vCPUs.
    pub cores: i64,
    /// MiB of memory.
    pub ram: i64,
    /// Items of metadata on one server.
    pub metadata_items: i64,
    /// Key pairs of one user.
    pub key_pairs: i64,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            instances: 10,
            cores: 20,
            ram: 51_200,
            metadata_items: 128,
            key_pairs: 100,
        }
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: DbConfig::default(),
            compute_listen: local(8774),
            network_listen: local(9696),
            volume_listen: local(8776),
            metadata_listen: local(8775),
            metadata_secret: None,
            identity_url: "http://127.0.0.1:5000".into(),
            default_availability_zone: "nova".into(),
            quota: QuotaConfig::default(),
            max_page: 1000,
            max_servers_per_request: 100,
            heartbeat_seconds: 10,
            host_silence_seconds: 45,
            boot_bound_seconds: 900,
            power_bound_seconds: 300,
            stop_timeout_seconds: 60,
            delete_bound_seconds: 300,
            keep_deleted_days: 30,
            workflow_concurrency: 256,
            join: None,
        }
    }
}

impl Config {
    pub(crate) fn host_silence(&self) -> Duration {
        Duration::from_secs(u64::from(self.host_silence_seconds))
    }
}

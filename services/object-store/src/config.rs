//! `[object_store]`: the object store's settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use yakumo_auth::VerifierConfig;
use yakumo_db::DbConfig;

/// The section `[object_store]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The index of accounts, containers and objects.
    pub database: DbConfig,
    /// Where the objects' data is kept.
    pub data_dir: PathBuf,
    /// Where clients log in, for the answer 401; without `/v3`.
    pub identity_url: String,
    /// The largest object, in bytes.
    pub max_object_bytes: u64,
    /// The most names on one page of a listing.
    pub max_listing: u64,
    /// Containers that an account may have.
    pub max_containers: u64,
    /// Seconds without a byte after which an upload counts as cut off.
    pub idle_timeout_seconds: u64,
    /// Seconds after which data that no upload of this process is working on
    /// and that no object has is removed. Longer than any upload stands still.
    pub orphan_seconds: u64,
    /// How fresh the revocation log must be.
    pub tokens: VerifierConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            database: DbConfig::default(),
            data_dir: PathBuf::from("/var/lib/yakumo/object-store"),
            identity_url: "http://127.0.0.1:5000".into(),
            max_object_bytes: 5 << 30,
            max_listing: 10_000,
            max_containers: 100_000,
            idle_timeout_seconds: 60,
            orphan_seconds: 900,
            tokens: VerifierConfig::default(),
        }
    }
}

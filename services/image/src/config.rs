//! `[image]`: the image service's settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use yakumo_auth::VerifierConfig;
use yakumo_db::DbConfig;

/// The section `[image]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the REST API listens.
    pub listen: SocketAddr,
    /// Where hosts fetch image data.
    pub grpc: GrpcConfig,
    /// The service's database.
    pub database: DbConfig,
    /// Where the data is kept.
    pub data_dir: PathBuf,
    /// Where clients log in, for the answer 401; without `/v3`.
    pub identity_url: String,
    /// The largest image, in bytes.
    pub max_image_bytes: u64,
    /// The largest disk inside an image, in bytes.
    pub max_virtual_bytes: u64,
    /// Images that a project may have.
    pub quota_images: u64,
    /// Bytes that a project's images may hold in all.
    pub quota_bytes: u64,
    /// Uploads that one process takes at a time; more get 503.
    pub max_uploads: usize,
    /// Seconds without a byte after which an upload or a download counts as
    /// cut off.
    pub idle_timeout_seconds: u64,
    /// Bytes per second that an upload must bring on average, not counting the
    /// first `idle_timeout_seconds`; 0 for any.
    pub min_upload_rate: u64,
    /// Seconds after which an uploader that gives no sign of life counts as dead.
    pub upload_lease_seconds: u64,
    /// Images on one page where the client does not say.
    pub default_page: u64,
    /// The most images on one page.
    pub max_page: u64,
    /// How fresh the revocation log must be.
    pub tokens: VerifierConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9292),
            grpc: GrpcConfig::default(),
            database: DbConfig::default(),
            data_dir: PathBuf::from("/var/lib/yakumo/image"),
            identity_url: "http://127.0.0.1:5000".into(),
            max_image_bytes: 1 << 40,
            max_virtual_bytes: 16 << 40,
            quota_images: 1_000,
            quota_bytes: 10 << 40,
            max_uploads: 32,
            idle_timeout_seconds: 60,
            min_upload_rate: 16 << 10,
            upload_lease_seconds: 20,
            default_page: 25,
            max_page: 1_000,
            tokens: VerifierConfig::default(),
        }
    }
}

/// The section `[image.grpc]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The URL under which hosts reach it; `http://` or `https://` and the
    /// listening address if empty.
    pub endpoint: String,
    /// Seconds for which a ticket holds.
    pub ticket_seconds: u64,
    /// Fetches that one process serves at a time.
    pub max_fetches: usize,
    /// Certificates in PEM; TLS is off without them.
    pub tls_certificate: PathBuf,
    /// The key of the first certificate, in PEM.
    pub tls_key: PathBuf,
    /// Certificates in PEM of those who sign hosts' certificates; if given,
    /// hosts must show one.
    pub tls_client_ca: PathBuf,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9293),
            endpoint: String::new(),
            ticket_seconds: 3_600,
            max_fetches: 64,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
        }
    }
}

impl GrpcConfig {
    /// Whether TLS is on.
    pub fn has_tls(&self) -> bool {
        !self.tls_certificate.as_os_str().is_empty()
    }
}

//! `[identity]`: the identity service's settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use yakumo_db::DbConfig;
use yakumo_service::Secret;

/// The section `[identity]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The address under which clients reach the API, without `/v3`; what
    /// other services name to those who are not logged in. If it is empty,
    /// `http://` and the listening address.
    pub public_url: String,
    /// Where the service keeps its tables.
    pub database: DbConfig,
    /// How long a token holds.
    pub token_lifetime_seconds: u64,
    /// How long a key signs before the next one takes over. It goes on
    /// verifying until its last token has run out.
    pub key_rotation_hours: u64,
    /// How passwords are kept.
    pub password: PasswordConfig,
    /// What is made on the first start.
    pub bootstrap: BootstrapConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            public_url: String::new(),
            database: DbConfig::default(),
            token_lifetime_seconds: 3600,
            key_rotation_hours: 7 * 24,
            password: PasswordConfig::default(),
            bootstrap: BootstrapConfig::default(),
        }
    }
}

/// The section `[identity.password]`: Argon2id. The defaults are OWASP's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordConfig {
    /// Memory for one hash, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
    /// How many hashes are computed at a time; each takes a core.
    pub concurrency: usize,
    /// How many log-ins may wait; the next one gets 503.
    pub queue: usize,
    /// The shortest password that users may choose.
    pub minimum_length: usize,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            iterations: 2,
            parallelism: 1,
            concurrency: 2,
            queue: 512,
            minimum_length: 1,
        }
    }
}

/// The section `[identity.bootstrap]`: domain `Default`, the roles admin,
/// member and reader, a user and a project `admin`, services and endpoints.
/// What is there already is left as it is, except for endpoints, which follow
/// the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// The first administrator's name.
    pub admin_user: String,
    /// The first administrator's password. Only used when the user is made.
    pub admin_password: Secret,
    /// Where a generated password is written (mode 0600) if none is given.
    pub admin_password_file: PathBuf,
    /// The administrator's project.
    pub admin_project: String,
    /// The region of the endpoints.
    pub region: String,
    /// The catalog: service type to its URLs, for example
    /// `compute = { public = "http://127.0.0.1:8774/v2.1" }`. `$(project_id)s`
    /// in a URL becomes the project of the token.
    pub endpoints: BTreeMap<String, EndpointConfig>,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            admin_user: "admin".into(),
            admin_password: Secret::default(),
            admin_password_file: PathBuf::new(),
            admin_project: "admin".into(),
            region: "RegionOne".into(),
            endpoints: BTreeMap::new(),
        }
    }
}

/// One service of the catalog.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointConfig {
    /// The service's name; that of the OpenStack service of this type if empty.
    pub name: String,
    /// For everybody.
    pub public: String,
    /// For other services; the public one if empty.
    pub internal: String,
    /// For administrators; the public one if empty.
    pub admin: String,
}

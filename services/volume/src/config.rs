//! `[volume]`: the manager's and the host agent's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use yakumo_db::DbConfig;

/// The section `[volume]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the service keeps its tables.
    pub database: DbConfig,
    /// Volumes that a project may have; -1 for no limit.
    pub quota_volumes: i64,
    /// GiB that a project may have in volumes; -1 for no limit.
    pub quota_gigabytes: i64,
    /// The largest volume, in GiB.
    pub max_volume_gigabytes: u64,
    /// Name of the one volume type.
    pub volume_type: String,
    /// The availability zone of the storage hosts that name none.
    pub availability_zone: String,
    /// Bound on making or removing a volume, in seconds.
    pub workflow_timeout_seconds: u64,
    /// The agent on a storage host.
    pub host: HostConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: DbConfig::default(),
            quota_volumes: 10,
            quota_gigabytes: 1000,
            max_volume_gigabytes: 16_384,
            volume_type: "standard".into(),
            availability_zone: "nova".into(),
            workflow_timeout_seconds: 300,
            host: HostConfig::default(),
        }
    }
}

/// The section `[volume.host]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Whether this process stores volumes.
    pub enabled: bool,
    /// Where the files are; `<data_dir>/volume` of the program if empty.
    pub data_dir: PathBuf,
    /// Where the sockets of the exports are; a short path, since a unix
    /// socket's path holds 107 bytes at the most. `<data_dir>/run` if empty.
    pub run_dir: PathBuf,
    /// `file`, or `simulated` for hosts without disks.
    pub driver: Driver,
    /// Seconds between announcements.
    pub announce_seconds: u64,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            data_dir: PathBuf::new(),
            run_dir: PathBuf::new(),
            driver: Driver::File,
            announce_seconds: 10,
        }
    }
}

/// How a storage host keeps volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// qcow2 files, exported over NBD by QEMU's storage daemon.
    File,
    /// Nothing but bookkeeping.
    Simulated,
}

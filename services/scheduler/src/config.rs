//! The `[scheduler]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How hosts are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often a vCPU may be promised, on hosts that don't say it themselves.
    pub cpu_allocation_ratio: f64,
    /// How often a MiB of memory may be promised.
    pub memory_allocation_ratio: f64,
    /// How often a GiB of disk may be promised.
    pub disk_allocation_ratio: f64,
    /// A host that was silent for longer takes no new servers. Seconds.
    pub host_silence_seconds: u32,
    /// The choice is made by chance among so many of the best hosts.
    pub choose_among: u32,
    /// How much free vCPUs count when hosts are compared.
    pub cpu_weight: f64,
    /// How much free memory counts.
    pub memory_weight: f64,
    /// How much few servers count.
    pub servers_weight: f64,
    /// How long an own choice is deducted. Seconds.
    pub choice_seconds: u32,
    /// How long a request waits for the first view of the hosts. Seconds.
    pub first_view_seconds: u32,
    /// How often the whole view is compared with the api service's. Seconds.
    pub snapshot_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpu_allocation_ratio: 4.0,
            memory_allocation_ratio: 1.0,
            disk_allocation_ratio: 1.0,
            host_silence_seconds: 45,
            choose_among: 3,
            cpu_weight: 1.0,
            memory_weight: 1.0,
            servers_weight: 0.0,
            choice_seconds: 2,
            first_view_seconds: 15,
            snapshot_seconds: 60,
        }
    }
}

impl Config {
    /// Refuses settings that make no sense.
    pub fn check(&self) -> anyhow::Result<()> {
        for (key, ratio) in [
            ("cpu_allocation_ratio", self.cpu_allocation_ratio),
            ("memory_allocation_ratio", self.memory_allocation_ratio),
            ("disk_allocation_ratio", self.disk_allocation_ratio),
        ] {
            anyhow::ensure!(
                ratio.is_finite() && ratio > 0.0,
                "scheduler.{key} must be a number above 0"
            );
        }
        for (key, weight) in [
            ("cpu_weight", self.cpu_weight),
            ("memory_weight", self.memory_weight),
            ("servers_weight", self.servers_weight),
        ] {
            anyhow::ensure!(weight.is_finite(), "scheduler.{key} must be a number");
        }
        Ok(())
    }

    pub(crate) fn snapshot_every(&self) -> Duration {
        Duration::from_secs(u64::from(self.snapshot_seconds.max(1)))
    }
}

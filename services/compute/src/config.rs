//! The section `[compute]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::claims::Ratios;
use crate::decision::LostGuests;

/// Which hypervisor carries the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// QEMU by libvirt. Needs the feature `libvirt`.
    #[default]
    Libvirt,
    /// Guests that exist in memory only, on any number of hosts.
    Simulated,
}

/// How a compute host works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether this process carries guests.
    pub enabled: bool,
    /// The host's name on the bus; empty takes the machine's host name.
    pub host: String,
    /// Where records, disks and cached images live. Must be one file system,
    /// and must be at the same path for libvirt.
    pub data_dir: PathBuf,
    /// The hypervisor.
    pub driver: DriverKind,
    /// The network namespace that taps and guests live in; empty for the
    /// machine's own.
    pub netns: String,
    /// The availability zone that the host says it is in.
    pub availability_zone: String,
    /// The address that the host tells others of.
    pub host_ip: String,
    /// vCPUs that are kept for the host itself.
    pub reserved_vcpus: u32,
    /// MiB of memory that are kept for the host itself.
    pub reserved_memory_mib: u64,
    /// GiB of disk that are kept for the host itself.
    pub reserved_disk_gib: u64,
    /// How often each CPU may be promised.
    pub cpu_allocation_ratio: f64,
    /// How often each MiB of memory may be promised.
    pub memory_allocation_ratio: f64,
    /// How often each GiB of disk may be promised.
    pub disk_allocation_ratio: f64,
    /// Seconds between signs of life, until the control plane says otherwise.
    pub heartbeat_seconds: u32,
    /// Seconds between looks at all guests, besides the hypervisor's events.
    pub reconcile_seconds: u32,
    /// Whether guests that ran when the host went down are started again.
    pub resume_guests_state_on_host_boot: bool,
    /// Guests that may be built or started at the same time.
    pub concurrent_builds: usize,
    /// Seconds after which an action of the hypervisor counts as failed.
    pub action_timeout_seconds: u32,
    /// Where images are fetched, instead of where their ticket says.
    pub image_endpoint: String,
    /// The cache of images.
    pub images: ImagesConfig,
    /// The libvirt driver.
    pub libvirt: LibvirtConfig,
    /// The simulated driver.
    pub simulated: SimulatedConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            host: String::new(),
            data_dir: "/var/lib/yakumo".into(),
            driver: DriverKind::default(),
            netns: String::new(),
            availability_zone: "nova".into(),
            host_ip: "127.0.0.1".into(),
            reserved_vcpus: 0,
            reserved_memory_mib: 512,
            reserved_disk_gib: 0,
            cpu_allocation_ratio: 4.0,
            memory_allocation_ratio: 1.0,
            disk_allocation_ratio: 1.0,
            heartbeat_seconds: 10,
            reconcile_seconds: 30,
            resume_guests_state_on_host_boot: true,
            concurrent_builds: 8,
            action_timeout_seconds: 600,
            image_endpoint: String::new(),
            images: ImagesConfig::default(),
            libvirt: LibvirtConfig::default(),
            simulated: SimulatedConfig::default(),
        }
    }
}

impl Config {
    /// How often a resource may be promised.
    pub fn ratios(&self) -> Ratios {
        Ratios {
            cpu: self.cpu_allocation_ratio,
            memory: self.memory_allocation_ratio,
            disk: self.disk_allocation_ratio,
        }
    }

    /// What happens to guests that the host lost.
    pub fn lost_guests(&self) -> LostGuests {
        if self.resume_guests_state_on_host_boot {
            LostGuests::Resume
        } else {
            LostGuests::LeaveOff
        }
    }

    /// Refuses values that make no sense, by name.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, ratio) in [
            ("cpu_allocation_ratio", self.cpu_allocation_ratio),
            ("memory_allocation_ratio", self.memory_allocation_ratio),
            ("disk_allocation_ratio", self.disk_allocation_ratio),
        ] {
            anyhow::ensure!(
                ratio.is_finite() && ratio > 0.0 && ratio <= 1000.0,
                "compute.{name} must be a number above 0 and up to 1000, and is {ratio}"
            );
        }
        for (name, seconds) in [
            ("heartbeat_seconds", self.heartbeat_seconds),
            ("reconcile_seconds", self.reconcile_seconds),
            ("action_timeout_seconds", self.action_timeout_seconds),
        ] {
            anyhow::ensure!(
                (1..=86_400).contains(&seconds),
                "compute.{name} must be from 1 to 86400, and is {seconds}"
            );
        }
        anyhow::ensure!(
            self.concurrent_builds > 0,
            "compute.concurrent_builds must be at least 1"
        );
        anyhow::ensure!(
            self.data_dir.is_absolute(),
            "compute.data_dir must be an absolute path, and is {}",
            self.data_dir.display()
        );
        if self.driver == DriverKind::Simulated {
            self.simulated.check()?;
        }
        Ok(())
    }
}

/// How long images are kept on the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// GiB that images without a server may take; the longest unused go first.
    pub unused_gib: u64,
    /// Hours after which an image without a server is removed.
    pub unused_hours: u32,
    /// Seconds without a byte after which a download is tried again.
    pub stall_seconds: u32,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            unused_gib: 20,
            unused_hours: 24,
            stall_seconds: 30,
        }
    }
}

/// How guests are virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtType {
    /// By KVM where the processor can, in software otherwise.
    #[default]
    Auto,
    /// By KVM.
    Kvm,
    /// In software.
    Qemu,
}

/// How the host speaks to libvirt, and what its guests look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LibvirtConfig {
    /// The connection, for example `qemu:///system`.
    pub uri: String,
    /// Where libvirt keeps the logs of its QEMUs; one goes with its server.
    pub log_dir: PathBuf,
    /// How guests are virtualised.
    pub virt_type: VirtType,
    /// The machine type, `q35` or `pc`.
    pub machine: String,
    /// The CPU model in software emulation; empty for QEMU's widest.
    pub cpu_model: String,
    /// Threads that wait for libvirt.
    pub threads: usize,
    /// Slots for volumes that are plugged into a running guest.
    pub hotplug_slots: u32,
    /// Seconds that a guest has to let go of a volume.
    pub detach_timeout_seconds: u32,
    /// Seconds to wait for the network agent to make a tap.
    pub tap_timeout_seconds: u32,
    /// Seconds for which a guest's I/O waits for a volume's export to come back.
    pub volume_reconnect_seconds: u32,
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".into(),
            log_dir: "/var/log/libvirt/qemu".into(),
            virt_type: VirtType::default(),
            machine: "q35".into(),
            cpu_model: String::new(),
            threads: 4,
            hotplug_slots: 8,
            detach_timeout_seconds: 30,
            tap_timeout_seconds: 60,
            volume_reconnect_seconds: 60,
        }
    }
}

/// How the hosts of one process reach the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connections {
    /// All over the process's own connection.
    #[default]
    Shared,
    /// Each over a connection of its own, as real hosts do.
    Each,
}

/// Hosts that exist in memory only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedConfig {
    /// How many hosts this process plays. One takes the process's own host
    /// name; more are called by the prefix and a number.
    pub hosts: u32,
    /// Their names before the number: `sim-` makes `sim-0001`.
    pub prefix: String,
    /// How they reach the broker.
    pub connections: Connections,
    /// vCPUs of each.
    pub vcpus: u32,
    /// MiB of memory of each.
    pub memory_mib: u64,
    /// GiB of disk of each.
    pub disk_gib: u64,
    /// Milliseconds that building a guest takes.
    pub build_ms: u64,
    /// Milliseconds that starting a guest takes.
    pub start_ms: u64,
    /// Milliseconds that a guest takes to switch itself off.
    pub stop_ms: u64,
    /// Milliseconds that everything else takes.
    pub other_ms: u64,
    /// Share of builds that fail for good, from 0 to 1.
    pub build_failures: f64,
    /// Share of starts that fail and are tried again, from 0 to 1.
    pub start_failures: f64,
    /// Whether records survive a power cut, as those of real hosts do.
    pub flush: bool,
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        Self {
            hosts: 1,
            prefix: "sim-".into(),
            connections: Connections::default(),
            vcpus: 64,
            memory_mib: 262_144,
            disk_gib: 10_240,
            build_ms: 0,
            start_ms: 0,
            stop_ms: 0,
            other_ms: 0,
            build_failures: 0.0,
            start_failures: 0.0,
            flush: false,
        }
    }
}

impl SimulatedConfig {
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=100_000).contains(&self.hosts),
            "compute.simulated.hosts must be from 1 to 100000, and is {}",
            self.hosts
        );
        for (name, share) in [
            ("build_failures", self.build_failures),
            ("start_failures", self.start_failures),
        ] {
            anyhow::ensure!(
                (0.0..=1.0).contains(&share),
                "compute.simulated.{name} must be from 0 to 1, and is {share}"
            );
        }
        Ok(())
    }

    /// The names of the simulated hosts.
    pub fn names(&self, own: &str) -> Vec<String> {
        if self.hosts == 1 {
            return vec![own.to_owned()];
        }
        (1..=self.hosts)
            .map(|number| format!("{}{number:04}", self.prefix))
            .collect()
    }
}

/// Milliseconds as a duration.
pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Seconds as a duration.
pub(crate) fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

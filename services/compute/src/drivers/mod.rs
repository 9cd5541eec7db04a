//! The seam to whatever carries the guests. Two drivers: [`simulated`] is a
//! hypervisor in memory, [`libvirt`] is QEMU; one suite of tests runs on both,
//! and the simulated one documents what a driver must do.
//!
//! Every action is idempotent and may be repeated after a crash at any point:
//! an agent that died does not know how far it came. Actions return when they
//! are done, except [`Hypervisor::ask_to_stop`], which only asks. Drivers hold
//! no policy: what is done, and when, is decided in [`crate::decision`].

#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod simulated;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::broadcast;
use yakumo_contracts::compute_host::{ServerSpec, VolumeConnection};
use yakumo_types::{ServerId, VolumeId};

use crate::claims::Amount;
use crate::decision::Observed;

/// What a host is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// What there is, before anything is reserved.
    pub total: Amount,
    /// What the compute API shows, for example `QEMU`.
    pub hypervisor_type: String,
    /// Its version as one number: major × 1,000,000 + minor × 1,000 + micro.
    pub hypervisor_version: u64,
    /// JSON about the processor, as the compute API shows it.
    pub cpu_info: String,
}

/// Something happened to a guest, or may have happened to any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HypervisorEvent {
    /// Look at this one.
    Server(ServerId),
    /// Look at all: events may have been lost, for example while the
    /// connection was down.
    All,
}

/// Whether trying again by itself makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same action may work later.
    Later,
    /// It will not, until something else is asked for.
    Never,
}

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct DriverError {
    /// Whether to try again.
    pub retry: Retry,
    /// What a user may read in the server's fault.
    pub fault: String,
    /// What the operator reads in the log.
    #[source]
    pub source: Option<anyhow::Error>,
}

impl DriverError {
    /// It may work later.
    pub fn later(fault: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self {
            retry: Retry::Later,
            fault: fault.into(),
            source: Some(source.into()),
        }
    }

    /// It will not work.
    pub fn never(fault: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self {
            retry: Retry::Never,
            fault: fault.into(),
            source: Some(source.into()),
        }
    }

    /// It will not work, and the fault says all.
    pub fn refused(fault: impl Into<String>) -> Self {
        Self {
            retry: Retry::Never,
            fault: fault.into(),
            source: None,
        }
    }

    /// It may work later, and the fault says all.
    pub fn not_yet(fault: impl Into<String>) -> Self {
        Self {
            retry: Retry::Later,
            fault: fault.into(),
            source: None,
        }
    }
}

/// What is being done right now, for the server's report: `fetching_image`,
/// `creating_disk`, `spawning`, or nothing.
#[derive(Clone, Default)]
pub struct Stage {
    current: Arc<Mutex<&'static str>>,
    changed: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
}

impl Stage {
    /// A stage whose changes are told to `changed`.
    pub fn new(changed: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self {
            current: Arc::default(),
            changed: Some(Arc::new(changed)),
        }
    }

    /// Says what is being done now.
    pub fn set(&self, stage: &'static str) {
        let before = std::mem::replace(
            &mut *self.current.lock().unwrap_or_else(PoisonError::into_inner),
            stage,
        );
        if before != stage
            && let Some(changed) = &self.changed
        {
            changed(stage);
        }
    }

    /// What is being done now.
    pub fn get(&self) -> &'static str {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What must not be cleared away.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    /// Servers with a record, even an unreadable one.
    pub servers: BTreeSet<ServerId>,
    /// SHA-512 of images that disks are made from.
    pub images: BTreeSet<String>,
    /// Whether there are records or guests of which that is not known.
    pub unknown: bool,
}

/// Carries guests.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// `libvirt` or `simulated`.
    fn kind(&self) -> &'static str;

    /// What the host is made of.
    async fn capacity(&self) -> Result<Capacity, DriverError>;

    /// What there is of one server.
    async fn observe(&self, server: ServerId) -> Result<Observed, DriverError>;

    /// What there is of all servers; those that the hypervisor does not know
    /// are missing.
    async fn observe_all(&self) -> Result<HashMap<ServerId, Observed>, DriverError>;

    /// Makes disk and config drive, if they are not there yet. May be dropped
    /// at any point, and called again.
    async fn build(
        &self,
        server: ServerId,
        spec: &ServerSpec,
        stage: &Stage,
    ) -> Result<(), DriverError>;

    /// Waits, within a bound, for what a start needs from others: the taps that
    /// the network agent makes. May be dropped at any point.
    async fn await_ports(&self, spec: &ServerSpec) -> Result<(), DriverError> {
        let _ = spec;
        Ok(())
    }

    /// Defines the domain anew by `spec`, with its volumes, and switches it on.
    async fn start(&self, server: ServerId, spec: &ServerSpec) -> Result<(), DriverError>;

    /// Presses the power button; the guest may take its time, or ignore it.
    async fn ask_to_stop(&self, server: ServerId) -> Result<(), DriverError>;

    /// Switches off at once; fine when it is off.
    async fn pull_plug(&self, server: ServerId) -> Result<(), DriverError>;

    /// Freezes a running guest.
    async fn pause(&self, server: ServerId) -> Result<(), DriverError>;

    /// Thaws a frozen guest.
    async fn resume(&self, server: ServerId) -> Result<(), DriverError>;

    /// Whether a volume's export answers, so that it can be plugged in.
    async fn is_exported(&self, volume: &VolumeConnection) -> bool;

    /// Plugs a volume into the running guest; fine when it is there.
    async fn attach_volume(
        &self,
        server: ServerId,
        volume: &VolumeConnection,
    ) -> Result<(), DriverError>;

    /// Takes a volume from the running guest and returns when the guest let go
    /// of it; fine when it is not there.
    async fn detach_volume(&self, server: ServerId, volume: VolumeId) -> Result<(), DriverError>;

    /// Removes domain, disk, config drive and log; fine when nothing is there.
    async fn remove(&self, server: ServerId) -> Result<(), DriverError>;

    /// The end of the serial console's log: at most `bytes` of it.
    async fn console_log(&self, server: ServerId, bytes: usize) -> Result<Vec<u8>, DriverError>;

    /// Clears away what nothing uses: cached images by age and size. Guests and
    /// disks that no record speaks of are data, and left alone.
    async fn tidy(&self, in_use: &InUse) -> Result<(), DriverError>;

    /// News from now on. A receiver that lags must look at all.
    fn events(&self) -> broadcast::Receiver<HypervisorEvent>;
}

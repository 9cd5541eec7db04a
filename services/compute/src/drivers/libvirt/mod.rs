//! QEMU by libvirt.
//!
//! A server is a persistent domain called `yakumo-<id>` whose UUID is the
//! server's id, so it can be found however the agent came to know of it.
//! Domains are defined anew from the desired state at every start; what
//! changes while they run (volumes) is changed in the running domain alone.
//!
//! Disks are copy-on-write layers above the host's cache of images. The serial
//! console is both a terminal and a log, written by virtlogd, which bounds it.
//! Taps are made by the host's network agent, never here: a start waits until
//! each tap is there and on its bridge, since the agent plugs it in only after
//! its filters stand.

mod connection;
mod files;
mod images;
mod xml;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::broadcast;
use tracing::{debug, info};
use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::error::Error;
use virt::sys;
use yakumo_contracts::compute_host::{ServerSpec, VolumeConnection};
use yakumo_host::{Cmd, CommandRunner, RealRunner};
use yakumo_service::Process;
use yakumo_types::{Env, ServerId, VolumeId};

use crate::claims::Amount;
use crate::config::{Config, LibvirtConfig, VirtType, seconds};
use crate::decision::{Domain, Ending, Observed};
use crate::drivers::{Capacity, DriverError, Hypervisor, HypervisorEvent, InUse, Stage};

use connection::{Connection, detach_by_alias, find, is_missing, is_wrong_state};
use files::GuestFiles;
use images::ImageCache;
use xml::{BaseXml, Emulation, GuestXml, PortXml, VolumeXml};

/// How often something that others do is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// How often a guest that does not let go of a volume is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// QEMU by libvirt.
pub struct LibvirtHypervisor {
    env: Env,
    config: LibvirtConfig,
    connection: Connection,
    files: GuestFiles,
    images: ImageCache,
    /// Looks at taps where guests live.
    taps: RealRunner,
    emulation: Emulation,
    disk_cache: &'static str,
    data_dir: PathBuf,
}

impl LibvirtHypervisor {
    /// Makes the folders and begins to connect; libvirt need not be there yet.
    pub async fn start(process: &Process, config: &Config) -> anyhow::Result<Self> {
        let root = config.data_dir.join("compute");
        let (guests, images) = (root.join("guests"), root.join("images"));
        let folders = [guests.clone(), images.clone()];
        let wanted = config.libvirt.virt_type;
        let probed = tokio::task::spawn_blocking(move || {
            for folder in &folders {
                files::make_folder(folder)
                    .with_context(|| format!("making the folder {}", folder.display()))?;
            }
            let direct = files::takes_direct_io(&folders[0]);
            anyhow::Ok((direct, emulation(wanted)))
        })
        .await??;
        let (direct_io, emulation) = probed;
        info!(
            ?emulation,
            direct_io,
            uri = config.libvirt.uri,
            "guests are carried by libvirt"
        );
        Ok(Self {
            env: process.env.clone(),
            connection: Connection::start(process, &config.libvirt.uri, config.libvirt.threads)?,
            files: GuestFiles::new(
                &guests,
                &config.libvirt.log_dir,
                Arc::new(RealRunner::new()),
            ),
            images: ImageCache::new(
                images,
                config.image_endpoint.clone(),
                config.images.clone(),
                process.env.clone(),
            ),
            taps: RealRunner::in_netns(Some(&config.netns)),
            emulation,
            disk_cache: if direct_io { "none" } else { "writeback" },
            config: config.libvirt.clone(),
            data_dir: config.data_dir.clone(),
        })
    }

    fn guest_xml(&self, server: ServerId, spec: &ServerSpec) -> Result<GuestXml, DriverError> {
        let image = spec.image.clone().unwrap_or_default();
        let flavor = spec.flavor.unwrap_or_default();
        let volumes = spec
            .volumes
            .iter()
            .map(|volume| self.volume_xml(volume))
            .collect::<Result<_, _>>()?;
        Ok(GuestXml {
            server,
            title: spec.name.clone(),
            project_id: spec.project_id.clone(),
            flavor_name: spec.flavor_name.clone(),
            emulation: self.emulation,
            machine: self.config.machine.clone(),
            cpu_model: match self.emulation {
                Emulation::Software => self.config.cpu_model.clone(),
                Emulation::Kvm => String::new(),
            },
            vcpus: u64::from(flavor.vcpus),
            memory_mib: flavor.memory_mib,
            disk: self.files.disk(server),
            disk_cache: self.disk_cache,
            base: BaseXml {
                path: self.images.path(&image.sha512),
                format: image.disk_format,
            },
            config_drive: (!spec.config_drive.is_empty()).then(|| self.files.config_drive(server)),
            console_log: self.files.console_log(server),
            ports: spec
                .ports
                .iter()
                .map(|port| PortXml {
                    mac_address: port.mac_address.clone(),
                    tap: port.tap.clone(),
                    mtu: port.mtu,
                })
                .collect(),
            volumes,
            hotplug_slots: self.config.hotplug_slots,
        })
    }

    fn volume_xml(&self, volume: &VolumeConnection) -> Result<VolumeXml, DriverError> {
        Ok(VolumeXml {
            id: volume_id(&volume.volume_id)?,
            socket: volume.nbd_socket.clone(),
            export: volume.nbd_export.clone(),
            device: volume
                .device
                .strip_prefix("/dev/")
                .unwrap_or(&volume.device)
                .to_owned(),
            serial: volume.serial.clone(),
            reconnect_seconds: self.config.volume_reconnect_seconds,
        })
    }

    /// Runs `work` on the server's domain; `None` if there is none.
    async fn on_domain<T: Send + 'static>(
        &self,
        what: &'static str,
        server: ServerId,
        work: impl FnOnce(&VirtDomain) -> Result<T, Error> + Send + 'static,
    ) -> Result<Option<T>, DriverError> {
        self.connection
            .with(what, move |connect| match find(connect, server)? {
                Some(domain) => match work(&domain) {
                    // It went away between the look and the work.
                    Err(error) if is_missing(&error) => Ok(None),
                    result => result.map(Some),
                },
                None => Ok(None),
            })
            .await
    }

    /// The same, for what only a running guest can do.
    async fn on_running(
        &self,
        what: &'static str,
        server: ServerId,
        work: impl FnOnce(&VirtDomain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), DriverError> {
        self.on_domain(what, server, work)
            .await?
            .ok_or_else(|| DriverError::not_yet("The guest is not running."))
    }

    async fn holds(&self, server: ServerId, volume: VolumeId) -> Result<bool, DriverError> {
        let volumes = self.observe(server).await?.volumes;
        Ok(volumes.iter().any(|plugged| plugged.volume == volume))
    }

    /// Whether the tap is there and on a bridge.
    async fn is_wired(&self, tap: &str) -> bool {
        let cmd = Cmd::new("ip", ["-o", "link", "show", "dev", tap]);
        match self.taps.execute(&cmd).await {
            Ok(output) => output.success() && output.text().contains(" master "),
            Err(error) => {
                debug!(tap, error = ?error, "the tap could not be looked at");
                false
            }
        }
    }
}

fn volume_id(text: &str) -> Result<VolumeId, DriverError> {
    text.parse().map_err(|error: yakumo_types::ParseIdError| {
        DriverError::never("The volume's id is unreadable.", error)
    })
}

/// KVM is only worth its name where the processor virtualises: elsewhere the
/// device may exist and guests hang.
fn emulation(wanted: VirtType) -> Emulation {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = cpu
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| matches!(flag, "vmx" | "svm"))
        });
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    match wanted {
        VirtType::Kvm => Emulation::Kvm,
        VirtType::Qemu => Emulation::Software,
        VirtType::Auto if can && device.is_ok() => Emulation::Kvm,
        VirtType::Auto => Emulation::Software,
    }
}

/// What libvirt's state and reason say about a domain.
fn domain_state(state: sys::virDomainState, reason: i32) -> Domain {
    let reason = u32::try_from(reason).unwrap_or(0);
    match state {
        sys::VIR_DOMAIN_PAUSED => match reason {
            // On its way up or down, not frozen by anybody.
            sys::VIR_DOMAIN_PAUSED_STARTING_UP | sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => {
                Domain::Running
            }
            _ => Domain::Paused,
        },
        sys::VIR_DOMAIN_SHUTOFF => Domain::Off(match reason {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Ending::Guest,
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => Ending::Destroyed,
            sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => Ending::Crashed,
            // A start that failed says nothing about the run before it.
            _ => Ending::Unknown,
        }),
        sys::VIR_DOMAIN_CRASHED => Domain::Off(Ending::Crashed),
        _ => Domain::Running,
    }
}

fn observed(domain: &VirtDomain) -> Result<Observed, Error> {
    let (state, reason) = domain.get_state()?;
    let starved = (state, u32::try_from(reason))
        == (sys::VIR_DOMAIN_PAUSED, Ok(sys::VIR_DOMAIN_PAUSED_IOERROR));
    let state = domain_state(state, reason);
    let volumes = match state {
        Domain::Running | Domain::Paused => xml::volumes_of(&domain.get_xml_desc(0)?)
            .inspect_err(|error| tracing::warn!(%error, "a domain's XML is unreadable"))
            .unwrap_or_default(),
        Domain::Absent | Domain::Off(_) => BTreeSet::new(),
    };
    Ok(Observed {
        domain: state,
        volumes,
        starved,
    })
}

/// Ends the domain's process; fine when there is none.
fn destroy(domain: &VirtDomain) -> Result<(), Error> {
    match domain.destroy() {
        Err(error) if is_wrong_state(&error) || is_missing(&error) => Ok(()),
        result => result,
    }
}

fn define_and_start(connect: &Connect, xml: &str, server: ServerId) -> Result<(), Error> {
    if let Some(domain) = find(connect, server)?
        && domain.is_active()?
    {
        match observed(&domain)?.domain {
            Domain::Running | Domain::Paused => return Ok(()),
            // It crashed and its process still hangs around.
            Domain::Absent | Domain::Off(_) => destroy(&domain)?,
        }
    }
    let domain = VirtDomain::define_xml(connect, xml)?;
    domain.create().map(drop)
}

#[async_trait]
impl Hypervisor for LibvirtHypervisor {
    fn kind(&self) -> &'static str {
        "libvirt"
    }

    async fn capacity(&self) -> Result<Capacity, DriverError> {
        let (node, version) = self
            .connection
            .with("measure the host", |connect| {
                Ok((connect.get_node_info()?, connect.get_hyp_version()?))
            })
            .await?;
        let data_dir = self.data_dir.clone();
        let disk = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&data_dir))
            .await
            .map_err(|error| DriverError::later("The host is stopping.", error))?
            .map_err(|error| DriverError::later("The host's disk could not be measured.", error))?;
        let bytes = disk.fragment_size().saturating_mul(disk.blocks());
        Ok(Capacity {
            total: Amount {
                vcpus: u64::from(node.cpus),
                memory_mib: node.memory / 1024,
                disk_gib: bytes >> 30,
            },
            hypervisor_type: "QEMU".into(),
            hypervisor_version: u64::from(version),
            cpu_info: serde_json::json!({
                "arch": node.model,
                "topology": {
                    "cells": node.nodes,
                    "sockets": node.sockets,
                    "cores": node.cores,
                    "threads": node.threads,
                },
            })
            .to_string(),
        })
    }

    async fn observe(&self, server: ServerId) -> Result<Observed, DriverError> {
        let seen = self.on_domain("look at a domain", server, observed).await?;
        Ok(seen.unwrap_or_else(Observed::absent))
    }

    async fn observe_all(&self) -> Result<HashMap<ServerId, Observed>, DriverError> {
        self.connection
            .with("list the domains", |connect| {
                let mut seen = HashMap::new();
                for domain in connect.list_all_domains(0)? {
                    let look = || -> Result<_, Error> {
                        let Some(server) = xml::server_of(&domain.get_name()?) else {
                            return Ok(None);
                        };
                        Ok(Some((server, observed(&domain)?)))
                    };
                    match look() {
                        Err(error) if is_missing(&error) => {}
                        result => seen.extend(result?),
                    }
                }
                Ok(seen)
            })
            .await
    }

    async fn build(
        &self,
        server: ServerId,
        spec: &ServerSpec,
        stage: &Stage,
    ) -> Result<(), DriverError> {
        self.files.prepare(server).await?;
        if !self.files.has_disk(server).await? {
            let image = spec
                .image
                .as_ref()
                .ok_or_else(|| DriverError::refused("The server has no image."))?;
            let base = self.images.ensure(image, stage).await?;
            stage.set("creating_disk");
            let disk_gib = spec.flavor.map_or(0, |flavor| flavor.disk_gib);
            self.files
                .make_disk(server, &base, &image.disk_format, disk_gib)
                .await?;
        }
        if !spec.config_drive.is_empty() && !self.files.has_config_drive(server).await? {
            self.files
                .make_config_drive(server, &spec.config_drive)
                .await?;
        }
        Ok(())
    }

    async fn await_ports(&self, spec: &ServerSpec) -> Result<(), DriverError> {
        let clock = &self.env.clock;
        let start = clock.monotonic();
        let bound = seconds(self.config.tap_timeout_seconds);
        for port in &spec.ports {
            while !self.is_wired(&port.tap).await {
                if clock.monotonic().saturating_sub(start) > bound {
                    return Err(DriverError::not_yet(format!(
                        "The host's network agent did not wire the port {} in time.",
                        port.port_id
                    )));
                }
                clock.sleep(LOOK).await;
            }
        }
        Ok(())
    }

    async fn start(&self, server: ServerId, spec: &ServerSpec) -> Result<(), DriverError> {
        let xml = xml::render(&self.guest_xml(server, spec)?);
        self.connection
            .with("start a domain", move |connect| {
                define_and_start(connect, &xml, server)
            })
            .await
            .map_err(|error| DriverError {
                fault: "The host's hypervisor could not start the server.".into(),
                ..error
            })
    }

    async fn ask_to_stop(&self, server: ServerId) -> Result<(), DriverError> {
        self.on_domain("press a power button", server, |domain| {
            match domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN) {
                Err(error) if is_wrong_state(&error) => Ok(()),
                result => result.map(drop),
            }
        })
        .await
        .map(drop)
    }

    async fn pull_plug(&self, server: ServerId) -> Result<(), DriverError> {
        self.on_domain("destroy a domain", server, destroy)
            .await
            .map(drop)
    }

    async fn pause(&self, server: ServerId) -> Result<(), DriverError> {
        self.on_running("suspend a domain", server, |domain| {
            match observed(domain)?.domain {
                Domain::Paused => Ok(()),
                _ => domain.suspend().map(drop),
            }
        })
        .await
    }

    async fn resume(&self, server: ServerId) -> Result<(), DriverError> {
        self.on_running("resume a domain", server, |domain| {
            match observed(domain)?.domain {
                Domain::Running => Ok(()),
                _ => domain.resume().map(drop),
            }
        })
        .await
    }

    async fn is_exported(&self, volume: &VolumeConnection) -> bool {
        let connected = tokio::net::UnixStream::connect(&volume.nbd_socket);
        matches!(tokio::time::timeout(LOOK, connected).await, Ok(Ok(_)))
    }

    async fn attach_volume(
        &self,
        server: ServerId,
        volume: &VolumeConnection,
    ) -> Result<(), DriverError> {
        let xml = self.volume_xml(volume)?;
        if self.observe(server).await?.volumes.contains(&xml.plugged()) {
            return Ok(());
        }
        let device = xml::render_volume(&xml);
        self.on_running("attach a volume", server, move |domain| {
            domain
                .attach_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)
                .map(drop)
        })
        .await
        .map_err(|error| DriverError {
            fault: "The volume could not be plugged into the running server.".into(),
            ..error
        })
    }

    async fn detach_volume(&self, server: ServerId, volume: VolumeId) -> Result<(), DriverError> {
        let clock = &self.env.clock;
        let start = clock.monotonic();
        let bound = seconds(self.config.detach_timeout_seconds);
        let mut asked: Option<Duration> = None;
        while self.holds(server, volume).await? {
            let now = clock.monotonic();
            if now.saturating_sub(start) > bound {
                return Err(DriverError::refused(format!(
                    "The guest did not let go of the volume within {} seconds.",
                    bound.as_secs()
                )));
            }
            if asked.is_none_or(|asked| now.saturating_sub(asked) >= ASK_AGAIN) {
                asked = Some(now);
                let alias = xml::volume_alias(volume);
                let result = self
                    .on_domain("detach a volume", server, move |domain| {
                        detach_by_alias(domain, &alias)
                    })
                    .await;
                // It may be letting go already, or just have done so.
                if let Err(error) = result {
                    debug!(%server, %volume, error = ?error, "asking for the volume failed");
                }
            }
            clock.sleep(LOOK).await;
        }
        Ok(())
    }

    async fn remove(&self, server: ServerId) -> Result<(), DriverError> {
        self.on_domain("remove a domain", server, |domain| {
            destroy(domain)?;
            domain.undefine_flags(
                sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_NVRAM,
            )
        })
        .await?;
        self.files.remove(server, &xml::domain_name(server)).await
    }

    async fn console_log(&self, server: ServerId, bytes: usize) -> Result<Vec<u8>, DriverError> {
        self.files.console_tail(server, bytes).await
    }

    async fn tidy(&self, in_use: &InUse) -> Result<(), DriverError> {
        if in_use.unknown {
            return Ok(());
        }
        self.images.tidy(in_use).await
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.connection.events()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_libvirt_knows_counts_as_an_ending() {
        let off =
            |reason: u32| domain_state(sys::VIR_DOMAIN_SHUTOFF, i32::try_from(reason).unwrap());
        assert_eq!(
            off(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN),
            Domain::Off(Ending::Guest)
        );
        assert_eq!(
            off(sys::VIR_DOMAIN_SHUTOFF_CRASHED),
            Domain::Off(Ending::Crashed)
        );
        assert_eq!(
            off(sys::VIR_DOMAIN_SHUTOFF_UNKNOWN),
            Domain::Off(Ending::Unknown)
        );
        assert_eq!(
            off(sys::VIR_DOMAIN_SHUTOFF_FAILED),
            Domain::Off(Ending::Unknown)
        );
        assert_eq!(domain_state(sys::VIR_DOMAIN_PAUSED, 1), Domain::Paused);
        assert_eq!(domain_state(sys::VIR_DOMAIN_SHUTDOWN, 0), Domain::Running);
    }
}

//! What a host is told of a server.

use yakumo_contracts::compute_host::{
    DesiredServer, NetworkPort, Power, Resources, ServerSpec, SetDesiredRequest, VolumeConnection,
};
use yakumo_contracts::network::ServerPort;
use yakumo_types::{Fault, ServerId};

use super::App;
use super::metadata;
use crate::store::servers::{self as store, Server, ServerBuild};
use crate::store::volumes::{self, ServerVolume};

/// How often desired state is read anew when it changed while it was read.
const READS: usize = 10;

/// What `desired_power` says, in the contract's words.
pub fn power_of(word: &str) -> Power {
    match word {
        "running" => Power::Running,
        "stopped" => Power::Stopped,
        "paused" => Power::Paused,
        "absent" => Power::Absent,
        _ => Power::Unspecified,
    }
}

/// A port in the words of the compute host's contract.
pub fn network_port(port: ServerPort) -> NetworkPort {
    NetworkPort {
        port_id: port.port_id,
        network_id: port.network_id,
        mac_address: port.mac_address,
        tap: port.tap,
        mtu: port.mtu,
        addresses: port.addresses,
        gateway: port.gateway,
        dns: port.dns,
        network_label: port.network_label,
    }
}

/// What a server takes from a host.
pub fn resources(row: &Server) -> Resources {
    Resources {
        vcpus: u32::try_from(row.vcpus).unwrap_or(0),
        memory_mib: u64::try_from(row.memory_mib).unwrap_or(0),
        disk_gib: u64::try_from(row.disk_gib).unwrap_or(0),
    }
}

/// The part of the spec that only the row is needed for.
pub fn base_spec(row: &Server) -> ServerSpec {
    ServerSpec {
        name: row.name.clone(),
        hostname: row.hostname.clone(),
        project_id: row.project_id.clone(),
        user_id: row.user_id.clone(),
        flavor: Some(resources(row)),
        flavor_name: row.flavor_name.clone(),
        ..ServerSpec::default()
    }
}

/// Whether desired state holds this volume. It leaves only together with a
/// higher generation, so one that somebody has just asked to detach is in it
/// still.
pub fn is_carried(row: &ServerVolume) -> bool {
    row.connection.is_some() && !matches!(row.state.as_str(), "leaving" | "releasing")
}

fn connections(rows: &[ServerVolume]) -> Vec<VolumeConnection> {
    rows.iter()
        .filter(|row| is_carried(row))
        .filter_map(|row| serde_json::from_str(row.connection.as_deref()?).ok())
        .collect()
}

impl App {
    /// The desired state of a server as its row says it now. It is all of one
    /// generation: a host refuses two different wishes under one number.
    ///
    /// # Errors
    /// `Unavailable` if the intent changed each time that it was read.
    pub async fn desired(&self, id: ServerId) -> Result<(Server, SetDesiredRequest), Fault> {
        let db = self.db.read();
        let fetch = || async {
            store::server_fetch(db, store::Scope::All, id, store::Life::Either)
                .await?
                .ok_or_else(|| Fault::not_found("The server is gone."))
        };
        let mut row = fetch().await?;
        for _ in 0..READS {
            let build = store::server_build_fetch(db, id).await?;
            let attached = volumes::server_volume_list(db, vec![row.id.clone()]).await?;
            // What desired state holds changes only with the generation, in
            // one transaction: if that is the same after, all of it was.
            let after = fetch().await?;
            if after.generation == row.generation {
                let request = self.desired_of(&row, &build, &attached);
                return Ok((row, request));
            }
            row = after;
        }
        Err(Fault::unavailable(
            "What the server is to be changes too quickly to be read.",
        ))
    }

    /// The desired state of a server that was never told anything: to run as
    /// `spec` says, under the generation of its claim. The same as
    /// [`App::desired`], for whoever has just written the row.
    pub fn desired_at_first(
        &self,
        id: ServerId,
        generation: i64,
        spec: ServerSpec,
    ) -> SetDesiredRequest {
        SetDesiredRequest {
            server: Some(DesiredServer {
                server_id: id.to_string(),
                generation: u64::try_from(generation).unwrap_or(0),
                power: Power::Running.into(),
                spec: Some(spec),
                reboot_count: 0,
                reboot_hard: true,
                stop_timeout_seconds: self.config.stop_timeout_seconds,
            }),
            fence: None,
        }
    }

    fn desired_of(
        &self,
        row: &Server,
        build: &ServerBuild,
        attached: &[ServerVolume],
    ) -> SetDesiredRequest {
        let power = power_of(&row.desired_power);
        let spec = (power != Power::Absent).then(|| {
            let mut spec: ServerSpec = build
                .spec
                .as_deref()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_else(|| base_spec(row));
            spec.name.clone_from(&row.name);
            spec.volumes = connections(attached);
            if row.config_drive {
                let facts = self.facts(row.clone(), build.clone());
                spec.config_drive = metadata::config_drive(&facts, &self.env);
            }
            spec
        });
        SetDesiredRequest {
            server: Some(DesiredServer {
                server_id: row.id.clone(),
                generation: u64::try_from(row.generation).unwrap_or(0),
                power: power.into(),
                spec,
                reboot_count: u64::try_from(row.reboot_count).unwrap_or(0),
                reboot_hard: row.task_state.as_deref() != Some("rebooting"),
                stop_timeout_seconds: self.config.stop_timeout_seconds,
            }),
            fence: None,
        }
    }
}

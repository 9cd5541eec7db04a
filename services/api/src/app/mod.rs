//! The rules of the front door. Every function takes the request context
//! first; nothing here knows of HTTP or SQL.

pub mod checks;
pub mod console;
pub mod create;
pub mod flavors;
pub mod host_removal;
pub mod hosts;
pub mod joining;
pub mod key_pairs;
pub mod metadata;
pub mod passing_on;
pub mod power;
pub mod quotas;
pub mod reports;
pub mod servers;
pub mod spec;
pub mod volumes;
pub mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use yakumo_contracts::compute_host::ComputeHostClient;
use yakumo_contracts::image::ImagesClient;
use yakumo_contracts::network::{NetworkHostsClient, NetworksClient, ServerPortsClient};
use yakumo_contracts::scheduler::SchedulerClient;
use yakumo_contracts::volume::{StorageHostsClient, VolumesClient};
use yakumo_db::Db;
use yakumo_db::idempotency::Once;
use yakumo_rpc::{Bus, Target};
use yakumo_types::{Env, IdempotencyKey, RequestContext};
use yakumo_workflow::Engine;

use crate::config::Config;

/// Everything that the rules need; one for each process.
pub struct App {
    pub env: Env,
    pub config: Config,
    pub db: Db,
    pub bus: Bus,
    pub engine: Engine,
    pub images: ImagesClient,
    pub networks: NetworksClient,
    pub server_ports: ServerPortsClient,
    pub volumes: VolumesClient,
    pub network_hosts: NetworkHostsClient,
    pub storage_hosts: StorageHostsClient,
    pub scheduler: SchedulerClient,
    pub hosts: hosts::HostTracker,
    /// What hosts' other agents say through them.
    pub passing_on: passing_on::PassingOn,
    /// Hosts that are to be compared with the rows soon.
    pub to_sync: hosts::ToSync,
    /// How hosts come in.
    pub joining: joining::Joining,
}

/// How long a client's request waits for another service.
const REQUEST_BOUND: Duration = Duration::from_secs(20);

impl App {
    /// Wires the clients of the other services to `bus`.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(
        env: Env,
        config: Config,
        db: Db,
        bus: Bus,
        engine: Engine,
    ) -> anyhow::Result<Arc<Self>> {
        let service = |name| Target::service(name);
        Ok(Arc::new(Self {
            images: ImagesClient::new(bus.clone(), service("image")).with_deadline(REQUEST_BOUND),
            networks: NetworksClient::new(bus.clone(), service("network"))
                .with_deadline(REQUEST_BOUND),
            server_ports: ServerPortsClient::new(bus.clone(), service("network")),
            volumes: VolumesClient::new(bus.clone(), service("volume"))
                .with_deadline(REQUEST_BOUND),
            network_hosts: NetworkHostsClient::new(bus.clone(), service("network"))
                .with_deadline(REQUEST_BOUND),
            storage_hosts: StorageHostsClient::new(bus.clone(), service("volume"))
                .with_deadline(REQUEST_BOUND),
            scheduler: SchedulerClient::new(bus.clone(), service("scheduler")),
            hosts: hosts::HostTracker::default(),
            passing_on: passing_on::PassingOn::default(),
            to_sync: hosts::ToSync::default(),
            joining: joining::Joining::new(config.join.clone())?,
            env,
            config,
            db,
            bus,
            engine,
        }))
    }

    /// The agent on a host.
    pub fn compute_host(&self, name: &str) -> ComputeHostClient {
        ComputeHostClient::new(self.bus.clone(), Target::host(name))
            .with_deadline(Duration::from_secs(10))
    }

    /// A request for `operation` that is done once, if it has a key.
    fn once(&self, ctx: &RequestContext, operation: &str, key: Option<&IdempotencyKey>) -> Once {
        Once::new(ctx, operation, key, self.env.now())
    }

    /// Yakumo acting for itself.
    pub fn internal(&self) -> RequestContext {
        RequestContext::internal(self.env.id())
    }
}

/// A stored JSON object of texts; empty if it cannot be read.
pub(crate) fn texts(json: &str) -> BTreeMap<String, String> {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::store::servers::{Server, ServerBuild};

    pub(crate) fn sample_server() -> Server {
        Server {
            id: "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b".into(),
            project_id: "11111111-2b4d-4e0f-8a4b-1c2d3e4f5a6b".into(),
            user_id: "22222222-2b4d-4e0f-8a4b-1c2d3e4f5a6b".into(),
            name: "web".into(),
            hostname: "web".into(),
            flavor_id: "1".into(),
            flavor_name: "m1.tiny".into(),
            vcpus: 1,
            memory_mib: 512,
            disk_gib: 1,
            image_id: Some("33333333-2b4d-4e0f-8a4b-1c2d3e4f5a6b".into()),
            key_name: None,
            config_drive: false,
            availability_zone: None,
            host: Some("node-1".into()),
            vm_state: "active".into(),
            task_state: None,
            power_state: 1,
            stage: String::new(),
            generation: 1,
            desired_power: "running".into(),
            reboot_count: 0,
            seen_generation: 1,
            seen_converged: true,
            seen_power: "running".into(),
            seen_reboots: 0,
            seen_fault: None,
            metadata: "{}".into(),
            addresses: "{}".into(),
            addresses_revision: 0,
            security_groups: "[]".into(),
            fault: None,
            locked: false,
            locked_by: None,
            launch_index: 0,
            reservation_id: "r-abcdefgh".into(),
            workflow_id: None,
            created_at: 1_700_000_000_000_000,
            updated_at: 1_700_000_001_000_000,
            launched_at: None,
            deleted_at: 0,
        }
    }

    pub(crate) fn sample_build() -> ServerBuild {
        ServerBuild {
            server_id: sample_server().id,
            user_data: None,
            networks: "[]".into(),
            security_groups: "[]".into(),
            key_public: None,
            key_type: None,
            user_name: "demo".into(),
            forced_host: None,
            decision: None,
            spec: None,
        }
    }
}

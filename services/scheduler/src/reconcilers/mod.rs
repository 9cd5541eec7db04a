//! Keeps the view of the hosts true: the whole of it, from the api service,
//! at the start and from time to time. In between, reports are followed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use yakumo_contracts::api::{ApiClient, HostSnapshot, SnapshotRequest};
use yakumo_contracts::common::Page;
use yakumo_contracts::scheduler::{HostChanged, HostView, Resources};
use yakumo_rpc::{Bus, Target};
use yakumo_service::Reconciler;
use yakumo_types::{Env, RequestContext};

use crate::rpc::Scheduler;

/// Hosts in one page; a thousand of them are about 150 KiB.
const PAGE: u32 = 1000;

pub(crate) struct FollowHosts {
    api: ApiClient,
    env: Env,
    scheduler: Arc<Scheduler>,
}

impl FollowHosts {
    pub(crate) fn new(bus: Bus, env: Env, scheduler: Arc<Scheduler>) -> Self {
        Self {
            api: ApiClient::new(bus, Target::service("api")).with_deadline(Duration::from_secs(5)),
            env,
            scheduler,
        }
    }
}

#[async_trait]
impl Reconciler for FollowHosts {
    fn name(&self) -> &'static str {
        "follow_hosts"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let began = self.env.clock.monotonic();
        let context = RequestContext::internal(self.env.id());
        let mut named = HashSet::new();
        let mut marker = String::new();
        loop {
            let request = SnapshotRequest {
                page: Some(Page {
                    limit: PAGE,
                    marker,
                }),
            };
            let reply = self.api.snapshot(&context, request).await?;
            let now = self.env.clock.monotonic();
            self.scheduler.with_table(|table| {
                for host in reply.hosts {
                    named.insert(host.host.clone());
                    table.observe(
                        &HostChanged {
                            host: Some(view(host)),
                            ..HostChanged::default()
                        },
                        now,
                    );
                }
            });
            if reply.next.is_empty() {
                break;
            }
            marker = reply.next;
        }
        self.scheduler
            .with_table(|table| table.retain_known(&named, began));
        self.scheduler.mark_seen();
        Ok(())
    }
}

fn view(host: HostSnapshot) -> HostView {
    HostView {
        host: host.host,
        host_id: host.host_id,
        availability_zone: host.availability_zone,
        enabled: host.enabled,
        disabled_reason: host.disabled_reason,
        silent_for: host.silent_for,
        total: Some(Resources {
            vcpus: host.vcpus,
            memory_mib: host.memory_mib,
            disk_gib: host.disk_gib,
        }),
        claimed: Some(Resources {
            vcpus: host.claimed_vcpus,
            memory_mib: host.claimed_memory_mib,
            disk_gib: host.claimed_disk_gib,
        }),
        servers: host.servers,
        incarnation: host.incarnation,
        sequence: host.sequence,
        hypervisor: host.hypervisor_type,
        settings_revision: host.settings_revision,
        cpu_ratio: host.cpu_ratio,
        memory_ratio: host.memory_ratio,
        disk_ratio: host.disk_ratio,
        changed_at: 0,
    }
}

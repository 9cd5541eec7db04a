//! Passes on that hosts' other agents live.
//!
//! A host says it along with its reports, which come here; the services that
//! want to know hear of many hosts together. What gets lost is said again with
//! the host's next sign of life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yakumo_contracts::api::HostReport;
use yakumo_contracts::network::HostsLiveRequest;
use yakumo_contracts::volume::{StorageHost, StorageHostsLiveRequest};
use yakumo_types::Fault;

use super::App;

/// How often it is passed on, and after which time it is of no use.
pub(crate) const PASS_ON_EVERY: Duration = Duration::from_secs(3);

/// Hosts in one message.
const CHUNK: usize = 500;

/// What was heard since it was passed on last.
#[derive(Debug, Default)]
pub struct PassingOn(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    network: BTreeSet<String>,
    storage: BTreeMap<String, StorageHost>,
}

impl PassingOn {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a host says of its other agents.
    pub(crate) fn add(&self, report: &HostReport) {
        if !report.network_lives && report.storage.is_none() {
            return;
        }
        let mut waiting = self.lock();
        if report.network_lives {
            waiting.network.insert(report.host.clone());
        }
        if let Some(facts) = &report.storage {
            let host = StorageHost {
                host: report.host.clone(),
                host_id: report.host_id.clone(),
                free_gib: facts.free_gib,
                total_gib: facts.total_gib,
                availability_zone: facts.availability_zone.clone(),
                reachable_everywhere: facts.reachable_everywhere,
                heard_at: 0,
                alive: None,
            };
            waiting.storage.insert(report.host.clone(), host);
        }
    }

    /// Forgets a host that leaves.
    pub(crate) fn forget(&self, name: &str) {
        let mut waiting = self.lock();
        waiting.network.remove(name);
        waiting.storage.remove(name);
    }
}

impl App {
    /// Passes on what was heard.
    pub(crate) async fn pass_on(&self) {
        let waiting = std::mem::take(&mut *self.passing_on.lock());
        let context = self.internal();
        let network: Vec<String> = waiting.network.into_iter().collect();
        for hosts in network.chunks(CHUNK) {
            let hosts = HostsLiveRequest {
                hosts: hosts.to_vec(),
            };
            let sent = self
                .network_hosts
                .hosts_live_transient(&context, hosts, PASS_ON_EVERY);
            note("network", sent.await);
        }
        let storage: Vec<StorageHost> = waiting.storage.into_values().collect();
        for hosts in storage.chunks(CHUNK) {
            let hosts = StorageHostsLiveRequest {
                hosts: hosts.to_vec(),
            };
            let sent =
                self.storage_hosts
                    .storage_hosts_live_transient(&context, hosts, PASS_ON_EVERY);
            note("volume", sent.await);
        }
    }
}

fn note(service: &str, sent: Result<(), Fault>) {
    if let Err(fault) = sent {
        tracing::debug!(service, %fault, "signs of life were not passed on");
    }
}

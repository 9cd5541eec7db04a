//! The rules of the network service.
//!
//! A change is one transaction: it checks, counts, allocates, raises the
//! revision of every host that it concerns and of every server whose listing it
//! changes, and commits. What it raised is announced after the commit; whoever
//! misses that finds it by its own timer.

pub mod faults;
mod floating_ips;
mod hosts;
mod members;
mod networks;
mod notifier;
mod port_updates;
mod ports;
mod quotas;
mod reconcile;
mod render;
mod repeats;
mod routers;
mod security_groups;
mod server_ports;
mod servers;
mod states;
mod subnets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use yakumo_db::{BoxFuture, DatabaseTransaction, Db, DbError, after_commit};
use yakumo_rpc::Bus;
use yakumo_service::Gather;
use yakumo_types::{Env, Fault, ProjectId, RequestContext, Timestamp};

pub use members::KnownMembers;
pub use notifier::Notifier;
pub use reconcile::Laggards;
use states::States;

use crate::config::ManagerConfig;
use crate::store;
use crate::store::hosts::{Cause, Raised};

/// The most things that one request creates.
const MAX_BULK: usize = 100;

/// With more ports than this in one change, hosts pull everything.
const MAX_NOTED: usize = 128;

/// How many calls are handled at a time.
pub const MAX_CALLS: u16 = 1024;

/// How many of them may wait for hosts.
const MAX_WAITING: usize = 768;

/// How many states are made at a time, and how many hosts may wait for theirs:
/// what all start together would have to wait too long for is made for nobody.
const MAX_PULLS: usize = 16;
const MAX_PULLS_WAITING: usize = 512;

/// Everything that the rules need; a cheap handle.
#[derive(Clone)]
pub struct App {
    /// Clock and chance.
    pub env: Env,
    /// The tables.
    pub db: Db,
    /// For asking hosts.
    pub bus: Bus,
    /// Settings.
    pub config: Arc<ManagerConfig>,
    /// Announces what changed.
    pub notifier: Notifier,
    /// Who waits for hosts.
    pub waiting: Arc<Waiting>,
    /// What hosts are just reading in parts.
    pub states: Arc<States>,
    /// When hosts were heard last.
    pub beats: Arc<Gather<Timestamp>>,
    /// Told when a group has other members.
    pub members: Arc<Notify>,
    /// The members of groups, while many hosts ask for them.
    pub known_members: KnownMembers,
}

/// Calls that wait for a host. A host answers by calling us, so those that wait
/// must never take all the places that there are for calls.
pub struct Waiting {
    places: Semaphore,
    pulls: Semaphore,
    pulls_waiting: Semaphore,
    /// Told whenever a host has let something go.
    released: Notify,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            places: Semaphore::new(MAX_WAITING),
            pulls: Semaphore::new(MAX_PULLS),
            pulls_waiting: Semaphore::new(MAX_PULLS_WAITING),
            released: Notify::new(),
        }
    }
}

impl Waiting {
    fn place(&self) -> Result<SemaphorePermit<'_>, Fault> {
        self.places
            .try_acquire()
            .map_err(|_| Fault::unavailable("Too many requests wait for hosts."))
    }

    /// Leave to make a state of a host, soon or not at all.
    async fn pull(&self) -> Result<SemaphorePermit<'_>, Fault> {
        let busy = |_| Fault::unavailable("Too many hosts ask for their states.");
        let _waits = self.pulls_waiting.try_acquire().map_err(|_| busy(()))?;
        self.pulls.acquire().await.map_err(|_| busy(()))
    }
}

impl App {
    fn now(&self) -> i64 {
        self.env.now().as_micros()
    }

    /// For how long nothing was heard, by when it was (microseconds).
    fn silence(&self, heard_at: i64) -> Duration {
        self.env.now().apart(Timestamp::from_micros(heard_at))
    }

    /// Runs a change in one transaction. It may run more than once.
    async fn change<A, T, F>(&self, ctx: &RequestContext, input: A, change: F) -> Result<T, Fault>
    where
        A: Clone + Send + Sync + 'static,
        T: Send + 'static,
        F: for<'t> Fn(
                App,
                &'t DatabaseTransaction,
                RequestContext,
                A,
            ) -> BoxFuture<'t, Result<T, DbError>>
            + Copy
            + Send
            + Sync
            + 'static,
    {
        let (app, ctx) = (self.clone(), ctx.clone());
        Ok(self
            .db
            .write(move |txn| change(app.clone(), txn, ctx.clone(), input.clone()))
            .await?)
    }

    /// The hosts must pull everything again.
    async fn touch_hosts(
        &self,
        txn: &DatabaseTransaction,
        hosts: impl IntoIterator<Item = String>,
    ) -> Result<(), DbError> {
        let hosts = ordered(hosts);
        store::hosts::bump(txn, &hosts, Cause::Other, self.now()).await?;
        self.announce_hosts(hosts);
        Ok(())
    }

    fn announce_hosts(&self, hosts: Vec<String>) {
        if !hosts.is_empty() {
            let notifier = self.notifier.clone();
            after_commit(move || notifier.hosts(hosts));
        }
    }

    /// Ports became other ones: their hosts must pull them. Gives what was raised,
    /// by host. And they joined or left these groups, or became others in them,
    /// which hosts with rules that name the groups are told soon. Call it once for
    /// a change, when memberships are as they will be and addresses still have
    /// their owners.
    async fn touch_hosts_of(
        &self,
        txn: &DatabaseTransaction,
        ports: &[store::port::Model],
        groups: &[String],
    ) -> Result<HashMap<String, Raised>, DbError> {
        let all: BTreeSet<&str> = ports.iter().map(|port| port.id.as_str()).collect();
        self.touch_groups(txn, &all, groups).await?;
        let mut concerned: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for port in ports.iter().filter(|port| !port.host.is_empty()) {
            let own = concerned.entry(&port.host).or_default();
            own.insert(&port.id);
        }
        let concerned: BTreeMap<String, Vec<String>> = concerned
            .into_iter()
            .map(|(host, ports)| {
                let ports = ports.into_iter().map(str::to_owned);
                (host.to_owned(), ports.collect())
            })
            .collect();
        self.touch_hosts_with(txn, concerned).await
    }

    /// Hosts must pull these ports.
    async fn touch_hosts_with(
        &self,
        txn: &DatabaseTransaction,
        concerned: BTreeMap<String, Vec<String>>,
    ) -> Result<HashMap<String, Raised>, DbError> {
        let hosts: Vec<String> = concerned.keys().cloned().collect();
        let many = concerned.values().any(|ports| ports.len() > MAX_NOTED);
        let cause = if many { Cause::Other } else { Cause::Ports };
        let raised = store::hosts::bump(txn, &hosts, cause, self.now()).await?;
        if cause == Cause::Ports {
            let mut changes = Vec::new();
            for (host, ports) in concerned {
                let Some(raised) = raised.get(&host) else {
                    continue;
                };
                let ports = ports.into_iter();
                changes.extend(ports.map(|port| (host.clone(), raised.revision, port)));
            }
            store::hosts::note(txn, changes).await?;
        }
        self.announce_hosts(hosts);
        Ok(raised)
    }

    /// Listings show something new of these servers: id and project.
    async fn touch_servers(
        &self,
        txn: &DatabaseTransaction,
        servers: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), DbError> {
        let mut servers: Vec<(String, String)> = servers
            .into_iter()
            .filter(|(id, _)| !id.is_empty())
            .collect();
        servers.sort_unstable();
        servers.dedup_by(|a, b| a.0 == b.0);
        for (id, project) in &servers {
            store::servers::bump(txn, id, project).await?;
        }
        self.announce_servers(servers.into_iter().map(|(id, _)| id).collect());
        Ok(())
    }

    fn announce_servers(&self, servers: Vec<String>) {
        if !servers.is_empty() {
            let notifier = self.notifier.clone();
            after_commit(move || notifier.servers(servers));
        }
    }

    /// [`Self::touch_hosts_of`], and the servers of these ports.
    async fn touch_ports(
        &self,
        txn: &DatabaseTransaction,
        ports: &[store::port::Model],
        groups: &[String],
    ) -> Result<HashMap<String, Raised>, DbError> {
        let raised = self.touch_hosts_of(txn, ports, groups).await?;
        let servers = ports.iter().filter(|port| is_of_server(port));
        self.touch_servers(txn, servers.map(server_of)).await?;
        Ok(raised)
    }
}

/// Always in the same order, so that two transactions do not wait for each other.
fn ordered(hosts: impl IntoIterator<Item = String>) -> Vec<String> {
    let hosts: BTreeSet<String> = hosts.into_iter().filter(|host| !host.is_empty()).collect();
    hosts.into_iter().collect()
}

/// Whether a port is plugged into a server.
fn is_of_server(port: &store::port::Model) -> bool {
    port.device_owner.starts_with("compute:") && !port.device_id.is_empty()
}

fn server_of(port: &store::port::Model) -> (String, String) {
    (port.device_id.clone(), port.project_id.clone())
}

/// The project that a new thing belongs to: the caller's own, or any that an
/// administrator names.
fn owner(ctx: &RequestContext, wanted: &str) -> Result<String, Fault> {
    if wanted.is_empty() {
        return Ok(ctx.require_member()?.to_string());
    }
    let wanted: ProjectId = wanted
        .parse()
        .map_err(|_| faults::invalid("The project id is not valid."))?;
    if ctx.is_admin() {
        return Ok(wanted.to_string());
    }
    let own = ctx.require_member()?;
    if own != wanted {
        return Err(Fault::forbidden(
            "Only an administrator may act for another project.",
        ));
    }
    Ok(own.to_string())
}

/// Refuses callers who may see a thing but do not own it.
fn require_owner(ctx: &RequestContext, project: &str) -> Result<(), Fault> {
    if ctx.is_admin() {
        return Ok(());
    }
    let own = ctx.require_member()?;
    if own.to_string() == project {
        return Ok(());
    }
    Err(Fault::forbidden("This belongs to another project."))
}

/// Refuses what only administrators may ask for.
fn admin_only(ctx: &RequestContext, asked: bool, what: &str) -> Result<(), Fault> {
    if asked && !ctx.is_admin() {
        return Err(Fault::forbidden(format!(
            "Only an administrator may set {what}."
        )));
    }
    Ok(())
}

fn check_texts(name: &str, description: &str) -> Result<(), Fault> {
    if !name.is_empty() {
        yakumo_types::check_name("The name", name, 255).map_err(faults::as_invalid_input)?;
    }
    yakumo_types::check_description("The description", description, 255)
        .map_err(faults::as_invalid_input)
}

fn check_bulk(count: usize) -> Result<(), Fault> {
    match count {
        0 => Err(faults::invalid("Nothing was asked for.")),
        count if count > MAX_BULK => Err(faults::invalid(format!(
            "At most {MAX_BULK} things can be made by one request."
        ))),
        _ => Ok(()),
    }
}

/// Bytes of rows in one reply; the bus takes 1 MiB.
const MAX_REPLY: usize = 900 * 1024;

/// Drops rows at the far end of a page until the rest fits into one reply. At
/// least one row stays. Returns whether any went: they follow on the next page.
pub fn fit<M: prost::Message>(rows: &mut Vec<M>, backwards: bool) -> bool {
    let mut room = MAX_REPLY;
    let mut fits = 0;
    let sizes = rows.iter().map(|row| row.encoded_len() + 8);
    let sizes: Vec<usize> = if backwards {
        sizes.rev().collect()
    } else {
        sizes.collect()
    };
    for size in sizes {
        if size > room && fits > 0 {
            break;
        }
        room = room.saturating_sub(size);
        fits += 1;
    }
    let dropped = rows.len() - fits;
    if backwards {
        rows.drain(..dropped);
    } else {
        rows.truncate(fits);
    }
    dropped > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_contracts::network::Network;

    #[test]
    fn a_page_that_is_too_large_loses_its_far_end() {
        let page = || -> Vec<Network> {
            (0..10)
                .map(|number| Network {
                    name: number.to_string(),
                    description: "x".repeat(MAX_REPLY / 4),
                    ..Network::default()
                })
                .collect()
        };
        let names =
            |rows: &[Network]| -> String { rows.iter().map(|row| row.name.as_str()).collect() };
        let mut rows = page();
        assert!(fit(&mut rows, false));
        assert_eq!(names(&rows), "012");
        let mut rows = page();
        assert!(fit(&mut rows, true));
        assert_eq!(names(&rows), "789");
        rows.truncate(1);
        assert!(!fit(&mut rows, false));
    }
}

//! What hosts are told, and what they say.
//!
//! A host's state is read after its revision was: it may hold more than the
//! revision promises and never less, so what a host applied under a revision
//! certainly lacks everything that was released at or before it. What became of
//! a state since a revision is read in the same way: which ports changed first,
//! and then how they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest, Sha256};
use yakumo_contracts::network::{
    Agent, AnnounceReply, AnnounceRequest, FixedIp, ForgetHostRequest, GroupMembers, GroupRevision,
    HostDelta, HostFloatingIp, HostNetwork, HostPort, HostRule, HostSecurityGroup, HostState,
    HostSubnet, ListAgentsReply, ListRequest, PullStateReply, PullStateRequest, RemotePort,
    ReportAppliedRequest,
};
use yakumo_db::DbError;
use yakumo_service::Process;
use yakumo_types::{Fault, RequestContext, Timestamp};

use super::{App, faults};
use crate::store::hosts::News;
use crate::store::{self, address, floating_ip, network, port, rule};

/// Bytes of a state in one message.
const CHUNK: usize = 512 * 1024;

/// With more changes than this a host gets everything.
const MAX_CHANGES: usize = 512;

/// Ids that a refusal names at the most.
const NAMED: u64 = 5;

/// A host that says nothing new is noted as heard only so often.
const HEARD_EVERY: Duration = Duration::from_secs(20);

/// Between two writings of who was heard.
const WRITE_BEATS: Duration = Duration::from_secs(5);

impl App {
    /// A host's desired state or what became of it, or a part of that. Once begun
    /// it can be read to its end, even when there is a newer one by then.
    pub async fn pull_state(&self, request: PullStateRequest) -> Result<PullStateReply, Fault> {
        if request.offset > 0
            && let Some((delta, bytes)) =
                self.states
                    .find(&request.host, request.revision, &request.tag)
        {
            let (revision, tag) = (request.revision, request.tag.clone());
            return self.part(&request, revision, tag, delta, bytes);
        }
        let _leave = self.waiting.pull().await?;
        let db = self.db.read();
        let since = i64::try_from(request.since_revision).unwrap_or(i64::MAX);
        let noted_since = if request.deltas { since } else { i64::MAX };
        let news = store::hosts::news(db, &request.host, noted_since, MAX_CHANGES).await?;
        let revision = news.as_ref().map_or(0, |news| news.revision);
        // In a whole state the others are left out; here they are the reason.
        let stale = match request.deltas {
            true => self.stale_groups(&request.groups).await?,
            false => BTreeSet::new(),
        };
        if request.offset == 0 && revision == since && stale.is_empty() {
            return Ok(PullStateReply {
                revision: request.since_revision,
                ..PullStateReply::default()
            });
        }
        let known = |news: &News| {
            request.deltas && !news.more && (news.full_revision..=news.revision).contains(&since)
        };
        let news = news.filter(known);
        let delta = news.is_some();
        let revision = u64::try_from(revision).unwrap_or(0);
        let bytes = match news {
            Some(news) => {
                let ports: Vec<String> = news.ports.into_iter().collect();
                self.host_delta(&request, revision, &ports, stale)
                    .await?
                    .encode_to_vec()
            }
            None => self.host_state(&request, revision).await?.encode_to_vec(),
        };
        let bytes = Bytes::from(bytes);
        let tag = Sha256::digest(&bytes).as_slice().to_vec();
        if request.offset > 0 && (request.revision != revision || request.tag != tag) {
            return Ok(PullStateReply {
                start_again: true,
                ..PullStateReply::default()
            });
        }
        if bytes.len() > CHUNK {
            self.states
                .keep(&request.host, revision, &tag, delta, bytes.clone());
        }
        self.part(&request, revision, tag, delta, bytes)
    }

    /// The part that was asked for.
    fn part(
        &self,
        request: &PullStateRequest,
        revision: u64,
        tag: Vec<u8>,
        delta: bool,
        bytes: Bytes,
    ) -> Result<PullStateReply, Fault> {
        let offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
        let rest = bytes
            .get(offset..)
            .ok_or_else(|| Fault::invalid("The offset lies behind the state."))?;
        if offset > 0 && rest.len() <= CHUNK {
            self.states.forget(&request.host);
        }
        Ok(PullStateReply {
            revision,
            total_bytes: u64::try_from(bytes.len()).unwrap_or(0),
            chunk: rest
                .get(..rest.len().min(CHUNK))
                .unwrap_or_default()
                .to_vec(),
            start_again: false,
            tag,
            delta,
        })
    }

    /// What became of a host's state by these ports, and what was asked for
    /// along with it. A port is told as it is now, whatever made it so.
    async fn host_delta(
        &self,
        request: &PullStateRequest,
        revision: u64,
        ids: &[String],
        stale: BTreeSet<String>,
    ) -> Result<HostDelta, DbError> {
        let db = self.db.read();
        let host = &request.host;
        let here = store::ports::of_host(db, host, ids).await?;
        let mut parts = PortParts::default();
        parts.add_addresses(store::addresses::of_owners(db, ids).await?);
        parts.add_groups(store::ports::memberships(db, ids).await?);
        let on_host: Vec<String> = here.iter().map(|port| port.id.clone()).collect();
        parts.add_floating(store::floating_ips::of_ports(db, &on_host).await?);
        let ports: Vec<HostPort> = here.into_iter().map(|port| parts.port(port)).collect();
        let remote_ports = ids
            .iter()
            .filter(|id| on_host.binary_search(*id).is_err())
            .map(|id| parts.remote_port(id))
            .collect();
        // A host hears of nothing that its ports do not need.
        let used = ports.iter().map(|port| &port.network_id);
        let known = request.known.as_ref().map(|known| &known.network_ids);
        let networks = lacked(used, &request.network_ids, known);
        let used = ports.iter().flat_map(|port| &port.security_groups);
        let known = request.known.as_ref().map(|known| &known.group_ids);
        let groups = lacked(used, &request.group_ids, known);
        let (security_groups, members) = self.host_groups(groups, stale, &[]).await?;
        Ok(HostDelta {
            since_revision: request.since_revision,
            revision,
            ports,
            remote_ports,
            networks: self.host_networks(&networks).await?,
            security_groups,
            members,
        })
    }

    async fn host_state(
        &self,
        request: &PullStateRequest,
        revision: u64,
    ) -> Result<HostState, DbError> {
        let (db, host) = (self.db.read(), request.host.as_str());
        let ports = store::ports::on_host(db, host).await?;
        let networks: BTreeSet<String> = ports.iter().map(|port| port.network_id.clone()).collect();
        let networks: Vec<String> = networks.into_iter().collect();
        let mut parts = PortParts::default();
        parts.add_addresses(store::addresses::on_host(db, host).await?);
        parts.add_floating(store::floating_ips::on_host(db, host).await?);
        parts.add_groups(store::ports::memberships_on_host(db, host).await?);
        let used: BTreeSet<String> = parts.groups.values().flatten().cloned().collect();
        let used = used.into_iter().collect();
        // An agent that can change what it has says what it has.
        let known = if request.deltas {
            &[]
        } else {
            request.groups.as_slice()
        };
        let (security_groups, members) = self.host_groups(used, BTreeSet::new(), known).await?;
        Ok(HostState {
            host: host.to_owned(),
            revision,
            networks: self.host_networks(&networks).await?,
            ports: ports.into_iter().map(|port| parts.port(port)).collect(),
            security_groups,
            members,
        })
    }

    /// Groups with their rules, and the members of the groups that those name and
    /// of some others. Members of which the host has the newest ones are left out.
    async fn host_groups(
        &self,
        ids: Vec<String>,
        others: BTreeSet<String>,
        known: &[GroupRevision],
    ) -> Result<(Vec<HostSecurityGroup>, Vec<GroupMembers>), DbError> {
        let db = self.db.read();
        // Nothing else passes on hosts.
        let mut rules = store::security_groups::rules_of(db, &ids).await?;
        rules.retain(|rule| rule.ethertype == "IPv4");
        let mut remote = others;
        remote.extend(
            rules
                .iter()
                .map(|rule| rule.remote_group_id.clone())
                .filter(|group| !group.is_empty()),
        );
        let remote: Vec<String> = remote.into_iter().collect();
        let members = self.group_members(remote, known).await?;
        let mut rules_of: HashMap<String, Vec<HostRule>> = HashMap::new();
        for rule in rules {
            rules_of
                .entry(rule.group_id.clone())
                .or_default()
                .push(host_rule(rule));
        }
        let groups = ids
            .into_iter()
            .map(|id| HostSecurityGroup {
                rules: rules_of.remove(&id).unwrap_or_default(),
                id,
            })
            .collect();
        Ok((groups, members))
    }

    /// The members of groups. Their revisions are read first: there may be more
    /// of a group than its revision promises, and never less.
    async fn group_members(
        &self,
        groups: Vec<String>,
        known: &[GroupRevision],
    ) -> Result<Vec<GroupMembers>, DbError> {
        let db = self.db.read();
        let revisions = store::members::revisions(db, &groups).await?;
        let known: HashMap<&str, u64> = known
            .iter()
            .map(|group| (group.group_id.as_str(), group.revision))
            .collect();
        let same = |group: &String| {
            known.get(group.as_str()).copied() == Some(revision_in(&revisions, group))
        };
        let wanted: Vec<String> = groups.iter().filter(|id| !same(id)).cloned().collect();
        let mut members = self.known_members.read(db, wanted, &revisions).await?;
        Ok(groups
            .into_iter()
            .map(|group_id| {
                let (addresses, port_ids) = members
                    .remove(&group_id)
                    .map(|members| members.iter().cloned().unzip())
                    .unwrap_or_default();
                GroupMembers {
                    revision: revision_in(&revisions, &group_id),
                    unchanged: same(&group_id),
                    group_id,
                    addresses,
                    port_ids,
                }
            })
            .collect())
    }

    async fn host_networks(&self, ids: &[String]) -> Result<Vec<HostNetwork>, DbError> {
        let db = self.db.read();
        let mut rows = store::networks::by_ids(db, ids).await?;
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let mut subnets: HashMap<String, Vec<HostSubnet>> = HashMap::new();
        for subnet in store::subnets::of_networks(db, ids).await? {
            subnets
                .entry(subnet.network_id)
                .or_default()
                .push(HostSubnet {
                    id: subnet.id,
                    cidr: subnet.cidr,
                    gateway_ip: subnet.gateway_ip,
                    serve_address: subnet.serve_address,
                    enable_dhcp: subnet.enable_dhcp,
                    dns_nameservers: serde_json::from_str(&subnet.dns_nameservers)?,
                    host_routes: serde_json::from_str(&subnet.host_routes)?,
                });
        }
        let interfaces = store::routers::interfaces_on(db, ids).await?;
        let routers: Vec<String> = interfaces
            .iter()
            .map(|interface| interface.router_id.clone())
            .collect();
        let routers = store::routers::by_ids(db, &routers).await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let router = interfaces
                    .iter()
                    .find(|interface| interface.network_id == row.id)
                    .and_then(|interface| {
                        routers
                            .iter()
                            .find(|router| router.id == interface.router_id)
                    })
                    .filter(|router| router.admin_state_up);
                let behind_gateway =
                    router.is_some_and(|router| !router.gateway_network_id.is_empty());
                let subnets = subnets.remove(&row.id).unwrap_or_default();
                host_network(
                    row,
                    router.map(|router| router.id.clone()),
                    behind_gateway,
                    subnets,
                )
            })
            .collect())
    }

    /// The host has made a revision real: what it no longer has is gone.
    pub async fn report_applied(&self, request: ReportAppliedRequest) -> Result<(), Fault> {
        let ctx = RequestContext::internal(self.env.id());
        self.change(&ctx, request, |app, txn, _ctx, request| {
            Box::pin(async move {
                let revision = i64::try_from(request.revision).unwrap_or(i64::MAX);
                store::hosts::applied(txn, &request.host, revision).await?;
                let gone = store::ports::released_by(txn, &request.host, revision).await?;
                for ids in gone.deleted.chunks(200) {
                    app.purge_ports(txn, ids.to_vec()).await?;
                }
                for ids in gone.unbound.chunks(200) {
                    store::ports::unbind(txn, ids, app.now()).await?;
                }
                for ids in request.wired_port_ids.chunks(200) {
                    store::ports::mark_active(txn, &request.host, ids, app.now()).await?;
                }
                Ok(())
            })
        })
        .await?;
        self.waiting.released.notify_waiters();
        Ok(())
    }

    /// Writes down which hosts were heard, until the process ends.
    pub async fn write_down_beats(self, process: Process) {
        let write = |beats: BTreeMap<String, Timestamp>| {
            let app = self.clone();
            async move {
                let now = app.now();
                // What waited longer, because the database was away, is no sign
                // of life any more; the host's next one is.
                let fresh = app.env.now().minus(WRITE_BEATS * 2);
                let beats = beats.into_iter().filter(|(_, heard)| *heard >= fresh);
                let names: Vec<String> = beats.map(|(name, _)| name).collect();
                app.db
                    .write(move |txn| {
                        let names = names.clone();
                        Box::pin(async move { store::hosts::beat(txn, &names, now).await })
                    })
                    .await?;
                Ok(())
            }
        };
        self.beats.write_down(&process, WRITE_BEATS, write).await;
    }

    /// Forgets a host that will not speak again; whether it was known. Ports
    /// that only waited for its word are let go, since it can have nothing any
    /// more that anybody could reach.
    pub async fn forget_host(&self, request: ForgetHostRequest) -> Result<bool, Fault> {
        let ctx = RequestContext::internal(self.env.id());
        let check_only = request.check_only;
        let was_known = self
            .change(&ctx, request, |app, txn, _ctx, request| {
                Box::pin(async move {
                    let host = request.host;
                    let (count, some) = store::ports::bound_to(txn, &host, NAMED).await?;
                    if count > 0 {
                        let more = if count > NAMED { ", …" } else { "" };
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Host {host} still has ports: {count} ({}{more}).",
                            some.join(", ")
                        ))));
                    }
                    if request.check_only {
                        let known = store::hosts::find(txn, &host).await?;
                        return Ok(known.is_some());
                    }
                    let gone = store::ports::released_by(txn, &host, i64::MAX).await?;
                    for ids in gone.deleted.chunks(200) {
                        app.purge_ports(txn, ids.to_vec()).await?;
                    }
                    for ids in gone.unbound.chunks(200) {
                        store::ports::unbind(txn, ids, app.now()).await?;
                    }
                    store::hosts::delete(txn, &host).await
                })
            })
            .await?;
        if !check_only {
            self.waiting.released.notify_waiters();
        }
        Ok(was_known)
    }

    /// Who an agent is; returns what the host should have.
    pub async fn announce(&self, request: AnnounceRequest) -> Result<AnnounceReply, Fault> {
        let groups_changed = !self.stale_groups(&request.groups).await?.is_empty();
        let known = store::hosts::find(self.db.read(), &request.host).await?;
        if let Some(host) = known
            && who(&request).is(&host)
            && !is_ahead(&request, host.revision)
            && self.silence(host.heard_at) < HEARD_EVERY
        {
            return Ok(AnnounceReply {
                revision: u64::try_from(host.revision).unwrap_or(0),
                groups_changed,
            });
        }
        let ctx = RequestContext::internal(self.env.id());
        let host = self
            .change(&ctx, request, |app, txn, _ctx, request| {
                Box::pin(async move {
                    let who = who(&request);
                    let host = store::hosts::heard(txn, &request.host, who, app.now()).await?;
                    if !is_ahead(&request, host.revision) {
                        return Ok(host);
                    }
                    // The database was restored to a time before the host was
                    // first heard of. By our own clock, and not by what it says.
                    let now = yakumo_db::database_now(txn).await?.as_micros();
                    store::hosts::leap(txn, Some(&request.host), now).await?;
                    app.announce_hosts(vec![request.host.clone()]);
                    store::hosts::find(txn, &request.host)
                        .await?
                        .ok_or(DbError::NotFound)
                })
            })
            .await?;
        Ok(AnnounceReply {
            revision: u64::try_from(host.revision).unwrap_or(0),
            groups_changed,
        })
    }

    /// Those of these groups that have other members.
    async fn stale_groups(&self, known: &[GroupRevision]) -> Result<BTreeSet<String>, DbError> {
        let ids: Vec<String> = known.iter().map(|group| group.group_id.clone()).collect();
        let now = store::members::revisions(self.db.read(), &ids).await?;
        Ok(known
            .iter()
            .filter(|group| revision_in(&now, &group.group_id) != group.revision)
            .map(|group| group.group_id.clone())
            .collect())
    }

    /// The agents, for administrators. There are few enough for one page.
    pub async fn list_agents(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListAgentsReply, Fault> {
        ctx.require_admin()?;
        let db = self.db.read();
        let mut rows = store::hosts::all(db).await?;
        let wanted = |key: &str, value: &str| {
            store::listing::filter(&request, key)
                .is_none_or(|values| values.iter().any(|wanted| wanted == value))
        };
        rows.retain(|row| wanted("host", &row.name) && wanted("id", &row.host_id));
        rows.sort_by(|a, b| a.host_id.cmp(&b.host_id));
        if !request.marker.is_empty() {
            let Some(place) = rows.iter().position(|row| row.host_id == request.marker) else {
                return Err(faults::no_agent(&request.marker));
            };
            rows.drain(..=place);
        }
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => 500,
            limit => limit.min(500),
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let counts: HashMap<String, (i64, i64)> = store::ports::count_on_hosts(db, &names)
            .await?
            .into_iter()
            .map(|(host, ports, networks)| (host, (ports, networks)))
            .collect();
        let bound = Duration::from_secs(self.config.host_down_seconds);
        let agents = rows
            .into_iter()
            .map(|row| {
                let (ports, networks) = counts.get(&row.name).copied().unwrap_or_default();
                Agent {
                    id: row.host_id,
                    alive: self.silence(row.heard_at) <= bound,
                    host: row.name,
                    created_at: row.created_at,
                    started_at: row.started_at,
                    heartbeat_timestamp: row.heard_at,
                    revision: u64::try_from(row.revision).unwrap_or(0),
                    applied_revision: u64::try_from(row.applied_revision).unwrap_or(0),
                    ports: u32::try_from(ports).unwrap_or(0),
                    networks: u32::try_from(networks).unwrap_or(0),
                    driver: row.driver,
                    availability_zone: row.availability_zone,
                }
            })
            .collect();
        Ok(ListAgentsReply { agents, more })
    }
}

/// What a host lacks of what is used: that which it asks for, and if it says what
/// it knows, all else.
fn lacked<'a>(
    used: impl Iterator<Item = &'a String>,
    asked: &[String],
    known: Option<&Vec<String>>,
) -> Vec<String> {
    let lacked = |id: &&String| asked.contains(id) || known.is_some_and(|all| !all.contains(id));
    let lacked: BTreeSet<&String> = used.filter(lacked).collect();
    lacked.into_iter().cloned().collect()
}

fn who(request: &AnnounceRequest) -> store::hosts::Who {
    store::hosts::Who {
        host_id: request.host_id.clone(),
        driver: request.driver.clone(),
        zone: request.availability_zone.clone(),
        started_at: request.started_at,
        follows_groups: request.follows_groups,
    }
}

/// A group that never changed has revision 0.
fn revision_in(revisions: &HashMap<String, i64>, group: &str) -> u64 {
    let revision = revisions.get(group).copied().unwrap_or(0);
    u64::try_from(revision).unwrap_or(0)
}

/// Whether a host has a revision that was never given out.
fn is_ahead(request: &AnnounceRequest, revision: i64) -> bool {
    i64::try_from(request.applied_revision).unwrap_or(i64::MAX) > revision
}

/// What belongs to ports, by their ids.
#[derive(Default)]
struct PortParts {
    addresses: HashMap<String, Vec<FixedIp>>,
    floating: HashMap<String, Vec<HostFloatingIp>>,
    groups: HashMap<String, Vec<String>>,
}

impl PortParts {
    fn add_addresses(&mut self, rows: Vec<address::Model>) {
        for row in rows {
            let fixed = super::render::fixed_ip(&row);
            self.addresses.entry(row.owner).or_default().push(fixed);
        }
    }

    fn add_floating(&mut self, rows: Vec<floating_ip::Model>) {
        for row in rows {
            let floating = HostFloatingIp {
                address: row.address,
                fixed_address: row.fixed_address,
            };
            self.floating.entry(row.port_id).or_default().push(floating);
        }
    }

    fn add_groups(&mut self, rows: Vec<(String, String)>) {
        for (port, group) in rows {
            self.groups.entry(port).or_default().push(group);
        }
    }

    /// A port with what belongs to it.
    fn port(&mut self, port: port::Model) -> HostPort {
        HostPort {
            fixed_ips: self.addresses.remove(&port.id).unwrap_or_default(),
            floating_ips: self.floating.remove(&port.id).unwrap_or_default(),
            security_groups: self.groups.remove(&port.id).unwrap_or_default(),
            id: port.id,
            network_id: port.network_id,
            project_id: port.project_id,
            server_id: port.device_id,
            mac_address: port.mac,
            hostname: port.hostname,
            admin_state_up: port.admin_state_up,
            port_security_enabled: port.port_security,
        }
    }

    /// A port that is not on the host.
    fn remote_port(&mut self, id: &str) -> RemotePort {
        let group_ids = self.groups.remove(id).unwrap_or_default();
        let addresses = self.addresses.remove(id).unwrap_or_default();
        RemotePort {
            port_id: id.to_owned(),
            addresses: addresses
                .into_iter()
                .filter(|_| !group_ids.is_empty())
                .map(|ip| ip.ip_address)
                .collect(),
            group_ids,
        }
    }
}

fn host_rule(rule: rule::Model) -> HostRule {
    let bound = |value: Option<i64>| value.and_then(|value| i32::try_from(value).ok());
    HostRule {
        ingress: rule.direction == "ingress",
        protocol: rule.protocol,
        port_range_min: bound(rule.port_min),
        port_range_max: bound(rule.port_max),
        remote_ip_prefix: rule.remote_ip_prefix,
        remote_group_id: rule.remote_group_id,
    }
}

fn host_network(
    row: network::Model,
    router: Option<String>,
    behind_gateway: bool,
    subnets: Vec<HostSubnet>,
) -> HostNetwork {
    HostNetwork {
        shared: row.shared,
        mtu: u32::try_from(row.mtu).unwrap_or(1500),
        routed: row.admin_state_up && (row.network_type == "flat" || behind_gateway),
        router_id: router.unwrap_or_default(),
        provider_network_type: row.network_type,
        // The way to the outside is the hosts' own.
        provider_physical_network: if row.external {
            String::new()
        } else {
            row.physical_network
        },
        project_id: row.project_id,
        id: row.id,
        subnets,
    }
}

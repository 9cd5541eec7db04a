//! Looking at servers, and changing what needs no host.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use yakumo_contracts::network::{ServerAddresses, ServerSecurityGroupRequest};
use yakumo_db::DbError;
use yakumo_types::{Fault, ProjectId, RequestContext, Role, ServerId, UserId, check_name};

use super::checks::check_metadata;
use super::power::{living, missing, require_unlocked, scope};
use super::{App, texts};
use crate::store::actions::{self, Action};
use crate::store::servers::{
    self as store, Expected, Life, LockedBy, NamedServer, Scope, Server, ServerChange,
    ServerFilter, ServerPage, ShownServer,
};
use crate::store::volumes::{self, ServerVolume};

/// Whose servers a listing is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The caller's project's.
    Own,
    /// Everybody's; for administrators.
    Everybodys,
    /// Another project's; for administrators.
    Project(ProjectId),
}

/// How metadata is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataChange {
    /// What is not named stays.
    Merge,
    /// What is not named goes.
    Replace,
}

/// Servers of a page with their volumes, by server id.
pub type Volumes = HashMap<String, Vec<ServerVolume>>;

impl App {
    /// One page of servers, newest first unless asked otherwise.
    pub async fn server_list(
        &self,
        ctx: &RequestContext,
        whose: Whose,
        filter: &ServerFilter,
        page: &ServerPage,
    ) -> Result<Vec<ShownServer>, Fault> {
        let scope = listed_scope(ctx, whose)?;
        Ok(store::server_list_shown(self.db.read(), scope, filter, page).await?)
    }

    /// The same, with no more than the names.
    pub async fn server_list_named(
        &self,
        ctx: &RequestContext,
        whose: Whose,
        filter: &ServerFilter,
        page: &ServerPage,
    ) -> Result<Vec<NamedServer>, Fault> {
        let scope = listed_scope(ctx, whose)?;
        Ok(store::server_list_named(self.db.read(), scope, filter, page).await?)
    }

    /// The server that a page begins after; 400 for one that is not there.
    pub async fn server_marker(&self, ctx: &RequestContext, marker: &str) -> Result<Server, Fault> {
        let unknown = || Fault::invalid(format!("marker [{marker:.64}] not found"));
        let id: ServerId = marker.parse().map_err(|_| unknown())?;
        store::server_fetch(self.db.read(), scope(ctx)?, id, Life::Either)
            .await?
            .ok_or_else(unknown)
    }

    /// The volumes of servers, in one query.
    pub async fn volumes_of(&self, ids: Vec<String>) -> Result<Volumes, Fault> {
        let mut all: Volumes = HashMap::new();
        for row in volumes::server_volume_list(self.db.read(), ids).await? {
            all.entry(row.server_id.clone()).or_default().push(row);
        }
        Ok(all)
    }

    /// Gives a server another name; its host name in the guest stays.
    pub async fn server_rename(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        name: &str,
    ) -> Result<Server, Fault> {
        let name = check_name("Server name", name, 255)?.to_owned();
        self.change(ctx, id, move |_, change| Ok(change.name(&name)))
            .await
    }

    /// Locks a server against its members, or unlocks it. An administrator's
    /// lock is an administrator's to take away.
    pub async fn server_lock(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        locked: bool,
    ) -> Result<(), Fault> {
        // Whoever may use a server may lock and unlock it.
        ctx.require_member()?;
        let scope = scope(ctx)?;
        let by_admin = ctx.is_admin();
        let now = self.env.now();
        self.db
            .write(move |txn| {
                Box::pin(async move {
                    let row = living(txn, scope, id).await?;
                    let of_admin = row.locked_by.as_deref() == Some(LockedBy::Admin.as_str());
                    if of_admin && !by_admin {
                        if locked {
                            return Ok(());
                        }
                        return Err(DbError::Fault(Fault::forbidden(
                            "An administrator locked this server; only an administrator can unlock it.",
                        )));
                    }
                    let by = match by_admin {
                        true => LockedBy::Admin,
                        false => LockedBy::Owner,
                    };
                    let change = ServerChange::at(now).locked(locked.then_some(by));
                    store::server_change(txn, id, &Expected::anything(), change).await
                })
            })
            .await?;
        Ok(())
    }

    /// Changes a server's metadata and returns all of it.
    pub async fn server_metadata_set(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        items: BTreeMap<String, String>,
        how: MetadataChange,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let most = self.config.quota.metadata_items;
        check_metadata(&items, most)?;
        let row = self
            .change(ctx, id, move |row, change| {
                let mut all = match how {
                    MetadataChange::Merge => texts(&row.metadata),
                    MetadataChange::Replace => BTreeMap::new(),
                };
                all.extend(items.clone());
                check_metadata(&all, most)?;
                Ok(change.metadata(json!(all).to_string()))
            })
            .await?;
        Ok(texts(&row.metadata))
    }

    /// Takes one item from a server's metadata.
    pub async fn server_metadata_delete(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        key: &str,
    ) -> Result<(), Fault> {
        let key = key.to_owned();
        self.change(ctx, id, move |row, change| {
            let mut all = texts(&row.metadata);
            match all.remove(&key) {
                Some(_) => Ok(change.metadata(json!(all).to_string())),
                None => Err(Fault::not_found("Metadata item was not found")),
            }
        })
        .await?;
        Ok(())
    }

    /// One row that changes by itself: fetched, changed and returned in one
    /// transaction.
    async fn change(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        change: impl Fn(&Server, ServerChange) -> Result<ServerChange, Fault> + Send + Sync + 'static,
    ) -> Result<Server, Fault> {
        ctx.require_member()?;
        let scope = scope(ctx)?;
        let now = self.env.now();
        let (ctx, change) = (ctx.clone(), std::sync::Arc::new(change));
        Ok(self
            .db
            .write(move |txn| {
                let (ctx, change) = (ctx.clone(), change.clone());
                Box::pin(async move {
                    let row = living(txn, scope, id).await?;
                    require_unlocked(&ctx, &row)?;
                    let changed = change(&row, ServerChange::at(now))?;
                    store::server_change(txn, id, &Expected::anything(), changed).await?;
                    living(txn, scope, id).await
                })
            })
            .await?)
    }

    /// Adds a security group to all ports of a server, or takes it away.
    pub async fn server_security_group(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        group: &str,
        present: bool,
    ) -> Result<(), Fault> {
        ctx.require_member()?;
        let row = self.server_of(ctx, id).await?;
        require_unlocked(ctx, &row)?;
        let request = ServerSecurityGroupRequest {
            server_id: row.id.clone(),
            project_id: row.project_id.clone(),
            security_group: check_name("security_group", group, 255)?.to_owned(),
        };
        let projection = if present {
            self.server_ports
                .add_server_security_group(ctx, request)
                .await?
        } else {
            self.server_ports
                .remove_server_security_group(ctx, request)
                .await?
        };
        self.server_project(projection).await
    }

    /// Takes in what another service says of a server's addresses and groups.
    pub async fn server_project(&self, projection: ServerAddresses) -> Result<(), Fault> {
        let id: ServerId = parse("server", &projection.server_id)?;
        let project: ProjectId = parse("project", &projection.project_id)?;
        let addresses: serde_json::Map<String, serde_json::Value> =
            match projection.addresses_json.as_str() {
                "" => serde_json::Map::new(),
                text => serde_json::from_str(text)
                    .map_err(|_| Fault::invalid("The addresses are no JSON object."))?,
            };
        let addresses = serde_json::Value::Object(api_addresses(addresses)).to_string();
        let groups: Vec<_> = projection
            .security_groups
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
        let groups = json!(groups).to_string();
        let revision = i64::try_from(projection.revision).unwrap_or(i64::MAX);
        self.db
            .write(move |txn| {
                let (addresses, groups) = (addresses.clone(), groups.clone());
                Box::pin(async move {
                    store::server_project(txn, id, project, addresses, groups, revision).await
                })
            })
            .await?;
        Ok(())
    }

    /// The actions on a server, the newest first; those of deleted servers
    /// stay readable.
    pub async fn action_list(
        &self,
        ctx: &RequestContext,
        id: ServerId,
    ) -> Result<Vec<Action>, Fault> {
        self.server_known(ctx, id).await?;
        Ok(actions::action_list(self.db.read(), id, 1000).await?)
    }

    /// One action on a server, by the request that caused it.
    pub async fn action_show(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        request_id: &str,
    ) -> Result<Action, Fault> {
        self.server_known(ctx, id).await?;
        let unknown = || {
            Fault::not_found(format!(
                "Action for request_id {request_id:.64} on instance {id} not found"
            ))
        };
        let wanted = request_id
            .strip_prefix("req-")
            .and_then(|text| text.parse::<yakumo_types::RequestId>().ok())
            .ok_or_else(unknown)?;
        actions::action_fetch(self.db.read(), id, &wanted.to_string())
            .await?
            .ok_or_else(unknown)
    }

    async fn server_known(&self, ctx: &RequestContext, id: ServerId) -> Result<Server, Fault> {
        ctx.require(Role::Reader)?;
        store::server_fetch(self.db.read(), scope(ctx)?, id, Life::Either)
            .await?
            .ok_or_else(|| missing(id))
    }

    /// Removes what has been deleted for long; returns how much.
    pub(crate) async fn servers_purge(&self) -> Result<u64, Fault> {
        let age = std::time::Duration::from_secs(u64::from(self.config.keep_deleted_days) * 86_400);
        let before = self.env.now().minus(age);
        let purged = self
            .db
            .write(move |txn| Box::pin(async move { store::servers_purge(txn, before, 500).await }))
            .await?;
        Ok(purged.servers)
    }
}

fn listed_scope(ctx: &RequestContext, whose: Whose) -> Result<Scope, Fault> {
    ctx.require(Role::Reader)?;
    match whose {
        Whose::Own => Ok(Scope::Project(ctx.require_project()?)),
        Whose::Everybodys => {
            ctx.require_admin()?;
            Ok(Scope::All)
        }
        Whose::Project(project) => {
            ctx.require_admin()?;
            Ok(Scope::Project(project))
        }
    }
}

/// The network service may write `mac` and `type` in short; the compute API
/// has longer names for them.
fn api_addresses(
    addresses: serde_json::Map<String, serde_json::Value>,
) -> serde_json::Map<String, serde_json::Value> {
    addresses
        .into_iter()
        .map(|(label, mut list)| {
            for address in list.as_array_mut().into_iter().flatten() {
                if let Some(object) = address.as_object_mut() {
                    for (short, long) in [
                        ("mac", "OS-EXT-IPS-MAC:mac_addr"),
                        ("type", "OS-EXT-IPS:type"),
                    ] {
                        if let Some(value) = object.remove(short) {
                            object.insert(long.to_owned(), value);
                        }
                    }
                }
            }
            (label, list)
        })
        .collect()
}

fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Fault> {
    text.parse()
        .map_err(|_| Fault::invalid(format!("This is no {what} id.")))
}

/// A user's id in a filter.
pub fn user_filter(text: &str) -> Option<UserId> {
    text.parse().ok()
}

/// A filter of the network service's listings.
fn only(key: &str, values: Vec<String>) -> yakumo_contracts::network::ListRequest {
    yakumo_contracts::network::ListRequest {
        filters: vec![yakumo_contracts::network::Filter {
            key: key.to_owned(),
            values,
        }],
        limit: 500,
        ..Default::default()
    }
}

impl App {
    /// The ports of a server, as the network service has them.
    pub async fn server_ports_of(
        &self,
        ctx: &RequestContext,
        row: &Server,
    ) -> Result<Vec<yakumo_contracts::network::Port>, Fault> {
        let request = only("device_id", vec![row.id.clone()]);
        Ok(self.networks.list_ports(ctx, request).await?.ports)
    }

    /// The security groups of a server's ports.
    pub async fn server_groups_of(
        &self,
        ctx: &RequestContext,
        row: &Server,
    ) -> Result<Vec<yakumo_contracts::network::SecurityGroup>, Fault> {
        let ports = self.server_ports_of(ctx, row).await?;
        let ids: std::collections::BTreeSet<String> = ports
            .into_iter()
            .flat_map(|port| port.security_groups)
            .collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let request = only("id", ids.into_iter().collect());
        Ok(self
            .networks
            .list_security_groups(ctx, request)
            .await?
            .security_groups)
    }
}

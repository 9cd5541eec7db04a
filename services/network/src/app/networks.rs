//! Networks: `flat` ones that an administrator makes and usually shares, and
//! `local` ones of projects, which get a bridge of their own on one host.
//!
//! A physical network carries frames as they are, so it carries one flat network:
//! the one that was made on it first. (External networks are beside that; hosts
//! reach them through an interface of their own.)

use std::collections::HashMap;

use yakumo_contracts::network::{
    CreateNetworksRequest, ListNetworksReply, ListRequest, Network, NewNetwork,
    UpdateNetworkRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, NetworkId, RequestContext};

use super::repeats::{by_ids, in_order};
use super::{App, admin_only, check_bulk, check_texts, faults, owner, render, require_owner};
use crate::store::{self, Walls, network};

/// Ports of the system that go with their network.
const OWN_PORTS: &[&str] = &["network:dhcp"];

impl App {
    /// Makes networks, all or none.
    pub async fn create_networks(
        &self,
        ctx: &RequestContext,
        request: CreateNetworksRequest,
    ) -> Result<ListNetworksReply, Fault> {
        check_bulk(request.networks.len())?;
        let once = self.once(ctx, "create_networks", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_networks(ctx, by_ids(&ids)).await?;
            reply.networks = in_order(&ids, reply.networks, |it| &it.id)?;
            return Ok(reply);
        }
        let mut rows = Vec::new();
        for new in request.networks {
            let named = !new.provider_physical_network.is_empty();
            let row = self.new_network(ctx, new)?;
            rows.push((row.id.clone(), (row, named)));
        }
        self.make(ctx, once, rows, |app, txn, ctx, rows| {
            Box::pin(insert(app, txn, ctx, rows))
        })
        .await
    }

    fn new_network(&self, ctx: &RequestContext, new: NewNetwork) -> Result<network::Model, Fault> {
        let project = owner(ctx, &new.project_id)?;
        check_texts(&new.name, &new.description)?;
        let (shared, external) = (new.shared == Some(true), new.router_external == Some(true));
        admin_only(ctx, shared, "shared")?;
        admin_only(ctx, external, "router:external")?;
        admin_only(
            ctx,
            !new.provider_network_type.is_empty() || !new.provider_physical_network.is_empty(),
            "provider attributes",
        )?;
        let network_type = match new.provider_network_type.as_str() {
            "" if shared || external || !new.provider_physical_network.is_empty() => "flat",
            "" => "local",
            "flat" => "flat",
            "local" => "local",
            other => {
                return Err(faults::invalid(format!(
                    "The network type {other:?} is not offered here; there are flat and local."
                )));
            }
        };
        let physical_network = match (network_type, new.provider_physical_network) {
            ("flat", text) if text.is_empty() => self.config.physical_network.clone(),
            ("flat", text) if text.len() <= 64 && !text.chars().any(char::is_control) => text,
            ("local", text) if text.is_empty() => String::new(),
            ("local", _) => {
                return Err(faults::invalid("A local network has no physical network."));
            }
            _ => {
                return Err(faults::invalid(
                    "The name of the physical network is not valid.",
                ));
            }
        };
        let now = self.now();
        Ok(network::Model {
            id: self.env.id::<NetworkId>().to_string(),
            project_id: project,
            name: new.name,
            description: new.description,
            admin_state_up: new.admin_state_up.unwrap_or(true),
            shared,
            external,
            mtu: check_mtu(new.mtu.unwrap_or(self.config.mtu))?,
            network_type: network_type.into(),
            physical_network,
            port_security: new.port_security_enabled.unwrap_or(true),
            is_default: new.is_default.unwrap_or(false),
            created_at: now,
            updated_at: now,
            revision: 1,
        })
    }

    /// One page of what the caller may see.
    pub async fn list_networks(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListNetworksReply, Fault> {
        let walls = Walls::of(ctx)?;
        let db = self.db.read();
        let (rows, more) = store::networks::list(db, &walls, &request).await?;
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let mut subnets: HashMap<String, Vec<String>> = HashMap::new();
        for subnet in store::subnets::of_networks(db, &ids).await? {
            subnets
                .entry(subnet.network_id)
                .or_default()
                .push(subnet.id);
        }
        Ok(ListNetworksReply {
            networks: rows
                .into_iter()
                .map(|row| {
                    // The subnets of an external network are not for everybody.
                    let shown = walls.contain(&row.project_id) || row.shared;
                    let subnets = subnets
                        .remove(&row.id)
                        .filter(|_| shown)
                        .unwrap_or_default();
                    render::network(row, subnets)
                })
                .collect(),
            more,
        })
    }

    /// Changes a network.
    pub async fn update_network(
        &self,
        ctx: &RequestContext,
        request: UpdateNetworkRequest,
    ) -> Result<Network, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(update(app, txn, ctx, request))
        })
        .await
    }

    /// Removes a network with its subnets; refused while ports are on it.
    pub async fn delete_network(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(delete(app, txn, ctx, id))
        })
        .await
    }
}

fn check_mtu(mtu: u32) -> Result<i64, Fault> {
    if (576..=9000).contains(&mtu) {
        return Ok(i64::from(mtu));
    }
    Err(faults::invalid("The MTU is 576 to 9000."))
}

async fn insert(
    app: App,
    txn: &DatabaseTransaction,
    _ctx: RequestContext,
    rows: Vec<(String, (network::Model, bool))>,
) -> Result<ListNetworksReply, DbError> {
    let mut networks = Vec::new();
    for (_, (mut row, named)) in rows {
        app.spend(txn, &row.project_id, "network", 1).await?;
        if is_carried(&row) && store::networks::is_taken(txn, &row.physical_network, "").await? {
            if named {
                return Err(taken(&row.physical_network).into());
            }
            // Nobody asked for that one; it stays on its host.
            row.physical_network.clear();
        }
        store::networks::insert(txn, row.clone()).await?;
        networks.push(render::network(row, Vec::new()));
    }
    Ok(ListNetworksReply {
        networks,
        more: false,
    })
}

/// Whether a network is one that a physical network carries between hosts.
fn is_carried(row: &network::Model) -> bool {
    row.network_type == "flat" && !row.external && !row.physical_network.is_empty()
}

fn taken(physical: &str) -> Fault {
    faults::conflict(
        "FlatNetworkInUse",
        format!("The physical network {physical} carries another flat network already."),
    )
}

async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<network::Model, DbError> {
    let row = store::networks::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_network(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

async fn update(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: UpdateNetworkRequest,
) -> Result<Network, DbError> {
    let mut row = own(txn, &ctx, &request.id).await?;
    admin_only(
        &ctx,
        request.shared.is_some_and(|value| value != row.shared),
        "shared",
    )?;
    admin_only(
        &ctx,
        request
            .router_external
            .is_some_and(|value| value != row.external),
        "router:external",
    )?;
    row.name = request.name.unwrap_or(row.name);
    row.description = request.description.unwrap_or(row.description);
    check_texts(&row.name, &row.description)?;
    row.admin_state_up = request.admin_state_up.unwrap_or(row.admin_state_up);
    row.is_default = request.is_default.unwrap_or(row.is_default);
    row.port_security = request.port_security_enabled.unwrap_or(row.port_security);
    if let Some(mtu) = request.mtu {
        row.mtu = check_mtu(mtu)?;
    }
    if let Some(external) = request.router_external
        && external != row.external
    {
        let used = store::ports::count_on_network(txn, &row.id, &[]).await?
            + store::floating_ips::count_on_network(txn, &row.id).await?;
        if used > 0 {
            return Err(in_use(&row.id).into());
        }
        row.external = external;
        if is_carried(&row)
            && store::networks::is_taken(txn, &row.physical_network, &row.id).await?
        {
            return Err(taken(&row.physical_network).into());
        }
    }
    if request.shared == Some(false)
        && row.shared
        && store::ports::count_on_network(txn, &row.id, OWN_PORTS).await? > 0
    {
        return Err(faults::conflict(
            "InvalidSharedSetting",
            format!("Unable to reconfigure sharing settings for network {}. Multiple projects are using it.", row.name),
        )
        .into());
    }
    row.shared = request.shared.unwrap_or(row.shared);
    row.updated_at = app.now();
    row.revision += 1;
    store::networks::update(txn, row.clone()).await?;
    let ids = [row.id.clone()];
    let hosts = store::ports::hosts_of_networks(txn, &ids).await?;
    app.touch_hosts(txn, hosts).await?;
    let subnets = store::subnets::of_networks(txn, &ids).await?;
    Ok(render::network(
        row,
        subnets.into_iter().map(|subnet| subnet.id).collect(),
    ))
}

fn in_use(id: &str) -> Fault {
    faults::conflict(
        "NetworkInUse",
        format!(
            "Unable to complete operation on network {id}. There are one or more ports still in use on the network."
        ),
    )
}

async fn delete(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    id: String,
) -> Result<(), DbError> {
    let row = own(txn, &ctx, &id).await?;
    let used = store::ports::count_on_network(txn, &row.id, OWN_PORTS).await?
        + store::floating_ips::count_on_network(txn, &row.id).await?
        + store::routers::count_gateways(txn, &row.id).await?;
    if used > 0 {
        return Err(in_use(&id).into());
    }
    let _ = app;
    for subnet in store::subnets::of_networks(txn, std::slice::from_ref(&row.id)).await? {
        if store::routers::interface_of(txn, &subnet.id)
            .await?
            .is_some()
        {
            return Err(in_use(&id).into());
        }
        store::subnets::delete(txn, &subnet.id).await?;
    }
    store::networks::delete(txn, &row.id).await
}

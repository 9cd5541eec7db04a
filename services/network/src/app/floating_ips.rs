//! Floating IPs: addresses of an external network that are put in front of a
//! fixed address.

use std::net::Ipv4Addr;

use yakumo_contracts::network::{
    CreateFloatingIpsRequest, FloatingIp, ListFloatingIpsReply, ListRequest, NewFloatingIp,
    UpdateFloatingIpRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, FloatingIpId, RequestContext};

use super::repeats::{by_ids, in_order};
use super::subnets::parse_address;
use super::{App, check_bulk, faults, owner, render, require_owner};
use crate::store::addresses::{address_of, number_of};
use crate::store::{self, Walls, floating_ip, network, port};

impl App {
    /// Makes floating IPs, all or none, with a port or without.
    pub async fn create_floating_ips(
        &self,
        ctx: &RequestContext,
        request: CreateFloatingIpsRequest,
    ) -> Result<ListFloatingIpsReply, Fault> {
        check_bulk(request.floatingips.len())?;
        let once = self.once(ctx, "create_floating_ips", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_floating_ips(ctx, by_ids(&ids)).await?;
            reply.floatingips = in_order(&ids, reply.floatingips, |it| &it.id)?;
            return Ok(reply);
        }
        let wanted = request.floatingips.into_iter();
        let wanted = wanted.map(|new| (self.env.id::<FloatingIpId>().to_string(), new));
        self.make(ctx, once, wanted.collect(), |app, txn, ctx, wanted| {
            Box::pin(async move {
                let mut floatingips = Vec::new();
                for (id, new) in wanted {
                    floatingips.push(create(&app, txn, &ctx, id, new).await?);
                }
                Ok(ListFloatingIpsReply {
                    floatingips,
                    more: false,
                })
            })
        })
        .await
    }

    /// One page of the caller's.
    pub async fn list_floating_ips(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListFloatingIpsReply, Fault> {
        let db = self.db.read();
        let (rows, more) = store::floating_ips::list(db, &Walls::of(ctx)?, &request).await?;
        let ids: Vec<String> = rows
            .iter()
            .map(|row| row.port_id.clone())
            .filter(|id| !id.is_empty())
            .collect();
        let ports = store::ports::by_ids(db, &ids).await?;
        Ok(ListFloatingIpsReply {
            floatingips: rows
                .into_iter()
                .map(|row| {
                    let port = ports.iter().find(|port| port.id == row.port_id);
                    render::floating_ip(row, port)
                })
                .collect(),
            more,
        })
    }

    /// Puts it in front of a port, takes it off, or describes it.
    pub async fn update_floating_ip(
        &self,
        ctx: &RequestContext,
        request: UpdateFloatingIpRequest,
    ) -> Result<FloatingIp, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(update(app, txn, ctx, request))
        })
        .await
    }

    /// Gives it back.
    pub async fn delete_floating_ip(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(async move {
                let row = own(txn, &ctx, &id).await?;
                let port = store::ports::by_ids(txn, std::slice::from_ref(&row.port_id)).await?;
                app.touch_ports(txn, &port, &[]).await?;
                store::addresses::free(txn, std::slice::from_ref(&row.id), app.now()).await?;
                store::floating_ips::delete(txn, &row.id).await
            })
        })
        .await
    }
}

async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<floating_ip::Model, DbError> {
    let row = store::floating_ips::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_floating_ip(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

async fn create(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: String,
    new: NewFloatingIp,
) -> Result<FloatingIp, DbError> {
    let project = owner(ctx, &new.project_id)?;
    yakumo_types::check_description("The description", &new.description, 255)
        .map_err(faults::as_invalid_input)?;
    let network = store::networks::find(txn, &Walls::of(ctx)?, &new.floating_network_id)
        .await?
        .ok_or_else(|| faults::no_network(&new.floating_network_id))?;
    if !network.external {
        return Err(faults::invalid(format!(
            "Network {} is not a valid external network.",
            network.id
        ))
        .with_type("BadRequest")
        .into());
    }
    app.spend(txn, &project, "floatingip", 1).await?;
    let now = app.now();
    let address = take(txn, ctx, &network, &new, &id).await?;
    let mut row = floating_ip::Model {
        id,
        project_id: project,
        description: new.description,
        network_id: network.id.clone(),
        address: address.to_string(),
        port_id: String::new(),
        fixed_address: String::new(),
        target: None,
        router_id: String::new(),
        created_at: now,
        updated_at: now,
        revision: 1,
    };
    let mut port = None;
    if !new.port_id.is_empty() {
        port = Some(associate(app, txn, ctx, &mut row, &new.port_id, &new.fixed_ip_address).await?);
    } else if !new.fixed_ip_address.is_empty() {
        return Err(faults::invalid("fixed_ip_address needs a port_id.")
            .with_type("BadRequest")
            .into());
    }
    insert(txn, &row).await?;
    if let Some(port) = &port {
        app.touch_ports(txn, std::slice::from_ref(port), &[])
            .await?;
    }
    Ok(render::floating_ip(row, port.as_ref()))
}

async fn insert(txn: &DatabaseTransaction, row: &floating_ip::Model) -> Result<(), DbError> {
    store::floating_ips::insert(txn, row.clone())
        .await
        .map_err(already)
}

/// Two requests put an address in front of the same port at once.
fn already(error: DbError) -> DbError {
    if error.is_conflict_on("floating_ips_by_target") {
        return DbError::Contended;
    }
    error
}

async fn take(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    network: &network::Model,
    new: &NewFloatingIp,
    id: &str,
) -> Result<Ipv4Addr, DbError> {
    let mut subnets = store::subnets::of_networks(txn, std::slice::from_ref(&network.id)).await?;
    if !new.subnet_id.is_empty() {
        subnets.retain(|subnet| subnet.id == new.subnet_id);
        if subnets.is_empty() {
            return Err(faults::no_subnet(&new.subnet_id).into());
        }
    }
    if !new.floating_ip_address.is_empty() {
        super::admin_only(ctx, true, "floating_ip_address")?;
        let address = parse_address("The floating IP", &new.floating_ip_address)?;
        let number = number_of(address);
        let subnet = subnets
            .iter()
            .find(|subnet| subnet.first < number && number < subnet.last)
            .ok_or_else(|| {
                faults::invalid(format!("IP address {address} is not a valid IP for any of the subnets on the specified network."))
                    .with_type("InvalidIpForNetwork")
            })?;
        let taken = address.to_string() == subnet.gateway_ip
            || !store::addresses::take(txn, subnet, number, id, 0).await?;
        if taken {
            return Err(faults::address_in_use(&network.id, &new.floating_ip_address).into());
        }
        return Ok(address);
    }
    for subnet in &subnets {
        let pools: Vec<(i64, i64)> = serde_json::from_str(&subnet.allocation_pools)?;
        if let Some(number) = store::addresses::take_any(txn, subnet, &pools, id, 0).await? {
            return Ok(address_of(number));
        }
    }
    Err(faults::no_address(&network.id).into())
}

/// Puts a floating IP in front of a port's address; changes the row only.
async fn associate(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    row: &mut floating_ip::Model,
    port_id: &str,
    wanted: &str,
) -> Result<port::Model, DbError> {
    let port = store::ports::find(txn, &Walls::of(ctx)?, port_id)
        .await?
        .ok_or_else(|| faults::no_port(port_id))?;
    if port.project_id != row.project_id && !ctx.is_admin() {
        return Err(faults::no_port(port_id).into());
    }
    let network = store::networks::find(txn, &Walls::All, &port.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&port.network_id))?;
    let addresses = store::addresses::of_owners(txn, std::slice::from_ref(&port.id)).await?;
    let bad = |message: String| faults::invalid(message).with_type("BadRequest");
    let address = match (wanted, addresses.as_slice()) {
        (_, []) => return Err(bad(format!("Port {port_id} has no fixed IP address.")).into()),
        ("", [only]) => only,
        ("", _) => {
            return Err(bad(format!("Port {port_id} has multiple fixed IP addresses. Must provide a specific IP address.")).into());
        }
        (wanted, all) => all
            .iter()
            .find(|address| address.address == wanted)
            .ok_or_else(|| {
                bad(format!(
                    "Port {port_id} does not have fixed IP address {wanted}."
                ))
            })?,
    };
    row.router_id = app
        .way_out(txn, &network, &address.subnet_id, &row.network_id)
        .await?;
    let target = format!("{}/{}", port.id, address.address);
    if row.target.as_deref() != Some(&target)
        && store::floating_ips::has_target(txn, &target).await?
    {
        return Err(faults::conflict(
            "FloatingIPPortAlreadyAssociated",
            format!(
                "Cannot associate floating IP {} ({}) with port {port_id} using fixed IP {}, as that fixed IP already has a floating IP on external network {}.",
                row.address, row.id, address.address, row.network_id
            ),
        )
        .into());
    }
    row.port_id = port.id.clone();
    row.fixed_address = address.address.clone();
    row.target = Some(target);
    Ok(port)
}

impl App {
    /// The router between a subnet and an external network: empty where the
    /// host itself is the way out.
    async fn way_out(
        &self,
        txn: &DatabaseTransaction,
        network: &network::Model,
        subnet: &str,
        external: &str,
    ) -> Result<String, DbError> {
        if let Some(interface) = store::routers::interface_of(txn, subnet).await? {
            let router =
                store::routers::by_ids(txn, std::slice::from_ref(&interface.router_id)).await?;
            if router
                .first()
                .is_some_and(|router| router.gateway_network_id == external)
            {
                return Ok(interface.router_id);
            }
        }
        if network.network_type == "flat" && !network.external {
            return Ok(String::new());
        }
        Err(Fault::not_found(format!(
            "External network {external} is not reachable from subnet {subnet}. Therefore, cannot associate the port with a floating IP."
        ))
        .with_type("ExternalGatewayForFloatingIPNotFound")
        .into())
    }
}

async fn update(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: UpdateFloatingIpRequest,
) -> Result<FloatingIp, DbError> {
    let mut row = own(txn, &ctx, &request.id).await?;
    let mut concerned = store::ports::by_ids(txn, std::slice::from_ref(&row.port_id)).await?;
    if let Some(description) = request.description {
        yakumo_types::check_description("The description", &description, 255)
            .map_err(faults::as_invalid_input)?;
        row.description = description;
    }
    let fixed = request.fixed_ip_address.unwrap_or_default();
    match request.port_id.as_deref() {
        None if fixed.is_empty() => {}
        None => {
            let port = row.port_id.clone();
            if port.is_empty() {
                return Err(faults::invalid("fixed_ip_address needs a port_id.")
                    .with_type("BadRequest")
                    .into());
            }
            concerned.push(associate(&app, txn, &ctx, &mut row, &port, &fixed).await?);
        }
        Some("") => {
            row.port_id = String::new();
            row.fixed_address = String::new();
            row.target = None;
            row.router_id = String::new();
        }
        Some(port) => concerned.push(associate(&app, txn, &ctx, &mut row, port, &fixed).await?),
    }
    row.updated_at = app.now();
    row.revision += 1;
    store::floating_ips::update(txn, row.clone())
        .await
        .map_err(already)?;
    app.touch_ports(txn, &concerned, &[]).await?;
    let port = concerned.iter().find(|port| port.id == row.port_id);
    Ok(render::floating_ip(row, port))
}

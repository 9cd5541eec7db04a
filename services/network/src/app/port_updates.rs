//! Changing ports.

use yakumo_contracts::network::{FixedIp, Port, UpdatePortRequest};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, RequestContext};

use super::ports::{check_device, check_mac, own};
use super::{App, admin_only, check_texts, faults, is_of_server, render, require_owner};
use crate::store::{self, Walls, network, port};

pub(super) async fn update(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: UpdatePortRequest,
) -> Result<Port, DbError> {
    let old = own(txn, &ctx, &request.id).await?;
    let network = store::networks::find(txn, &Walls::All, &old.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&old.network_id))?;
    let mut row = old.clone();
    row.name = request.name.unwrap_or(row.name);
    row.description = request.description.unwrap_or(row.description);
    check_texts(&row.name, &row.description)?;
    row.admin_state_up = request.admin_state_up.unwrap_or(row.admin_state_up);
    if request.device_id.is_some() || request.device_owner.is_some() {
        if !ctx.is_admin() && (is_of_server(&old) || old.device_owner.starts_with("network:")) {
            return Err(Fault::forbidden("The port is in use by the system.").into());
        }
        row.device_id = request.device_id.unwrap_or(row.device_id);
        row.device_owner = request.device_owner.unwrap_or(row.device_owner);
        check_device(&ctx, &row.device_owner, &row.device_id)?;
    }
    if let Some(host) = request.binding_host_id {
        admin_only(&ctx, host != row.host, "binding:host_id")?;
        if host != row.host {
            // The word of the old host is no longer waited for.
            row.release_revision = 0;
        }
        row.host = host;
    }
    if let Some(mac) = request.mac_address {
        let mac = check_mac(&mac)?;
        if mac != row.mac {
            admin_only(&ctx, true, "mac_address")?;
            if !row.host.is_empty() || store::ports::mac_is_in_use(txn, &mac).await? {
                return Err(faults::conflict("PortInUse", "The MAC cannot be changed now.").into());
            }
            store::ports::remember_mac(txn, &mac).await?;
            row.mac = mac;
        }
    }
    let before: Vec<String> = store::ports::memberships(txn, std::slice::from_ref(&row.id))
        .await?
        .into_iter()
        .map(|(_, group)| group)
        .collect();
    let mut groups = before.clone();
    if let Some(security) = request.port_security_enabled
        && security != row.port_security
    {
        require_owner(&ctx, &network.project_id)?;
        row.port_security = security;
        if !security && request.security_groups.is_none() && !before.is_empty() {
            return Err(faults::conflict(
                "PortSecurityPortHasSecurityGroup",
                "Port has security group associated. Cannot disable port security until security group is removed.",
            )
            .into());
        }
    }
    if let Some(wanted) = request.security_groups {
        if !row.port_security && !wanted.values.is_empty() {
            return Err(faults::invalid(
                "Port security must be enabled in order to have security groups.",
            )
            .with_type("PortSecurityAndIPRequiredForSecurityGroups")
            .into());
        }
        groups = app
            .check_groups(txn, &row.project_id, &wanted.values)
            .await?;
    }
    let moved = match request.fixed_ips {
        Some(wanted) => change_addresses(&app, txn, &network, &row, &wanted.ips).await?,
        None => false,
    };
    row.updated_at = app.now();
    row.revision += 1;
    store::ports::update(txn, row.clone()).await?;
    let mut told = Vec::new();
    if groups != before {
        store::ports::set_groups(txn, &row, &groups).await?;
    }
    if groups != before || moved {
        // The old groups as well as the new ones: their members changed.
        told.extend(before);
        told.extend(groups);
    }
    app.touch_ports(txn, &[old, row.clone()], &told).await?;
    let port = render::ports(txn, vec![row]).await?.into_iter().next();
    port.ok_or(DbError::NotFound)
}

/// Gives a port other addresses; returns whether they are other ones. Not while
/// a host has it: the host would have to let go of the old ones first.
async fn change_addresses(
    app: &App,
    txn: &DatabaseTransaction,
    network: &network::Model,
    row: &port::Model,
    wanted: &[FixedIp],
) -> Result<bool, DbError> {
    let present = store::addresses::of_owners(txn, std::slice::from_ref(&row.id)).await?;
    let same = present.len() == wanted.len()
        && present.iter().zip(wanted).all(|(there, wish)| {
            (wish.ip_address.is_empty() || wish.ip_address == there.address)
                && (wish.subnet_id.is_empty() || wish.subnet_id == there.subnet_id)
        });
    if same {
        return Ok(false);
    }
    if !row.host.is_empty() || row.device_owner.starts_with("network:") {
        return Err(faults::conflict(
            "PortInUse",
            "The addresses of a port cannot be changed while it is in use.",
        )
        .into());
    }
    let floating = store::floating_ips::of_ports(txn, std::slice::from_ref(&row.id)).await?;
    if !floating.is_empty() {
        return Err(faults::conflict(
            "PortInUse",
            "The port has a floating IP; take it away first.",
        )
        .into());
    }
    store::addresses::free(txn, std::slice::from_ref(&row.id), app.now()).await?;
    app.allocate(txn, network, &row.id, Some(wanted)).await?;
    Ok(true)
}

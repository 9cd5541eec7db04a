//! Ports: a MAC, addresses, and groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use yakumo_contracts::network::{
    CreatePortsRequest, FixedIp, ListPortsReply, ListRequest, NewPort, Port, UpdatePortRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, PortId, RequestContext};

use super::repeats::{by_ids, in_order};
use super::security_groups::ensure_default;
use super::subnets::parse_address;
use super::{
    App, admin_only, check_bulk, check_texts, faults, is_of_server, owner, render, require_owner,
};
use crate::store::addresses::{address_of, number_of};
use crate::store::hosts::Raised;
use crate::store::{self, Walls, floating_ip, network, port, subnet};

/// The most addresses of one port.
const MAX_ADDRESSES: usize = 16;

impl App {
    /// Makes ports, all or none.
    pub async fn create_ports(
        &self,
        ctx: &RequestContext,
        request: CreatePortsRequest,
    ) -> Result<ListPortsReply, Fault> {
        check_bulk(request.ports.len())?;
        for new in &request.ports {
            check_texts(&new.name, &new.description)?;
        }
        let once = self.once(ctx, "create_ports", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_ports(ctx, by_ids(&ids)).await?;
            reply.ports = in_order(&ids, reply.ports, |it| &it.id)?;
            return Ok(reply);
        }
        let wanted = request.ports.into_iter();
        let wanted = wanted.map(|new| (self.env.id::<PortId>().to_string(), new));
        self.make(ctx, once, wanted.collect(), |app, txn, ctx, wanted| {
            Box::pin(async move {
                let mut rows = Vec::new();
                for (id, new) in wanted {
                    rows.push(create(&app, txn, &ctx, id, new).await?);
                }
                let ports = render::ports(txn, rows).await?;
                Ok(ListPortsReply { ports, more: false })
            })
        })
        .await
    }

    /// One page of what the caller may see.
    pub async fn list_ports(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListPortsReply, Fault> {
        let db = self.db.read();
        let (rows, more) = store::ports::list(db, &Walls::of(ctx)?, &request).await?;
        Ok(ListPortsReply {
            ports: render::ports(db, rows).await?,
            more,
        })
    }

    /// Changes a port.
    pub async fn update_port(
        &self,
        ctx: &RequestContext,
        request: UpdatePortRequest,
    ) -> Result<Port, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(super::port_updates::update(app, txn, ctx, request))
        })
        .await
    }

    /// Removes a port; refused while a server or a router has it.
    pub async fn delete_port(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(async move {
                let row = own(txn, &ctx, &id).await?;
                if row.device_owner.starts_with("network:") {
                    return Err(faults::conflict(
                        "ServicePortInUse",
                        format!("Port {id} cannot be deleted directly via the port API: has device owner {}.", row.device_owner),
                    )
                    .into());
                }
                if is_of_server(&row) && row.release_revision == 0 {
                    return Err(faults::conflict(
                        "PortInUse",
                        format!("Unable to complete operation on port {id}: it is in use by the server {}.", row.device_id),
                    )
                    .into());
                }
                app.release_ports(txn, vec![row]).await
            })
        })
        .await
    }

    /// Takes addresses for a port: those that are wished for, or one of any
    /// subnet of the network.
    pub(super) async fn allocate(
        &self,
        txn: &DatabaseTransaction,
        network: &network::Model,
        port: &str,
        wanted: Option<&[FixedIp]>,
    ) -> Result<(), DbError> {
        let subnets = store::subnets::of_networks(txn, std::slice::from_ref(&network.id)).await?;
        allocate_in(txn, network, &subnets, port, wanted).await?;
        Ok(())
    }

    /// A MAC that nobody ever had.
    pub(super) async fn fresh_mac(&self, txn: &DatabaseTransaction) -> Result<String, DbError> {
        for _ in 0..64 {
            let mut bytes = [0; 3];
            self.env.rng.fill(&mut bytes);
            let [a, b, c] = bytes;
            let mac = format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}");
            if !store::ports::remember_mac(txn, &mac).await? {
                return Ok(mac);
            }
        }
        Err(Fault::unavailable("No free MAC was found.").into())
    }

    /// Lets ports go. Those that a host has keep their addresses, unseen, until
    /// the host says that nothing of them is left.
    pub(super) async fn release_ports(
        &self,
        txn: &DatabaseTransaction,
        rows: Vec<port::Model>,
    ) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let groups: BTreeSet<String> = store::ports::memberships(txn, &ids)
            .await?
            .into_iter()
            .map(|(_, group)| group)
            .collect();
        let groups: Vec<String> = groups.into_iter().collect();
        if !groups.is_empty() {
            store::ports::leave_groups(txn, &ids).await?;
        }
        let raised = self.touch_ports(txn, &rows, &groups).await?;
        for row in store::floating_ips::of_ports(txn, &ids).await? {
            let row = floating_ip::Model {
                port_id: String::new(),
                fixed_address: String::new(),
                target: None,
                router_id: String::new(),
                updated_at: self.now(),
                revision: row.revision + 1,
                ..row
            };
            store::floating_ips::update(txn, row).await?;
        }
        let mut had: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let mut purged = Vec::new();
        for row in rows {
            match had_by(&raised, &row) {
                Some(revision) => had.entry(revision).or_default().push(row.id),
                None => purged.push(row.id),
            }
        }
        for (revision, ids) in had {
            store::ports::release(txn, &ids, revision, self.now()).await?;
        }
        self.purge_ports(txn, purged).await
    }

    /// Takes users' own ports off their server. Those that a host has stay bound
    /// to it, and to the server, until the host says that nothing of them is
    /// left.
    pub(super) async fn unbind_ports(
        &self,
        txn: &DatabaseTransaction,
        rows: Vec<port::Model>,
    ) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let raised = self.touch_ports(txn, &rows, &[]).await?;
        let mut free = Vec::new();
        for row in rows {
            let Some(revision) = had_by(&raised, &row) else {
                free.push(row.id);
                continue;
            };
            let row = port::Model {
                status: "DOWN".into(),
                release_revision: revision,
                updated_at: self.now(),
                revision: row.revision + 1,
                ..row
            };
            store::ports::update(txn, row).await?;
        }
        store::ports::unbind(txn, &free, self.now()).await
    }

    /// Removes the rows of ports of which nothing is left, and gives their
    /// addresses back.
    pub(super) async fn purge_ports(
        &self,
        txn: &DatabaseTransaction,
        ids: Vec<String>,
    ) -> Result<(), DbError> {
        store::addresses::free(txn, &ids, self.now()).await?;
        store::ports::delete(txn, &ids).await
    }

    /// Groups that exist and that the project may use.
    pub(super) async fn check_groups(
        &self,
        txn: &DatabaseTransaction,
        project: &str,
        wanted: &[String],
    ) -> Result<Vec<String>, DbError> {
        let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
        let wanted: Vec<String> = wanted.into_iter().collect();
        let found = store::security_groups::by_ids(txn, &wanted).await?;
        for id in &wanted {
            let usable = found.iter().any(|group| {
                group.id == *id && (project.is_empty() || group.project_id == project)
            });
            if !usable {
                return Err(faults::no_security_group(id).into());
            }
        }
        Ok(wanted)
    }
}

/// The revision, just raised, of the host that has a port. A host that was never
/// heard has nothing.
fn had_by(raised: &HashMap<String, Raised>, row: &port::Model) -> Option<i64> {
    let raised = raised.get(&row.host)?;
    raised.heard.then_some(raised.revision)
}

/// [`App::allocate`] with the subnets of the network; gives subnets and
/// addresses.
pub(super) async fn allocate_in<'s>(
    txn: &DatabaseTransaction,
    network: &network::Model,
    subnets: &'s [subnet::Model],
    port: &str,
    wanted: Option<&[FixedIp]>,
) -> Result<Vec<(&'s subnet::Model, Ipv4Addr)>, DbError> {
    let Some(wanted) = wanted else {
        for subnet in subnets {
            if let Some(address) = take_any(txn, subnet, port, 0).await? {
                return Ok(vec![(subnet, address)]);
            }
        }
        if subnets.is_empty() {
            return Ok(Vec::new());
        }
        return Err(faults::no_address(&network.id).into());
    };
    if wanted.len() > MAX_ADDRESSES {
        return Err(
            faults::invalid(format!("A port has at most {MAX_ADDRESSES} addresses.")).into(),
        );
    }
    let mut taken = Vec::new();
    for (ordinal, ip) in wanted.iter().enumerate() {
        let ordinal = i64::try_from(ordinal).unwrap_or(0);
        if ip.ip_address.is_empty() {
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.id == ip.subnet_id)
                .ok_or_else(|| not_on_network(network, ip))?;
            let address = take_any(txn, subnet, port, ordinal)
                .await?
                .ok_or_else(|| faults::no_address(&network.id))?;
            taken.push((subnet, address));
            continue;
        }
        let address = parse_address("The fixed IP", &ip.ip_address)?;
        let subnet = subnet_for(network, subnets, ip, address)?;
        let refused = address.to_string() == subnet.serve_address
            || address.to_string() == subnet.gateway_ip
            || !store::addresses::take(txn, subnet, number_of(address), port, ordinal).await?;
        if refused {
            return Err(faults::address_in_use(&network.id, &ip.ip_address).into());
        }
        taken.push((subnet, address));
    }
    Ok(taken)
}

async fn take_any(
    txn: &DatabaseTransaction,
    subnet: &subnet::Model,
    owner: &str,
    ordinal: i64,
) -> Result<Option<Ipv4Addr>, DbError> {
    let pools: Vec<(i64, i64)> = serde_json::from_str(&subnet.allocation_pools)?;
    Ok(
        store::addresses::take_any(txn, subnet, &pools, owner, ordinal)
            .await?
            .map(address_of),
    )
}

fn not_on_network(network: &network::Model, ip: &FixedIp) -> Fault {
    let shown: String = ip.subnet_id.chars().take(64).collect();
    faults::invalid(format!(
        "Failed to create port on network {}, because fixed_ips included invalid subnet {shown}.",
        network.id
    ))
}

fn subnet_for<'a>(
    network: &network::Model,
    subnets: &'a [subnet::Model],
    ip: &FixedIp,
    address: Ipv4Addr,
) -> Result<&'a subnet::Model, Fault> {
    let number = number_of(address);
    let within = |subnet: &&subnet::Model| subnet.first < number && number < subnet.last;
    if ip.subnet_id.is_empty() {
        return subnets.iter().find(within).ok_or_else(|| {
            faults::invalid(format!(
                "IP address {address} is not a valid IP for any of the subnets on the specified network."
            ))
            .with_type("InvalidIpForNetwork")
        });
    }
    let subnet = subnets
        .iter()
        .find(|subnet| subnet.id == ip.subnet_id)
        .ok_or_else(|| not_on_network(network, ip))?;
    if !within(&subnet) {
        return Err(faults::invalid(format!(
            "IP address {address} is not a valid IP for the specified subnet."
        ))
        .with_type("InvalidIpForSubnet"));
    }
    Ok(subnet)
}

pub(super) fn check_mac(text: &str) -> Result<String, Fault> {
    let mac = text.to_ascii_lowercase();
    let bytes: Vec<u8> = mac
        .split(':')
        .filter(|byte| byte.len() == 2)
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let valid = mac.len() == 17
        && bytes.len() == 6
        && bytes[0] & 1 == 0
        && bytes.iter().any(|byte| *byte != 0);
    if valid {
        return Ok(mac);
    }
    let shown: String = text.chars().take(32).collect();
    Err(faults::invalid(format!(
        "{shown:?} is not a valid MAC address."
    )))
}

/// Only administrators make ports look as if Yakumo itself used them.
pub(super) fn check_device(
    ctx: &RequestContext,
    device_owner: &str,
    device_id: &str,
) -> Result<(), Fault> {
    if device_owner.len() > 255
        || device_id.len() > 255
        || device_id
            .chars()
            .chain(device_owner.chars())
            .any(char::is_control)
    {
        return Err(faults::invalid("The device is not valid."));
    }
    let reserved = device_owner.starts_with("network:") || device_owner.starts_with("compute:");
    admin_only(ctx, reserved, "a device_owner of the system")
}

async fn create(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: String,
    new: NewPort,
) -> Result<port::Model, DbError> {
    let network = store::networks::find(txn, &Walls::of(ctx)?, &new.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&new.network_id))?;
    let project = owner(ctx, &new.project_id)?;
    let owns = ctx.is_admin() || network.project_id == project;
    if network.external && !owns {
        return Err(Fault::forbidden(
            "Ports on an external network are for administrators; use a floating IP.",
        )
        .into());
    }
    check_device(ctx, &new.device_owner, &new.device_id)?;
    admin_only(ctx, !new.binding_host_id.is_empty(), "binding:host_id")?;
    if !matches!(new.binding_vnic_type.as_str(), "" | "normal") {
        return Err(faults::invalid("The only vnic_type that is offered here is normal.").into());
    }
    let security = new.port_security_enabled.unwrap_or(network.port_security);
    if !security && network.port_security && !owns {
        return Err(
            Fault::forbidden("Only the owner of the network may turn port security off.").into(),
        );
    }
    let groups = match (&new.security_groups, security) {
        (Some(groups), false) if !groups.values.is_empty() => {
            return Err(faults::invalid(
                "Port security must be enabled in order to have security groups.",
            )
            .with_type("PortSecurityAndIPRequiredForSecurityGroups")
            .into());
        }
        (_, false) => Vec::new(),
        (Some(groups), true) => app.check_groups(txn, &project, &groups.values).await?,
        (None, true) if new.device_owner.starts_with("network:") => Vec::new(),
        (None, true) => vec![ensure_default(app, txn, &project).await?.id],
    };
    let mac = if new.mac_address.is_empty() {
        app.fresh_mac(txn).await?
    } else {
        if !owns {
            return Err(Fault::forbidden("Only the owner of the network may choose a MAC.").into());
        }
        let mac = check_mac(&new.mac_address)?;
        if store::ports::mac_is_in_use(txn, &mac).await? {
            return Err(faults::conflict(
                "MacAddressInUse",
                format!("The MAC address {mac} is in use on this network."),
            )
            .into());
        }
        store::ports::remember_mac(txn, &mac).await?;
        mac
    };
    app.spend(txn, &project, "port", 1).await?;
    let now = app.now();
    let row = port::Model {
        id,
        network_id: network.id.clone(),
        project_id: project,
        name: new.name,
        description: new.description,
        mac,
        admin_state_up: new.admin_state_up.unwrap_or(true),
        status: "DOWN".into(),
        device_id: new.device_id,
        device_owner: new.device_owner,
        port_security: security,
        host: new.binding_host_id,
        vnic_type: "normal".into(),
        hostname: String::new(),
        made_for_server: false,
        ordinal: 0,
        released_at: 0,
        release_revision: 0,
        created_at: now,
        updated_at: now,
        revision: 1,
    };
    store::ports::insert(txn, std::slice::from_ref(&row)).await?;
    store::ports::join_groups(txn, std::slice::from_ref(&row), &groups).await?;
    app.touch_ports(txn, std::slice::from_ref(&row), &groups)
        .await?;
    // Last, as for servers' ports.
    let fixed_ips = new.fixed_ips.as_ref().map(|ips| ips.ips.as_slice());
    app.allocate(txn, &network, &row.id, fixed_ips).await?;
    Ok(row)
}

pub(super) async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<port::Model, DbError> {
    let row = store::ports::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_port(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_macs_of_one_station_are_taken() {
        assert_eq!(check_mac("FA:16:3E:00:00:01").unwrap(), "fa:16:3e:00:00:01");
        for bad in [
            "",
            "fa:16:3e:00:00",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "fa-16-3e-00-00-01",
            "fa:16:3e:00:00:0g",
        ] {
            assert!(check_mac(bad).is_err(), "{bad}");
        }
    }
}

//! Subnets. In this mode all networks of a host share one routing table, so no
//! two subnets of the cloud may overlap.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use yakumo_contracts::network::{
    AllocationPool, CreateSubnetsRequest, HostRoute, ListRequest, ListSubnetsReply, NewSubnet,
    Subnet, UpdateSubnetRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, RequestContext, SubnetId};

use super::repeats::{by_ids, in_order};
use super::{App, check_bulk, check_texts, faults, owner, render, require_owner};
use crate::config::{ManagerConfig, unusable};
use crate::store::addresses::{address_of, number_of};
use crate::store::{self, Walls, subnet};

impl App {
    /// Makes subnets, all or none.
    pub async fn create_subnets(
        &self,
        ctx: &RequestContext,
        request: CreateSubnetsRequest,
    ) -> Result<ListSubnetsReply, Fault> {
        check_bulk(request.subnets.len())?;
        for new in &request.subnets {
            check_texts(&new.name, &new.description)?;
        }
        let once = self.once(ctx, "create_subnets", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_subnets(ctx, by_ids(&ids)).await?;
            reply.subnets = in_order(&ids, reply.subnets, |it| &it.id)?;
            return Ok(reply);
        }
        let wanted = request.subnets.into_iter();
        let wanted = wanted.map(|new| (self.env.id::<SubnetId>().to_string(), new));
        self.make(ctx, once, wanted.collect(), |app, txn, ctx, wanted| {
            Box::pin(async move {
                let mut subnets = Vec::new();
                for (id, new) in wanted {
                    subnets.push(create(&app, txn, &ctx, id, new).await?);
                }
                Ok(ListSubnetsReply {
                    subnets,
                    more: false,
                })
            })
        })
        .await
    }

    /// One page of what the caller may see.
    pub async fn list_subnets(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListSubnetsReply, Fault> {
        let (rows, more) = store::subnets::list(self.db.read(), &Walls::of(ctx)?, &request).await?;
        let subnets = rows
            .into_iter()
            .map(render::subnet)
            .collect::<Result<_, _>>()?;
        Ok(ListSubnetsReply { subnets, more })
    }

    /// Changes a subnet.
    pub async fn update_subnet(
        &self,
        ctx: &RequestContext,
        request: UpdateSubnetRequest,
    ) -> Result<Subnet, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(update(app, txn, ctx, request))
        })
        .await
    }

    /// Removes a subnet; refused while addresses of it are in use.
    pub async fn delete_subnet(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |_app, txn, ctx, id| {
            Box::pin(async move {
                let row = own(txn, &ctx, &id).await?;
                let used = store::addresses::in_use(txn, &row.id, std::slice::from_ref(&row.id)).await?;
                if used > 0 || store::routers::interface_of(txn, &row.id).await?.is_some() {
                    return Err(faults::conflict(
                        "SubnetInUse",
                        format!("Unable to complete operation on subnet {id}: one or more ports have an IP allocation from this subnet."),
                    )
                    .into());
                }
                store::subnets::delete(txn, &row.id).await
            })
        })
        .await
    }
}

async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<subnet::Model, DbError> {
    let row = store::subnets::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_subnet(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

/// Reads an address that must be IPv4.
pub(super) fn parse_address(what: &str, text: &str) -> Result<Ipv4Addr, Fault> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(64).collect();
        faults::invalid(format!("{what} {text:?} is not a valid IPv4 address."))
    })
}

fn parse_cidr(text: &str) -> Result<Ipv4Network, Fault> {
    let shown: String = text.chars().take(64).collect();
    if !text.contains('/') {
        return Err(faults::invalid(format!(
            "{shown:?} is not a valid IP subnet."
        )));
    }
    let cidr: Ipv4Network = text.parse().map_err(|_| {
        faults::invalid(format!(
            "{shown:?} is not a valid IPv4 subnet; others are not offered here."
        ))
    })?;
    let network = cidr.network();
    if cidr.ip() != network {
        return Err(faults::invalid(format!(
            "{shown:?} is not a valid IP subnet: {network}/{} is recommended.",
            cidr.prefix()
        )));
    }
    if !(8..=30).contains(&cidr.prefix()) {
        return Err(faults::invalid(
            "The prefix of a subnet is 8 to 30 bits long.",
        ));
    }
    if unusable().iter().any(|range| cidr.overlaps(*range)) {
        return Err(faults::invalid(format!(
            "{shown} cannot be used for servers."
        )));
    }
    Ok(cidr)
}

/// What a tenant may not take from the machines, nor from everybody else.
fn check_range(
    config: &ManagerConfig,
    ctx: &RequestContext,
    network: &str,
    cidr: Ipv4Network,
) -> Result<(), Fault> {
    if ctx.is_admin() {
        return Ok(());
    }
    if cidr.prefix() < config.tenant_min_prefix {
        return Err(faults::invalid(format!(
            "Requested subnet with cidr: {cidr} for network: {network} is too large: its prefix is {} to 30 bits long.",
            config.tenant_min_prefix
        )));
    }
    if config
        .reserved_cidrs
        .iter()
        .any(|range| cidr.overlaps(*range))
    {
        return Err(faults::invalid(format!(
            "Requested subnet with cidr: {cidr} for network: {network} overlaps with a range that is reserved."
        )));
    }
    Ok(())
}

/// The first and the last address that hosts may have.
fn usable(cidr: Ipv4Network) -> (i64, i64) {
    (
        number_of(cidr.network()) + 1,
        number_of(cidr.broadcast()) - 1,
    )
}

fn parse_gateway(cidr: Ipv4Network, text: &str) -> Result<Option<Ipv4Addr>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let gateway = parse_address("The gateway", text)?;
    let (first, last) = usable(cidr);
    if !(first..=last).contains(&number_of(gateway)) {
        return Err(faults::invalid(format!(
            "The gateway {gateway} is not within {cidr}."
        )));
    }
    Ok(Some(gateway))
}

fn parse_pools(
    cidr: Ipv4Network,
    gateway: Option<Ipv4Addr>,
    pools: &[AllocationPool],
) -> Result<Vec<(i64, i64)>, Fault> {
    let (first, last) = usable(cidr);
    let gateway = gateway.map(number_of);
    if pools.is_empty() {
        return Ok(match gateway {
            Some(gateway) => [(first, gateway - 1), (gateway + 1, last)]
                .into_iter()
                .filter(|(start, end)| start <= end)
                .collect(),
            None => vec![(first, last)],
        });
    }
    let mut read = Vec::new();
    for pool in pools {
        let start = number_of(parse_address("The start of a pool", &pool.start)?);
        let end = number_of(parse_address("The end of a pool", &pool.end)?);
        if start > end || start < first || end > last {
            return Err(faults::invalid(format!(
                "The allocation pool {}-{} is not valid within {cidr}.",
                pool.start, pool.end
            ))
            .with_type("InvalidAllocationPool"));
        }
        if gateway.is_some_and(|gateway| (start..=end).contains(&gateway)) {
            return Err(faults::conflict(
                "GatewayConflictWithAllocationPools",
                format!(
                    "The gateway conflicts with the allocation pool {}-{}.",
                    pool.start, pool.end
                ),
            ));
        }
        read.push((start, end));
    }
    read.sort_unstable();
    if read
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.1 >= b.0))
    {
        return Err(faults::conflict(
            "OverlappingAllocationPools",
            "The allocation pools overlap.",
        ));
    }
    Ok(read)
}

fn check_dns(servers: &[String]) -> Result<(), Fault> {
    if servers.len() > 5 {
        return Err(faults::invalid("A subnet has at most 5 name servers.")
            .with_type("DNSNameServersExhausted"));
    }
    for server in servers {
        parse_address("The name server", server)?;
    }
    Ok(())
}

fn check_routes(routes: &[HostRoute]) -> Result<(), Fault> {
    if routes.len() > 20 {
        return Err(faults::invalid("A subnet has at most 20 host routes.")
            .with_type("HostRoutesExhausted"));
    }
    for route in routes {
        parse_address("The next hop", &route.nexthop)?;
        let valid =
            route.destination.contains('/') && route.destination.parse::<Ipv4Network>().is_ok();
        if !valid {
            return Err(faults::invalid(
                "The destination of a host route is not a valid IPv4 subnet.",
            ));
        }
    }
    Ok(())
}

async fn create(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: String,
    new: NewSubnet,
) -> Result<Subnet, DbError> {
    let network = store::networks::find(txn, &Walls::of(ctx)?, &new.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&new.network_id))?;
    require_owner(ctx, &network.project_id)?;
    let project = if new.project_id.is_empty() {
        network.project_id.clone()
    } else {
        owner(ctx, &new.project_id)?
    };
    if !matches!(new.ip_version, 0 | 4) {
        return Err(faults::invalid("Only IPv4 subnets are offered here.").into());
    }
    let cidr = parse_cidr(&new.cidr)?;
    check_range(&app.config, ctx, &network.id, cidr)?;
    let (first, last) = (number_of(cidr.network()), number_of(cidr.broadcast()));
    store::subnets::lock_ranges(txn).await?;
    if store::subnets::overlapping(txn, first, last)
        .await?
        .is_some()
    {
        return Err(faults::invalid(format!(
            "Requested subnet with cidr: {cidr} for network: {} overlaps with another subnet.",
            network.id
        ))
        .into());
    }
    let gateway = match new.gateway_ip.as_deref() {
        None => Some(address_of(first + 1)),
        Some(text) => parse_gateway(cidr, text)?,
    };
    let pools = parse_pools(cidr, gateway, &new.allocation_pools)?;
    check_dns(&new.dns_nameservers)?;
    check_routes(&new.host_routes)?;
    app.spend(txn, &project, "subnet", 1).await?;
    let now = app.now();
    let mut row = subnet::Model {
        id,
        network_id: network.id.clone(),
        project_id: project,
        name: new.name,
        description: new.description,
        cidr: cidr.to_string(),
        first,
        last,
        gateway_ip: gateway
            .map(|gateway| gateway.to_string())
            .unwrap_or_default(),
        serve_address: String::new(),
        enable_dhcp: new.enable_dhcp.unwrap_or(true),
        dns_nameservers: serde_json::to_string(&new.dns_nameservers)?,
        host_routes: serde_json::to_string(&new.host_routes)?,
        allocation_pools: serde_json::to_string(&pools)?,
        next_number: first,
        created_at: now,
        updated_at: now,
        revision: 1,
    };
    store::subnets::insert(txn, row.clone()).await?;
    serve(txn, &mut row, network.external).await?;
    store::subnets::update(txn, row.clone()).await?;
    app.touch_network(txn, &network.id).await?;
    render::subnet(row)
}

/// Chooses the address that bridges have in a subnet: the gateway, or one of
/// the pool where there is none but DHCP is wanted. The subnet itself owns it.
async fn serve(
    txn: &DatabaseTransaction,
    row: &mut subnet::Model,
    external: bool,
) -> Result<(), DbError> {
    if external {
        // Nothing of ours answers out there; the gateway is somebody else's.
        return Ok(());
    }
    if let Ok(gateway) = row.gateway_ip.parse::<Ipv4Addr>() {
        row.serve_address = gateway.to_string();
        return Ok(());
    }
    if row.enable_dhcp && row.serve_address.is_empty() {
        let pools: Vec<(i64, i64)> = serde_json::from_str(&row.allocation_pools)?;
        let number = store::addresses::take_any(txn, row, &pools, &row.id, 0)
            .await?
            .ok_or_else(|| faults::no_address(&row.network_id))?;
        row.next_number = row.next_number.max(number + 1);
        row.serve_address = address_of(number).to_string();
    }
    Ok(())
}

async fn update(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: UpdateSubnetRequest,
) -> Result<Subnet, DbError> {
    let mut row = own(txn, &ctx, &request.id).await?;
    let network = store::networks::find(txn, &Walls::All, &row.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&row.network_id))?;
    row.name = request.name.unwrap_or(row.name);
    row.description = request.description.unwrap_or(row.description);
    check_texts(&row.name, &row.description)?;
    row.enable_dhcp = request.enable_dhcp.unwrap_or(row.enable_dhcp);
    if let Some(servers) = request.dns_nameservers {
        check_dns(&servers.values)?;
        row.dns_nameservers = serde_json::to_string(&servers.values)?;
    }
    if let Some(routes) = request.host_routes {
        check_routes(&routes.routes)?;
        row.host_routes = serde_json::to_string(&routes.routes)?;
    }
    let cidr = parse_cidr(&row.cidr)?;
    let mut gateway = row.gateway_ip.parse::<Ipv4Addr>().ok();
    let moved = match request.gateway_ip.as_deref() {
        None => false,
        Some(text) => {
            let wanted = parse_gateway(cidr, text)?;
            let moved = wanted != gateway;
            gateway = wanted;
            moved
        }
    };
    if moved {
        if store::routers::interface_of(txn, &row.id).await?.is_some() {
            return Err(
                faults::conflict("GatewayIpInUse", "The gateway is in use by a router.").into(),
            );
        }
        if let Some(gateway) = gateway {
            // Nobody may have the address; the subnet keeps it from now on.
            if !store::addresses::take(txn, &row, number_of(gateway), &row.id, 0).await? {
                return Err(faults::address_in_use(&row.network_id, &gateway.to_string()).into());
            }
        }
        if let Ok(old) = row.serve_address.parse::<Ipv4Addr>() {
            store::addresses::free_one(txn, &row.id, &row.id, number_of(old), app.now()).await?;
        }
        row.serve_address = String::new();
        row.gateway_ip = gateway
            .map(|gateway| gateway.to_string())
            .unwrap_or_default();
    }
    if let Some(pools) = request.allocation_pools {
        let pools = parse_pools(cidr, gateway, &pools.pools)?;
        row.allocation_pools = serde_json::to_string(&pools)?;
        row.next_number = row.first;
        // Whoever takes an address goes by the stored row.
        store::subnets::update(txn, row.clone()).await?;
    }
    serve(txn, &mut row, network.external).await?;
    row.updated_at = app.now();
    row.revision += 1;
    store::subnets::update(txn, row.clone()).await?;
    app.touch_network(txn, &row.network_id).await?;
    render::subnet(row)
}

impl App {
    /// The hosts that have ports on a network must pull again.
    pub(super) async fn touch_network(
        &self,
        txn: &DatabaseTransaction,
        network: &str,
    ) -> Result<(), DbError> {
        let hosts = store::ports::hosts_of_networks(txn, &[network.to_owned()]).await?;
        self.touch_hosts(txn, hosts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_go_around_the_gateway() {
        let cidr = parse_cidr("10.0.0.0/29").unwrap();
        let text = |pools: Vec<(i64, i64)>| -> Vec<String> {
            pools
                .into_iter()
                .map(|(start, end)| format!("{}-{}", address_of(start), address_of(end)))
                .collect()
        };
        let pools = |gateway: Option<&str>| {
            text(parse_pools(cidr, gateway.map(|text| text.parse().unwrap()), &[]).unwrap())
        };
        assert_eq!(pools(Some("10.0.0.1")), ["10.0.0.2-10.0.0.6"]);
        assert_eq!(
            pools(Some("10.0.0.3")),
            ["10.0.0.1-10.0.0.2", "10.0.0.4-10.0.0.6"]
        );
        assert_eq!(pools(None), ["10.0.0.1-10.0.0.6"]);
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for bad in [
            "10.0.0.0",
            "10.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.0/4",
            "fd00::/64",
            "127.0.0.0/8",
            "224.0.0.0/24",
            "169.254.169.0/24",
            // They hold what cannot be used.
            "169.0.0.0/8",
            "255.0.0.0/8",
            "x/24",
            "",
        ] {
            assert!(parse_cidr(bad).is_err(), "{bad}");
        }
        assert!(parse_cidr("192.168.1.0/24").is_ok());
    }

    #[test]
    fn pools_must_be_within_and_apart() {
        let cidr = parse_cidr("10.0.0.0/24").unwrap();
        let pool = |start: &str, end: &str| AllocationPool {
            start: start.into(),
            end: end.into(),
        };
        let gateway = Some(Ipv4Addr::new(10, 0, 0, 1));
        for bad in [
            vec![pool("10.0.0.1", "10.0.0.9")],
            vec![pool("10.0.0.9", "10.0.0.2")],
            vec![pool("10.0.1.2", "10.0.1.9")],
            vec![pool("10.0.0.2", "10.0.0.9"), pool("10.0.0.9", "10.0.0.12")],
            vec![pool("10.0.0.2", "10.0.0.255")],
        ] {
            assert!(parse_pools(cidr, gateway, &bad).is_err(), "{bad:?}");
        }
    }
}

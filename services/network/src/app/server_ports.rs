//! The ports of servers, as the api service's workflows want them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use yakumo_contracts::common::Fence;
use yakumo_contracts::network::{
    AllocateServerPortsRequest, FixedIp, ReleaseServerPortsReply, ResolvedNetwork, ServerAddresses,
    ServerPort, ServerPortsReply, ServerPortsRequest, ServerSecurityGroupRequest,
};
use yakumo_contracts::network_host::{ApplyRequest, NetworkHostClient};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_rpc::Target;
use yakumo_types::{Fault, PortId, RequestContext, RequestId, ServerId};

use super::ports::allocate_in;
use super::{App, faults};
use crate::agent::model::tap_name;
use crate::store::{self, Connection, Walls, network, port, subnet};

/// Between two looks at whether a host has let go.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl App {
    /// Makes or takes a server's ports and binds them to its host.
    pub async fn allocate_server_ports(
        &self,
        request: AllocateServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        server_id(&request.server_id)?;
        if !yakumo_host_name(&request.host) {
            return Err(Fault::invalid("The host's name is not valid."));
        }
        let ctx = RequestContext::internal(self.env.id());
        self.change(&ctx, request, |app, txn, _ctx, request| {
            Box::pin(allocate(app, txn, request))
        })
        .await
    }

    /// Returns when the host's agent has the taps wired and filtered, asked on
    /// account of the request `cause`; names the ports and their taps alone.
    pub async fn wire_server_ports(
        &self,
        cause: RequestId,
        request: ServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        server_id(&request.server_id)?;
        let db = self.db.read();
        let ports = store::ports::of_devices(db, std::slice::from_ref(&request.server_id)).await?;
        let Some(host) = ports.first().map(|port| port.host.clone()) else {
            return Ok(ServerPortsReply::default());
        };
        let row = store::hosts::find(db, &host)
            .await?
            .filter(|_| !host.is_empty())
            .ok_or_else(|| Fault::conflict("The server's ports are bound to no host."))?;
        let revision = u64::try_from(row.revision).unwrap_or(0);
        let ctx = RequestContext::internal(cause);
        let _place = self.waiting.place()?;
        let client = NetworkHostClient::new(self.bus.clone(), Target::host(host.as_str()))
            .with_deadline(Duration::from_secs(self.config.wire_timeout_seconds.max(1)));
        let request = ApplyRequest {
            revision,
            port_ids: ports.iter().map(|port| port.id.clone()).collect(),
        };
        let applied = client.apply(&ctx, request).await?;
        if let Some(missing) = ports
            .iter()
            .find(|port| !applied.wired_port_ids.contains(&port.id))
        {
            return Err(Fault::unavailable(format!(
                "The host {host} has not plugged in port {} yet.",
                missing.id
            )));
        }
        Ok(ServerPortsReply {
            ports: ports
                .into_iter()
                .map(|row| ServerPort {
                    tap: tap_name(&row.id),
                    port_id: row.id,
                    network_id: row.network_id,
                    mac_address: row.mac,
                    ..ServerPort::default()
                })
                .collect(),
        })
    }

    /// Lets a server's ports go, and waits a little for the host to agree.
    pub async fn release_server_ports(
        &self,
        request: ServerPortsRequest,
    ) -> Result<ReleaseServerPortsReply, Fault> {
        server_id(&request.server_id)?;
        let ctx = RequestContext::internal(self.env.id());
        let server = request.server_id.clone();
        self.change(&ctx, request, |app, txn, _ctx, request| {
            Box::pin(release(app, txn, request))
        })
        .await?;
        let clock = &self.env.clock;
        let bound = clock.monotonic() + Duration::from_secs(self.config.release_wait_seconds);
        let _place = self.waiting.place()?;
        loop {
            // Listen before looking, so that no word in between is lost.
            let told = self.waiting.released.notified();
            let pending = store::ports::count_leaving(self.db.read(), &server).await?;
            if pending == 0 {
                return Ok(ReleaseServerPortsReply { confirmed: true });
            }
            if clock.monotonic() >= bound {
                return Ok(ReleaseServerPortsReply { confirmed: false });
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, told).await;
        }
    }

    /// Puts all ports of a server into a group, or takes them out.
    pub async fn change_server_group(
        &self,
        request: ServerSecurityGroupRequest,
        add: bool,
    ) -> Result<ServerAddresses, Fault> {
        server_id(&request.server_id)?;
        let wanted = [request.security_group.clone()];
        let group = self
            .resolve_groups(&request.project_id, &wanted)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| faults::no_security_group(&request.security_group))?;
        let server = request.server_id.clone();
        let ctx = RequestContext::internal(self.env.id());
        self.change(
            &ctx,
            (request, group.id, add),
            |app, txn, _ctx, (request, group, add)| {
                Box::pin(async move {
                    let ports =
                        store::ports::of_devices(txn, std::slice::from_ref(&request.server_id))
                            .await?;
                    let guarded: Vec<port::Model> = ports
                        .into_iter()
                        .filter(|port| port.port_security)
                        .collect();
                    if guarded.is_empty() {
                        return Err(Fault::conflict(
                            "The server has no port that could be in a security group.",
                        )
                        .into());
                    }
                    let ids: Vec<String> = guarded.iter().map(|port| port.id.clone()).collect();
                    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
                    for (port, group) in store::ports::memberships(txn, &ids).await? {
                        groups.entry(port).or_default().push(group);
                    }
                    let mut changed = false;
                    for port in &guarded {
                        let mut own = groups.remove(&port.id).unwrap_or_default();
                        let there = own.contains(&group);
                        if there == add {
                            continue;
                        }
                        changed = true;
                        if add {
                            own.push(group.clone());
                        } else {
                            own.retain(|other| *other != group);
                        }
                        store::ports::set_groups(txn, port, &own).await?;
                    }
                    if !changed && !add {
                        return Err(Fault::not_found(format!(
                            "Security group {} is not associated with the server {}.",
                            request.security_group, request.server_id
                        ))
                        .with_type("SecurityGroupNotFound")
                        .into());
                    }
                    if changed {
                        app.touch_ports(txn, &guarded, std::slice::from_ref(&group))
                            .await?;
                    }
                    Ok(())
                })
            },
        )
        .await?;
        let shown = self.server_addresses(std::slice::from_ref(&server)).await?;
        shown
            .into_iter()
            .next()
            .ok_or_else(|| Fault::not_found("The server has no ports."))
    }
}

fn server_id(text: &str) -> Result<ServerId, Fault> {
    text.parse()
        .map_err(|error| Fault::invalid(format!("{error}.")))
}

fn yakumo_host_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// What a workflow may ask for.
#[derive(Clone, Copy)]
enum Ask {
    Allocate,
    Release,
}

/// The place of a message among all that are about one server. A step and its
/// undoing have the same epoch, and ports must not be made after their release:
/// a workflow does not wait for what it gives up.
fn order_of(fence: Option<&Fence>, ask: Ask) -> i64 {
    let epoch = fence.map_or(0, |fence| i64::try_from(fence.epoch).unwrap_or(i64::MAX));
    let last = match ask {
        Ask::Allocate => 0,
        Ask::Release => 1,
    };
    epoch.saturating_mul(2).saturating_add(last)
}

async fn allocate(
    app: App,
    txn: &DatabaseTransaction,
    request: AllocateServerPortsRequest,
) -> Result<ServerPortsReply, DbError> {
    let (server, project) = (&request.server_id, &request.project_id);
    store::servers::fence(
        txn,
        server,
        project,
        order_of(request.fence.as_ref(), Ask::Allocate),
        app.now(),
    )
    .await?;
    let present = store::ports::of_devices(txn, std::slice::from_ref(server)).await?;
    if !present.is_empty() || request.networks.is_empty() {
        return move_to(&app, txn, &request, present).await;
    }
    let zone = if request.availability_zone.is_empty() {
        "nova"
    } else {
        &request.availability_zone
    };
    let new = request.networks.iter().filter(|it| it.port_id.is_empty());
    let new = u64::try_from(new.count()).unwrap_or(u64::MAX);
    app.spend(txn, project, "port", new).await?;
    let mut places: HashMap<String, Place> = HashMap::new();
    let (mut made, mut touched, mut shown) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (ordinal, wanted) in (0_i64..).zip(&request.networks) {
        if !wanted.port_id.is_empty() {
            let rows = take(&app, txn, &request, wanted, ordinal, zone).await?;
            let taken = server_ports(txn, rows.last().cloned().into_iter().collect()).await?;
            shown.extend(taken.ports.into_iter().map(|port| (ordinal, port)));
            touched.extend(rows);
            continue;
        }
        if !places.contains_key(&wanted.network_id) {
            let place = place(txn, &request, &wanted.network_id).await?;
            places.insert(wanted.network_id.clone(), place);
        }
        let Some(place) = places.get(&wanted.network_id) else {
            continue;
        };
        made.push(make(&app, txn, &request, place, ordinal, zone).await?);
    }
    let guarded: Vec<port::Model> = made
        .iter()
        .filter(|row| row.port_security)
        .cloned()
        .collect();
    let groups = match guarded.len() {
        0 => &[],
        _ => request.security_group_ids.as_slice(),
    };
    if !made.is_empty() {
        store::ports::insert(txn, &made).await?;
    }
    store::ports::join_groups(txn, &guarded, groups).await?;
    touched.extend(made.iter().cloned());
    app.touch_hosts_of(txn, &touched, groups).await?;
    // Last: the row that says where the search for an address stands is held
    // until the commit, and every new port of the network waits for it.
    for row in made {
        let wanted = usize::try_from(row.ordinal).ok();
        let wanted = wanted.and_then(|ordinal| request.networks.get(ordinal));
        let (Some(wanted), Some(place)) = (wanted, places.get(&row.network_id)) else {
            continue;
        };
        let addresses = addresses(txn, place, &row, wanted).await?;
        let ordinal = row.ordinal;
        let port = server_port(row, Some(&place.network), &addresses)?;
        shown.insert(ordinal, port);
    }
    // The fence has raised the server's revision.
    app.announce_servers(vec![server.clone()]);
    Ok(ServerPortsReply {
        ports: shown.into_values().collect(),
    })
}

/// A network that ports are made on.
struct Place {
    network: network::Model,
    subnets: Vec<subnet::Model>,
}

async fn place(
    txn: &DatabaseTransaction,
    request: &AllocateServerPortsRequest,
    network: &str,
) -> Result<Place, DbError> {
    let walls = Walls::Project(request.project_id.clone());
    let network = store::networks::find(txn, &walls, network)
        .await?
        .ok_or_else(|| faults::no_network(network))?;
    on_one_host(txn, &network, &request.host).await?;
    let subnets = store::subnets::of_networks(txn, std::slice::from_ref(&network.id)).await?;
    Ok(Place { network, subnets })
}

/// The ports are there: asked again, or for another host.
async fn move_to(
    app: &App,
    txn: &DatabaseTransaction,
    request: &AllocateServerPortsRequest,
    present: Vec<port::Model>,
) -> Result<ServerPortsReply, DbError> {
    let mut moved = Vec::new();
    let mut rows = Vec::new();
    for row in present {
        if row.host == request.host {
            rows.push(row);
            continue;
        }
        moved.push(row.clone());
        let row = port::Model {
            host: request.host.clone(),
            status: "DOWN".into(),
            updated_at: app.now(),
            revision: row.revision + 1,
            ..row
        };
        store::ports::update(txn, row.clone()).await?;
        moved.push(row.clone());
        rows.push(row);
    }
    if !moved.is_empty() {
        app.touch_ports(txn, &moved, &[]).await?;
    }
    server_ports(txn, rows).await
}

/// A new port, which is not inserted yet.
async fn make(
    app: &App,
    txn: &DatabaseTransaction,
    request: &AllocateServerPortsRequest,
    place: &Place,
    ordinal: i64,
    zone: &str,
) -> Result<port::Model, DbError> {
    let now = app.now();
    Ok(port::Model {
        id: app.env.id::<PortId>().to_string(),
        network_id: place.network.id.clone(),
        project_id: request.project_id.clone(),
        name: String::new(),
        description: String::new(),
        mac: app.fresh_mac(txn).await?,
        admin_state_up: true,
        status: "DOWN".into(),
        device_id: request.server_id.clone(),
        device_owner: format!("compute:{zone}"),
        port_security: place.network.port_security,
        host: request.host.clone(),
        vnic_type: "normal".into(),
        hostname: request.hostname.chars().take(255).collect(),
        made_for_server: true,
        ordinal,
        released_at: 0,
        release_revision: 0,
        created_at: now,
        updated_at: now,
        revision: 1,
    })
}

/// Takes the addresses of a new port.
async fn addresses<'p>(
    txn: &DatabaseTransaction,
    place: &'p Place,
    row: &port::Model,
    wanted: &ResolvedNetwork,
) -> Result<Vec<(&'p subnet::Model, String)>, DbError> {
    let ip = [FixedIp {
        subnet_id: String::new(),
        ip_address: wanted.fixed_ip.clone(),
    }];
    let fixed = (!wanted.fixed_ip.is_empty()).then_some(ip.as_slice());
    match allocate_in(txn, &place.network, &place.subnets, &row.id, fixed).await {
        // Addresses are on their way back: the workflow tries again.
        Err(DbError::Fault(fault))
            if fault
                .type_name()
                .is_some_and(|name| name.starts_with("IpAddress"))
                && store::ports::count_returning(txn, &place.network.id).await? > 0 =>
        {
            Err(Fault::unavailable(format!(
                "The addresses of network {} are just being given back.",
                place.network.id
            ))
            .into())
        }
        taken => Ok(taken?
            .into_iter()
            .map(|(subnet, address)| (subnet, address.to_string()))
            .collect()),
    }
}

/// Takes a port that was made before; gives it as it was, if that was on another
/// host, and as it is.
async fn take(
    app: &App,
    txn: &DatabaseTransaction,
    request: &AllocateServerPortsRequest,
    wanted: &ResolvedNetwork,
    ordinal: i64,
    zone: &str,
) -> Result<Vec<port::Model>, DbError> {
    let before = store::ports::find(
        txn,
        &Walls::Project(request.project_id.clone()),
        &wanted.port_id,
    )
    .await?
    .filter(|row| row.project_id == request.project_id)
    .ok_or_else(|| faults::no_port(&wanted.port_id))?;
    let row = before.clone();
    let used = !row.device_id.is_empty() && row.release_revision == 0;
    if used && row.device_id != request.server_id {
        return Err(
            faults::conflict("PortInUse", format!("Port {} is still in use.", row.id)).into(),
        );
    }
    let same = row.device_id == request.server_id && row.host == request.host;
    if row.release_revision > 0 && !same {
        // The workflow tries again.
        return Err(Fault::unavailable(format!(
            "Port {} is just being let go by the host {}.",
            row.id, row.host
        ))
        .into());
    }
    let network = store::networks::find(txn, &Walls::All, &row.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&row.network_id))?;
    on_one_host(txn, &network, &request.host).await?;
    let row = port::Model {
        release_revision: 0,
        device_id: request.server_id.clone(),
        device_owner: format!("compute:{zone}"),
        host: request.host.clone(),
        hostname: request.hostname.chars().take(255).collect(),
        ordinal,
        updated_at: app.now(),
        revision: row.revision + 1,
        ..row
    };
    store::ports::update(txn, row.clone()).await?;
    let moved = before.host != row.host;
    Ok([before]
        .into_iter()
        .filter(|_| moved)
        .chain([row])
        .collect())
}

/// A local network is a bridge on one host, and so is a flat one that nothing
/// carries. Simulated hosts have no bridges.
async fn on_one_host(
    txn: &DatabaseTransaction,
    network: &network::Model,
    host: &str,
) -> Result<(), DbError> {
    let is_carried = network.network_type == "flat" && !network.physical_network.is_empty();
    if is_carried {
        return Ok(());
    }
    let simulated = store::hosts::find(txn, host)
        .await?
        .is_some_and(|host| host.driver == "simulated");
    if simulated {
        return Ok(());
    }
    let hosts = store::ports::hosts_of_networks(txn, std::slice::from_ref(&network.id)).await?;
    let Some(other) = hosts.into_iter().find(|other| other != host) else {
        return Ok(());
    };
    Err(Fault::conflict(format!(
        "The network {} is on the host {other} alone; the server cannot be on another one.",
        network.id
    ))
    .into())
}

async fn release(
    app: App,
    txn: &DatabaseTransaction,
    request: ServerPortsRequest,
) -> Result<(), DbError> {
    let present = store::ports::of_devices(txn, std::slice::from_ref(&request.server_id)).await?;
    let project = present
        .first()
        .map(|port| port.project_id.clone())
        .unwrap_or_default();
    // Only the reconciler of a server that is gone comes without a fence.
    if request.fence.is_some() {
        store::servers::fence(
            txn,
            &request.server_id,
            &project,
            order_of(request.fence.as_ref(), Ask::Release),
            app.now(),
        )
        .await?;
    }
    let (made, taken): (Vec<port::Model>, Vec<port::Model>) =
        present.into_iter().partition(|port| port.made_for_server);
    app.unbind_ports(txn, taken).await?;
    app.release_ports(txn, made).await
}

/// Ports in the form that a compute host wants.
async fn server_ports(
    db: &impl Connection,
    rows: Vec<port::Model>,
) -> Result<ServerPortsReply, DbError> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let networks: Vec<String> = rows.iter().map(|row| row.network_id.clone()).collect();
    let addresses = store::addresses::of_owners(db, &ids).await?;
    let subnets = store::subnets::of_networks(db, &networks).await?;
    let networks = store::networks::by_ids(db, &networks).await?;
    let mut ports = Vec::new();
    for row in rows {
        let network = networks.iter().find(|network| network.id == row.network_id);
        let own: Vec<_> = addresses
            .iter()
            .filter(|address| address.owner == row.id)
            .filter_map(|address| {
                let subnet = subnets
                    .iter()
                    .find(|subnet| subnet.id == address.subnet_id)?;
                Some((subnet, address.address.clone()))
            })
            .collect();
        ports.push(server_port(row, network, &own)?);
    }
    Ok(ServerPortsReply { ports })
}

fn server_port(
    row: port::Model,
    network: Option<&network::Model>,
    addresses: &[(&subnet::Model, String)],
) -> Result<ServerPort, DbError> {
    let first = addresses.first().map(|(subnet, _)| *subnet);
    Ok(ServerPort {
        tap: tap_name(&row.id),
        port_id: row.id,
        network_id: row.network_id,
        mac_address: row.mac,
        mtu: network.map_or(1500, |network| u32::try_from(network.mtu).unwrap_or(1500)),
        addresses: addresses
            .iter()
            .map(|(subnet, address)| {
                let prefix = subnet.cidr.split('/').nth(1).unwrap_or("32");
                format!("{address}/{prefix}")
            })
            .collect(),
        gateway: first
            .map(|subnet| subnet.gateway_ip.clone())
            .unwrap_or_default(),
        dns: match first {
            Some(subnet) => serde_json::from_str(&subnet.dns_nameservers)?,
            None => Vec::new(),
        },
        network_label: network
            .map(|network| network.name.clone())
            .unwrap_or_default(),
    })
}

//! Routers. The host is the gateway of every network, so a router is a
//! decision: networks on it reach each other, and with an external gateway they
//! reach the outside and can have floating IPs.

use yakumo_contracts::network::{
    CreateRoutersRequest, ExternalGateway, FixedIp, ListRequest, ListRoutersReply, NewRouter,
    Router, RouterInterface, RouterInterfaceRequest, UpdateRouterRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, PortId, RequestContext, RouterId};

use super::repeats::{by_ids, in_order};
use super::{App, admin_only, check_bulk, check_texts, faults, owner, render, require_owner};
use crate::store::addresses::number_of;
use crate::store::{self, Connection, Walls, network, port, router, router_interface, subnet};

const INTERFACE: &str = "network:router_interface";
const GATEWAY: &str = "network:router_gateway";

impl App {
    /// Makes routers, all or none.
    pub async fn create_routers(
        &self,
        ctx: &RequestContext,
        request: CreateRoutersRequest,
    ) -> Result<ListRoutersReply, Fault> {
        check_bulk(request.routers.len())?;
        for new in &request.routers {
            check_texts(&new.name, &new.description)?;
        }
        let once = self.once(ctx, "create_routers", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_routers(ctx, by_ids(&ids)).await?;
            reply.routers = in_order(&ids, reply.routers, |it| &it.id)?;
            return Ok(reply);
        }
        let wanted = request.routers.into_iter();
        let wanted = wanted.map(|new| (self.env.id::<RouterId>().to_string(), new));
        self.make(ctx, once, wanted.collect(), |app, txn, ctx, wanted| {
            Box::pin(async move {
                let mut routers = Vec::new();
                for (id, new) in wanted {
                    routers.push(create(&app, txn, &ctx, id, new).await?);
                }
                Ok(ListRoutersReply {
                    routers,
                    more: false,
                })
            })
        })
        .await
    }

    /// One page of the caller's.
    pub async fn list_routers(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListRoutersReply, Fault> {
        let db = self.db.read();
        let (rows, more) = store::routers::list(db, &Walls::of(ctx)?, &request).await?;
        Ok(ListRoutersReply {
            routers: shown(db, rows).await?,
            more,
        })
    }

    /// Changes a router.
    pub async fn update_router(
        &self,
        ctx: &RequestContext,
        request: UpdateRouterRequest,
    ) -> Result<Router, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(async move {
                let mut row = own(txn, &ctx, &request.id).await?;
                row.name = request.name.unwrap_or(row.name);
                row.description = request.description.unwrap_or(row.description);
                check_texts(&row.name, &row.description)?;
                row.admin_state_up = request.admin_state_up.unwrap_or(row.admin_state_up);
                if let Some(gateway) = request.external_gateway_info {
                    set_gateway(&app, txn, &ctx, &mut row, gateway).await?;
                }
                row.updated_at = app.now();
                row.revision += 1;
                store::routers::update(txn, row.clone()).await?;
                touch(&app, txn, &row.id).await?;
                one(txn, row).await
            })
        })
        .await
    }

    /// Removes a router without interfaces.
    pub async fn delete_router(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(async move {
                let mut row = own(txn, &ctx, &id).await?;
                if !store::routers::interfaces(txn, &row.id).await?.is_empty() {
                    return Err(faults::conflict(
                        "RouterInUse",
                        format!("Router {id} still has ports."),
                    )
                    .into());
                }
                set_gateway(&app, txn, &ctx, &mut row, ExternalGateway::default()).await?;
                store::routers::delete(txn, &row.id).await
            })
        })
        .await
    }

    /// Puts a subnet on a router.
    pub async fn add_router_interface(
        &self,
        ctx: &RequestContext,
        request: RouterInterfaceRequest,
    ) -> Result<RouterInterface, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(add_interface(app, txn, ctx, request))
        })
        .await
    }

    /// Takes a subnet off a router.
    pub async fn remove_router_interface(
        &self,
        ctx: &RequestContext,
        request: RouterInterfaceRequest,
    ) -> Result<RouterInterface, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(remove_interface(app, txn, ctx, request))
        })
        .await
    }
}

async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<router::Model, DbError> {
    let row = store::routers::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_router(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

async fn shown(db: &impl Connection, rows: Vec<router::Model>) -> Result<Vec<Router>, DbError> {
    let ports: Vec<String> = rows
        .iter()
        .map(|row| row.gateway_port_id.clone())
        .filter(|id| !id.is_empty())
        .collect();
    let addresses = store::addresses::of_owners(db, &ports).await?;
    Ok(rows
        .into_iter()
        .map(|row| Router {
            status: if row.admin_state_up { "ACTIVE" } else { "DOWN" }.into(),
            external_gateway_info: (!row.gateway_network_id.is_empty()).then(|| ExternalGateway {
                network_id: row.gateway_network_id.clone(),
                enable_snat: row.enable_snat,
                external_fixed_ips: addresses
                    .iter()
                    .filter(|address| address.owner == row.gateway_port_id)
                    .map(render::fixed_ip)
                    .collect(),
            }),
            id: row.id,
            project_id: row.project_id,
            name: row.name,
            description: row.description,
            admin_state_up: row.admin_state_up,
            created_at: row.created_at,
            updated_at: row.updated_at,
            revision_number: u64::try_from(row.revision).unwrap_or(0),
        })
        .collect())
}

async fn one(db: &impl Connection, row: router::Model) -> Result<Router, DbError> {
    shown(db, vec![row])
        .await?
        .into_iter()
        .next()
        .ok_or(DbError::NotFound)
}

async fn create(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: String,
    new: NewRouter,
) -> Result<Router, DbError> {
    let project = owner(ctx, &new.project_id)?;
    app.spend(txn, &project, "router", 1).await?;
    let now = app.now();
    let mut row = router::Model {
        id,
        project_id: project,
        name: new.name,
        description: new.description,
        admin_state_up: new.admin_state_up.unwrap_or(true),
        gateway_network_id: String::new(),
        gateway_port_id: String::new(),
        enable_snat: true,
        created_at: now,
        updated_at: now,
        revision: 1,
    };
    store::routers::insert(txn, row.clone()).await?;
    if let Some(gateway) = new.external_gateway_info {
        set_gateway(app, txn, ctx, &mut row, gateway).await?;
        store::routers::update(txn, row.clone()).await?;
    }
    one(txn, row).await
}

/// The hosts with ports behind a router must pull again.
async fn touch(app: &App, txn: &DatabaseTransaction, router: &str) -> Result<(), DbError> {
    let networks: Vec<String> = store::routers::interfaces(txn, router)
        .await?
        .into_iter()
        .map(|interface| interface.network_id)
        .collect();
    if networks.is_empty() {
        return Ok(());
    }
    let hosts = store::ports::hosts_of_networks(txn, &networks).await?;
    app.touch_hosts(txn, hosts).await
}

async fn set_gateway(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    row: &mut router::Model,
    wanted: ExternalGateway,
) -> Result<(), DbError> {
    if wanted.network_id == row.gateway_network_id && wanted.external_fixed_ips.is_empty() {
        row.enable_snat = wanted.enable_snat || row.gateway_network_id.is_empty();
        return Ok(());
    }
    if !row.gateway_network_id.is_empty() {
        if store::floating_ips::count_through(txn, &row.id).await? > 0
            && wanted.network_id != row.gateway_network_id
        {
            return Err(faults::conflict(
                "RouterExternalGatewayInUseByFloatingIp",
                format!("Gateway cannot be updated for router {}, since a gateway to external network {} is required by one or more floating IPs.", row.id, row.gateway_network_id),
            )
            .into());
        }
        app.purge_ports(txn, vec![std::mem::take(&mut row.gateway_port_id)])
            .await?;
        row.gateway_network_id = String::new();
    }
    if wanted.network_id.is_empty() {
        row.enable_snat = true;
        return Ok(());
    }
    let network = store::networks::find(txn, &Walls::of(ctx)?, &wanted.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&wanted.network_id))?;
    if !network.external {
        return Err(faults::invalid(format!(
            "Network {} is not a valid external network.",
            network.id
        ))
        .with_type("BadRequest")
        .into());
    }
    admin_only(
        ctx,
        !wanted.external_fixed_ips.is_empty(),
        "external_fixed_ips",
    )?;
    let ips = Some(wanted.external_fixed_ips.as_slice()).filter(|ips| !ips.is_empty());
    let port = system_port(app, txn, &network, &row.id, "", GATEWAY, ips).await?;
    row.gateway_network_id = network.id;
    row.gateway_port_id = port.id;
    row.enable_snat = wanted.enable_snat;
    Ok(())
}

/// A port that stands for a router in listings; no host ever sees it.
async fn system_port(
    app: &App,
    txn: &DatabaseTransaction,
    network: &network::Model,
    router: &str,
    project: &str,
    device_owner: &str,
    ips: Option<&[FixedIp]>,
) -> Result<port::Model, DbError> {
    let now = app.now();
    let row = port::Model {
        id: app.env.id::<PortId>().to_string(),
        network_id: network.id.clone(),
        project_id: project.to_owned(),
        name: String::new(),
        description: String::new(),
        mac: app.fresh_mac(txn).await?,
        admin_state_up: true,
        status: "ACTIVE".into(),
        device_id: router.to_owned(),
        device_owner: device_owner.to_owned(),
        port_security: false,
        host: String::new(),
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
    if ips != Some(&[]) {
        app.allocate(txn, network, &row.id, ips).await?;
    }
    Ok(row)
}

async fn visible_subnet(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<subnet::Model, DbError> {
    let subnet = store::subnets::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_subnet(id))?;
    Ok(subnet)
}

async fn add_interface(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: RouterInterfaceRequest,
) -> Result<RouterInterface, DbError> {
    let router = own(txn, &ctx, &request.router_id).await?;
    let bad = |message: &str| faults::invalid(message).with_type("BadRequest");
    let given = match (request.subnet_id.as_str(), request.port_id.as_str()) {
        ("", "") => return Err(bad("Either subnet_id or port_id must be specified.").into()),
        (subnet, "") => (visible_subnet(txn, &ctx, subnet).await?, None),
        ("", port) => {
            let port = store::ports::find(txn, &Walls::of(&ctx)?, port)
                .await?
                .ok_or_else(|| faults::no_port(port))?;
            require_owner(&ctx, &port.project_id)?;
            if !port.device_id.is_empty() || !port.host.is_empty() {
                return Err(
                    faults::conflict("PortInUse", format!("Port {} is in use.", port.id)).into(),
                );
            }
            let addresses =
                store::addresses::of_owners(txn, std::slice::from_ref(&port.id)).await?;
            let [address] = addresses.as_slice() else {
                return Err(bad("The port must have exactly one fixed IP.").into());
            };
            (
                visible_subnet(txn, &ctx, &address.subnet_id).await?,
                Some(port),
            )
        }
        _ => return Err(bad("Only one of subnet_id or port_id can be specified.").into()),
    };
    let (subnet, port) = given;
    let network = store::networks::find(txn, &Walls::All, &subnet.network_id)
        .await?
        .ok_or_else(|| faults::no_network(&subnet.network_id))?;
    if network.external {
        return Err(bad("An external network cannot be on a router's inside.").into());
    }
    let Ok(gateway) = subnet.gateway_ip.parse() else {
        return Err(bad("Subnet for router interface must have a gateway IP.").into());
    };
    if let Some(there) = store::routers::interface_of(txn, &subnet.id).await? {
        return Err(bad(&format!(
            "Router {} already has a port on subnet {}.",
            there.router_id, subnet.id
        ))
        .into());
    }
    let port = match port {
        Some(port) => {
            let port = port::Model {
                device_id: router.id.clone(),
                device_owner: INTERFACE.into(),
                status: "ACTIVE".into(),
                updated_at: app.now(),
                revision: port.revision + 1,
                ..port
            };
            store::ports::update(txn, port.clone()).await?;
            port
        }
        None => {
            let port = system_port(
                &app,
                txn,
                &network,
                &router.id,
                &router.project_id,
                INTERFACE,
                Some(&[]),
            )
            .await?;
            // A gateway that was moved is kept by its subnet until now.
            store::addresses::free_one(txn, &subnet.id, &subnet.id, number_of(gateway), app.now())
                .await?;
            if !store::addresses::take(txn, &subnet, number_of(gateway), &port.id, 0).await? {
                return Err(faults::address_in_use(&network.id, &subnet.gateway_ip).into());
            }
            port
        }
    };
    let row = router_interface::Model {
        subnet_id: subnet.id.clone(),
        router_id: router.id.clone(),
        network_id: network.id.clone(),
        port_id: port.id.clone(),
    };
    store::routers::add_interface(txn, row).await?;
    touch(&app, txn, &router.id).await?;
    Ok(RouterInterface {
        id: router.id,
        project_id: router.project_id,
        network_id: network.id,
        port_id: port.id,
        subnet_id: subnet.id,
    })
}

async fn remove_interface(
    app: App,
    txn: &DatabaseTransaction,
    ctx: RequestContext,
    request: RouterInterfaceRequest,
) -> Result<RouterInterface, DbError> {
    let router = own(txn, &ctx, &request.router_id).await?;
    let interface = store::routers::interfaces(txn, &router.id)
        .await?
        .into_iter()
        .find(|interface| {
            (!request.port_id.is_empty() || !request.subnet_id.is_empty())
                && (request.port_id.is_empty() || interface.port_id == request.port_id)
                && (request.subnet_id.is_empty() || interface.subnet_id == request.subnet_id)
        })
        .ok_or_else(|| {
            Fault::not_found(format!(
                "Router {} does not have such an interface.",
                router.id
            ))
            .with_type("RouterInterfaceNotFound")
        })?;
    for floating in store::floating_ips::through(txn, &router.id).await? {
        let behind = store::addresses::of_owners(txn, &[floating.port_id]).await?;
        if behind
            .iter()
            .any(|address| address.subnet_id == interface.subnet_id)
        {
            return Err(faults::conflict(
                "RouterInterfaceInUseByFloatingIP",
                format!("Router interface for subnet {} on router {} cannot be deleted, as it is required by one or more floating IPs.", interface.subnet_id, router.id),
            )
            .into());
        }
    }
    touch(&app, txn, &router.id).await?;
    store::routers::remove_interface(txn, &interface.subnet_id).await?;
    let port = store::ports::by_ids(txn, std::slice::from_ref(&interface.port_id)).await?;
    app.release_ports(txn, port).await?;
    Ok(RouterInterface {
        id: router.id,
        project_id: router.project_id,
        network_id: interface.network_id,
        port_id: interface.port_id,
        subnet_id: interface.subnet_id,
    })
}

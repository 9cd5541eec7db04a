//! `/routers`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    CreateRoutersRequest, ExternalGateway, FixedIp, IdRequest, NewRouter, Router, RouterInterface,
    RouterInterfaceRequest, UpdateRouterRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{
    created_document, double, one_or_many, owner, project, select, standard, wrapped,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    router: Option<NewBody>,
    routers: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ip {
    subnet_id: Option<String>,
    ip_address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    network_id: Option<String>,
    enable_snat: Option<bool>,
    external_fixed_ips: Option<Vec<Ip>>,
    qos_policy_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    external_gateway_info: Option<Gateway>,
    availability_zone_hints: Option<Vec<String>>,
    distributed: Option<bool>,
    ha: Option<bool>,
    project_id: Option<String>,
    tenant_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    router: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    #[serde(default, deserialize_with = "double")]
    external_gateway_info: Option<Option<Gateway>>,
    routes: Option<Vec<Value>>,
    distributed: Option<bool>,
    ha: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceBody {
    subnet_id: Option<String>,
    port_id: Option<String>,
}

fn gateway(gateway: Gateway) -> Result<ExternalGateway, Fault> {
    if gateway.enable_snat == Some(false) {
        return Err(Fault::invalid(
            "A gateway without SNAT is not offered here.",
        ));
    }
    if gateway.qos_policy_id.is_some() {
        return Err(Fault::invalid("QoS policies are not offered here."));
    }
    Ok(ExternalGateway {
        network_id: gateway.network_id.unwrap_or_default(),
        enable_snat: true,
        external_fixed_ips: gateway
            .external_fixed_ips
            .unwrap_or_default()
            .into_iter()
            .map(|ip| FixedIp {
                subnet_id: ip.subnet_id.unwrap_or_default(),
                ip_address: ip.ip_address.unwrap_or_default(),
            })
            .collect(),
    })
}

fn check_kind(distributed: Option<bool>, ha: Option<bool>) -> Result<(), Fault> {
    if distributed == Some(true) || ha == Some(true) {
        return Err(Fault::invalid(
            "Distributed and highly available routers are not offered here.",
        ));
    }
    Ok(())
}

fn read(body: NewBody) -> Result<NewRouter, Fault> {
    check_kind(body.distributed, body.ha)?;
    let _ = body.availability_zone_hints;
    Ok(NewRouter {
        project_id: owner(body.project_id, body.tenant_id)?,
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        admin_state_up: body.admin_state_up,
        external_gateway_info: body.external_gateway_info.map(gateway).transpose()?,
    })
}

fn render(it: Router, _ctx: &RequestContext) -> Value {
    let gateway = it.external_gateway_info.as_ref().map(|gateway| {
        let ips: Vec<Value> = gateway
            .external_fixed_ips
            .iter()
            .map(|ip| json!({"subnet_id": ip.subnet_id, "ip_address": ip.ip_address}))
            .collect();
        json!({
            "network_id": gateway.network_id,
            "enable_snat": gateway.enable_snat,
            "external_fixed_ips": ips,
        })
    });
    let mut document = json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "admin_state_up": it.admin_state_up,
        "status": it.status,
        "external_gateway_info": gateway,
        "routes": [],
        "availability_zone_hints": [],
        "availability_zones": [],
    });
    standard(
        &mut document,
        &it.project_id,
        it.created_at,
        it.updated_at,
        it.revision_number,
    );
    document
}

/// `GET /routers`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/routers", "routers", |request| async {
            let reply = state.networks.list_routers(&ctx, request).await?;
            Ok((
                reply
                    .routers
                    .into_iter()
                    .map(|it| render(it, &ctx))
                    .collect(),
                reply.more,
            ))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /routers/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state.networks.list_routers(&ctx, by_id(&id)).await?.routers;
    let it = shown(found, || not_found("RouterNotFound", "Router", &id))?;
    Ok(ok(&wrapped(
        "router",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /routers/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state.networks.delete_router(&ctx, IdRequest { id }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /routers`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.router, body.routers)?;
    let routers = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let reply = state
        .networks
        .create_routers(
            &ctx,
            CreateRoutersRequest {
                routers,
                idempotency_key: Some(key.or_own(&ctx).into()),
            },
        )
        .await?;
    let documents = reply
        .routers
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "router", "routers", documents, bulk,
    )?))
}

/// `PUT /routers/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.router;
    check_kind(changes.distributed, changes.ha)?;
    if changes.routes.is_some_and(|routes| !routes.is_empty()) {
        return Err(Fault::invalid("Extra routes are not offered here.").into());
    }
    let external_gateway_info = match changes.external_gateway_info {
        None => None,
        Some(None) => Some(ExternalGateway::default()),
        Some(Some(wanted)) => Some(gateway(wanted)?),
    };
    let request = UpdateRouterRequest {
        id,
        name: changes.name,
        description: changes.description,
        admin_state_up: changes.admin_state_up,
        external_gateway_info,
    };
    let it = state.networks.update_router(&ctx, request).await?;
    Ok(ok(&wrapped("router", render(it, &ctx))))
}

fn interface_request(id: String, body: InterfaceBody) -> RouterInterfaceRequest {
    RouterInterfaceRequest {
        router_id: id,
        subnet_id: body.subnet_id.unwrap_or_default(),
        port_id: body.port_id.unwrap_or_default(),
    }
}

fn interface(it: &RouterInterface) -> Value {
    json!({
        "id": it.id,
        "project_id": project(&it.project_id),
        "tenant_id": project(&it.project_id),
        "network_id": it.network_id,
        "port_id": it.port_id,
        "subnet_id": it.subnet_id,
        "subnet_ids": [it.subnet_id],
        "tags": [],
    })
}

/// `PUT /routers/{id}/add_router_interface`
pub async fn add_interface(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<InterfaceBody>,
) -> HttpResult<Response> {
    let it = state
        .networks
        .add_router_interface(&ctx, interface_request(id, body))
        .await?;
    Ok(ok(&interface(&it)))
}

/// `PUT /routers/{id}/remove_router_interface`
pub async fn remove_interface(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<InterfaceBody>,
) -> HttpResult<Response> {
    let it = state
        .networks
        .remove_router_interface(&ctx, interface_request(id, body))
        .await?;
    Ok(ok(&interface(&it)))
}

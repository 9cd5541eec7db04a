//! `/networks`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    CreateNetworksRequest, IdRequest, Network, NewNetwork, UpdateNetworkRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{
    Number, created_document, nullable, one_or_many, owner, select, standard, wrapped,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    network: Option<NewBody>,
    networks: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    shared: Option<bool>,
    #[serde(rename = "router:external")]
    router_external: Option<bool>,
    mtu: Option<Number>,
    #[serde(rename = "provider:network_type")]
    network_type: Option<String>,
    #[serde(rename = "provider:physical_network")]
    physical_network: Option<String>,
    #[serde(rename = "provider:segmentation_id")]
    segmentation_id: Option<Value>,
    port_security_enabled: Option<bool>,
    is_default: Option<bool>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    availability_zone_hints: Option<Vec<String>>,
    dns_domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    network: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    shared: Option<bool>,
    #[serde(rename = "router:external")]
    router_external: Option<bool>,
    mtu: Option<Number>,
    port_security_enabled: Option<bool>,
    is_default: Option<bool>,
}

fn read(body: NewBody) -> Result<NewNetwork, Fault> {
    if body.segmentation_id.is_some_and(|id| !id.is_null()) {
        return Err(Fault::invalid(
            "Flat and local networks have no segmentation id.",
        ));
    }
    if body.dns_domain.is_some_and(|domain| !domain.is_empty()) {
        return Err(Fault::invalid("dns_domain is not offered here."));
    }
    let _ = body.availability_zone_hints;
    Ok(NewNetwork {
        project_id: owner(body.project_id, body.tenant_id)?,
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        admin_state_up: body.admin_state_up,
        shared: body.shared,
        router_external: body.router_external,
        mtu: body.mtu.map(|mtu| mtu.read("mtu")).transpose()?,
        provider_network_type: body.network_type.unwrap_or_default(),
        provider_physical_network: body.physical_network.unwrap_or_default(),
        port_security_enabled: body.port_security_enabled,
        is_default: body.is_default,
    })
}

fn render(it: Network, ctx: &RequestContext) -> Value {
    let mut document = json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "admin_state_up": it.admin_state_up,
        "status": it.status,
        "shared": it.shared,
        "router:external": it.router_external,
        "mtu": it.mtu,
        "port_security_enabled": it.port_security_enabled,
        "subnets": it.subnets,
        "availability_zone_hints": [],
        "availability_zones": [],
        "ipv4_address_scope": null,
        "ipv6_address_scope": null,
        "l2_adjacency": true,
    });
    if let Some(map) = document.as_object_mut() {
        if it.router_external {
            map.insert("is_default".into(), it.is_default.into());
        }
        if ctx.is_admin() {
            map.insert(
                "provider:network_type".into(),
                it.provider_network_type.into(),
            );
            map.insert(
                "provider:physical_network".into(),
                nullable(&it.provider_physical_network),
            );
            map.insert("provider:segmentation_id".into(), Value::Null);
        }
    }
    standard(
        &mut document,
        &it.project_id,
        it.created_at,
        it.updated_at,
        it.revision_number,
    );
    document
}

/// `GET /networks`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/networks", "networks", |request| async {
            let reply = state.networks.list_networks(&ctx, request).await?;
            Ok((
                reply
                    .networks
                    .into_iter()
                    .map(|it| render(it, &ctx))
                    .collect(),
                reply.more,
            ))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /networks/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state
        .networks
        .list_networks(&ctx, by_id(&id))
        .await?
        .networks;
    let it = shown(found, || not_found("NetworkNotFound", "Network", &id))?;
    Ok(ok(&wrapped(
        "network",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /networks/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state
        .networks
        .delete_network(&ctx, IdRequest { id })
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /networks`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.network, body.networks)?;
    let networks = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let reply = state
        .networks
        .create_networks(
            &ctx,
            CreateNetworksRequest {
                networks,
                idempotency_key: Some(key.or_own(&ctx).into()),
            },
        )
        .await?;
    let documents = reply
        .networks
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "network", "networks", documents, bulk,
    )?))
}

/// `PUT /networks/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.network;
    let request = UpdateNetworkRequest {
        id,
        name: changes.name,
        description: changes.description,
        admin_state_up: changes.admin_state_up,
        shared: changes.shared,
        router_external: changes.router_external,
        mtu: changes.mtu.map(|mtu| mtu.read("mtu")).transpose()?,
        port_security_enabled: changes.port_security_enabled,
        is_default: changes.is_default,
    };
    let it = state.networks.update_network(&ctx, request).await?;
    Ok(ok(&wrapped("network", render(it, &ctx))))
}

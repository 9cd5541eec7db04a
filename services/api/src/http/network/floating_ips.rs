//! `/floatingips`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    CreateFloatingIpsRequest, FloatingIp, IdRequest, NewFloatingIp, UpdateFloatingIpRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{
    created_document, double, nullable, one_or_many, owner, select, standard, wrapped,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    floatingip: Option<NewBody>,
    floatingips: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    floating_network_id: String,
    floating_ip_address: Option<String>,
    subnet_id: Option<String>,
    port_id: Option<String>,
    fixed_ip_address: Option<String>,
    description: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    dns_domain: Option<String>,
    dns_name: Option<String>,
    qos_policy_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    floatingip: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    #[serde(default, deserialize_with = "double")]
    port_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "double")]
    fixed_ip_address: Option<Option<String>>,
    description: Option<String>,
}

fn read(body: NewBody) -> Result<NewFloatingIp, Fault> {
    let filled = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
    if filled(body.dns_domain) || filled(body.dns_name) || filled(body.qos_policy_id) {
        return Err(Fault::invalid(
            "DNS names and QoS policies of floating IPs are not offered here.",
        ));
    }
    Ok(NewFloatingIp {
        project_id: owner(body.project_id, body.tenant_id)?,
        description: body.description.unwrap_or_default(),
        floating_network_id: body.floating_network_id,
        subnet_id: body.subnet_id.unwrap_or_default(),
        floating_ip_address: body.floating_ip_address.unwrap_or_default(),
        port_id: body.port_id.unwrap_or_default(),
        fixed_ip_address: body.fixed_ip_address.unwrap_or_default(),
    })
}

fn render(it: FloatingIp, _ctx: &RequestContext) -> Value {
    let details = it.port_details.as_ref().map(|port| {
        json!({
            "name": port.name,
            "network_id": port.network_id,
            "mac_address": port.mac_address,
            "admin_state_up": port.admin_state_up,
            "status": port.status,
            "device_id": port.device_id,
            "device_owner": port.device_owner,
        })
    });
    let mut document = json!({
        "id": it.id,
        "description": it.description,
        "floating_network_id": it.floating_network_id,
        "floating_ip_address": it.floating_ip_address,
        "port_id": nullable(&it.port_id),
        "fixed_ip_address": nullable(&it.fixed_ip_address),
        "router_id": nullable(&it.router_id),
        "status": it.status,
        "port_details": details,
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

/// `GET /floatingips`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/floatingips", "floatingips", |request| async {
            let reply = state.networks.list_floating_ips(&ctx, request).await?;
            Ok((
                reply
                    .floatingips
                    .into_iter()
                    .map(|it| render(it, &ctx))
                    .collect(),
                reply.more,
            ))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /floatingips/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state
        .networks
        .list_floating_ips(&ctx, by_id(&id))
        .await?
        .floatingips;
    let it = shown(found, || {
        not_found("FloatingIPNotFound", "Floating IP", &id)
    })?;
    Ok(ok(&wrapped(
        "floatingip",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /floatingips/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state
        .networks
        .delete_floating_ip(&ctx, IdRequest { id })
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /floatingips`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.floatingip, body.floatingips)?;
    let floatingips = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let reply = state
        .networks
        .create_floating_ips(
            &ctx,
            CreateFloatingIpsRequest {
                floatingips,
                idempotency_key: Some(key.or_own(&ctx).into()),
            },
        )
        .await?;
    let documents = reply
        .floatingips
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "floatingip",
        "floatingips",
        documents,
        bulk,
    )?))
}

/// `PUT /floatingips/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.floatingip;
    let request = UpdateFloatingIpRequest {
        id,
        description: changes.description,
        port_id: changes.port_id.map(Option::unwrap_or_default),
        fixed_ip_address: changes.fixed_ip_address.map(Option::unwrap_or_default),
    };
    let it = state.networks.update_floating_ip(&ctx, request).await?;
    Ok(ok(&wrapped("floatingip", render(it, &ctx))))
}

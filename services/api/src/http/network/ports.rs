//! `/ports`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    CreatePortsRequest, FixedIp, FixedIps, IdRequest, NewPort, Port, Texts, UpdatePortRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{created_document, one_or_many, owner, select, standard, wrapped};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    port: Option<NewBody>,
    ports: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ip {
    subnet_id: Option<String>,
    ip_address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    network_id: String,
    name: Option<String>,
    description: Option<String>,
    mac_address: Option<String>,
    admin_state_up: Option<bool>,
    device_id: Option<String>,
    device_owner: Option<String>,
    fixed_ips: Option<Vec<Ip>>,
    security_groups: Option<Vec<String>>,
    port_security_enabled: Option<bool>,
    #[serde(rename = "binding:host_id")]
    host_id: Option<String>,
    #[serde(rename = "binding:vnic_type")]
    vnic_type: Option<String>,
    #[serde(rename = "binding:profile")]
    profile: Option<Value>,
    allowed_address_pairs: Option<Vec<Value>>,
    extra_dhcp_opts: Option<Vec<Value>>,
    dns_name: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    port: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    mac_address: Option<String>,
    admin_state_up: Option<bool>,
    device_id: Option<String>,
    device_owner: Option<String>,
    fixed_ips: Option<Vec<Ip>>,
    security_groups: Option<Vec<String>>,
    port_security_enabled: Option<bool>,
    #[serde(rename = "binding:host_id")]
    host_id: Option<String>,
    #[serde(rename = "binding:vnic_type")]
    vnic_type: Option<String>,
    #[serde(rename = "binding:profile")]
    profile: Option<Value>,
    allowed_address_pairs: Option<Vec<Value>>,
    extra_dhcp_opts: Option<Vec<Value>>,
    dns_name: Option<String>,
}

/// What is known and not offered; empty values are what clients send anyway.
fn not_offered(
    pairs: Option<Vec<Value>>,
    options: Option<Vec<Value>>,
    name: Option<String>,
    profile: Option<Value>,
) -> Result<(), Fault> {
    if pairs.is_some_and(|pairs| !pairs.is_empty()) {
        return Err(Fault::invalid(
            "allowed_address_pairs are not offered here.",
        ));
    }
    if options.is_some_and(|options| !options.is_empty()) {
        return Err(Fault::invalid("extra_dhcp_opts are not offered here."));
    }
    if name.is_some_and(|name| !name.is_empty()) {
        return Err(Fault::invalid("dns_name is not offered here."));
    }
    let empty = |profile: Value| {
        profile.is_null() || profile.as_object().is_some_and(serde_json::Map::is_empty)
    };
    if profile.is_some_and(|profile| !empty(profile)) {
        return Err(Fault::invalid("binding:profile is not offered here."));
    }
    Ok(())
}

fn ips(list: Vec<Ip>) -> FixedIps {
    FixedIps {
        ips: list
            .into_iter()
            .map(|ip| FixedIp {
                subnet_id: ip.subnet_id.unwrap_or_default(),
                ip_address: ip.ip_address.unwrap_or_default(),
            })
            .collect(),
    }
}

fn read(body: NewBody) -> Result<NewPort, Fault> {
    not_offered(
        body.allowed_address_pairs,
        body.extra_dhcp_opts,
        body.dns_name,
        body.profile,
    )?;
    Ok(NewPort {
        project_id: owner(body.project_id, body.tenant_id)?,
        network_id: body.network_id,
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        mac_address: body.mac_address.unwrap_or_default(),
        admin_state_up: body.admin_state_up,
        device_id: body.device_id.unwrap_or_default(),
        device_owner: body.device_owner.unwrap_or_default(),
        fixed_ips: body.fixed_ips.map(ips),
        security_groups: body.security_groups.map(|values| Texts { values }),
        port_security_enabled: body.port_security_enabled,
        binding_host_id: body.host_id.unwrap_or_default(),
        binding_vnic_type: body.vnic_type.unwrap_or_default(),
    })
}

fn render(it: Port, ctx: &RequestContext) -> Value {
    let ips: Vec<Value> = it
        .fixed_ips
        .iter()
        .map(|ip| json!({"subnet_id": ip.subnet_id, "ip_address": ip.ip_address}))
        .collect();
    let mut document = json!({
        "id": it.id,
        "network_id": it.network_id,
        "name": it.name,
        "description": it.description,
        "mac_address": it.mac_address,
        "admin_state_up": it.admin_state_up,
        "status": it.status,
        "device_id": it.device_id,
        "device_owner": it.device_owner,
        "fixed_ips": ips,
        "security_groups": it.security_groups,
        "port_security_enabled": it.port_security_enabled,
        "allowed_address_pairs": [],
        "extra_dhcp_opts": [],
        "binding:vnic_type": it.binding_vnic_type,
    });
    if let (true, Some(map)) = (ctx.is_admin(), document.as_object_mut()) {
        let kind = if it.binding_host_id.is_empty() {
            "unbound"
        } else {
            "bridge"
        };
        map.insert("binding:host_id".into(), it.binding_host_id.into());
        map.insert("binding:vif_type".into(), kind.into());
        map.insert("binding:vif_details".into(), json!({}));
        map.insert("binding:profile".into(), json!({}));
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

/// `GET /ports`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/ports", "ports", |request| async {
            let reply = state.networks.list_ports(&ctx, request).await?;
            Ok((
                reply.ports.into_iter().map(|it| render(it, &ctx)).collect(),
                reply.more,
            ))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /ports/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state.networks.list_ports(&ctx, by_id(&id)).await?.ports;
    let it = shown(found, || not_found("PortNotFound", "Port", &id))?;
    Ok(ok(&wrapped(
        "port",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /ports/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state.networks.delete_port(&ctx, IdRequest { id }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /ports`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.port, body.ports)?;
    let ports = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let reply = state
        .networks
        .create_ports(
            &ctx,
            CreatePortsRequest {
                ports,
                idempotency_key: Some(key.or_own(&ctx).into()),
            },
        )
        .await?;
    let documents = reply.ports.into_iter().map(|it| render(it, &ctx)).collect();
    Ok(created(&created_document(
        "port", "ports", documents, bulk,
    )?))
}

/// `PUT /ports/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.port;
    not_offered(
        changes.allowed_address_pairs,
        changes.extra_dhcp_opts,
        changes.dns_name,
        changes.profile,
    )?;
    if changes.vnic_type.is_some_and(|kind| kind != "normal") {
        return Err(Fault::invalid("The only vnic_type that is offered here is normal.").into());
    }
    let request = UpdatePortRequest {
        id,
        name: changes.name,
        description: changes.description,
        admin_state_up: changes.admin_state_up,
        device_id: changes.device_id,
        device_owner: changes.device_owner,
        fixed_ips: changes.fixed_ips.map(ips),
        security_groups: changes.security_groups.map(|values| Texts { values }),
        port_security_enabled: changes.port_security_enabled,
        binding_host_id: changes.host_id,
        mac_address: changes.mac_address,
    };
    let it = state.networks.update_port(&ctx, request).await?;
    Ok(ok(&wrapped("port", render(it, &ctx))))
}

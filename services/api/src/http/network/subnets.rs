//! `/subnets`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    AllocationPool, AllocationPools, CreateSubnetsRequest, HostRoute, HostRoutes, IdRequest,
    NewSubnet, Subnet, Texts, UpdateSubnetRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{
    Number, created_document, double, nullable, one_or_many, owner, select, standard, wrapped,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    subnet: Option<NewBody>,
    subnets: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    start: String,
    end: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    destination: String,
    nexthop: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    network_id: String,
    ip_version: Option<Number>,
    cidr: Option<String>,
    name: Option<String>,
    description: Option<String>,
    #[serde(default, deserialize_with = "double")]
    gateway_ip: Option<Option<String>>,
    enable_dhcp: Option<bool>,
    dns_nameservers: Option<Vec<String>>,
    host_routes: Option<Vec<Route>>,
    allocation_pools: Option<Vec<Pool>>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    ipv6_address_mode: Option<String>,
    ipv6_ra_mode: Option<String>,
    subnetpool_id: Option<String>,
    use_default_subnetpool: Option<bool>,
    prefixlen: Option<Number>,
    segment_id: Option<String>,
    service_types: Option<Vec<String>>,
    dns_publish_fixed_ip: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    subnet: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    #[serde(default, deserialize_with = "double")]
    gateway_ip: Option<Option<String>>,
    enable_dhcp: Option<bool>,
    dns_nameservers: Option<Vec<String>>,
    host_routes: Option<Vec<Route>>,
    allocation_pools: Option<Vec<Pool>>,
}

fn read(body: NewBody) -> Result<NewSubnet, Fault> {
    let other_ways = body.subnetpool_id.is_some()
        || body.use_default_subnetpool == Some(true)
        || body.prefixlen.is_some()
        || body.segment_id.is_some()
        || body.ipv6_address_mode.is_some()
        || body.ipv6_ra_mode.is_some()
        || body.service_types.is_some_and(|types| !types.is_empty())
        || body.dns_publish_fixed_ip == Some(true);
    if other_ways {
        return Err(Fault::invalid(
            "Subnet pools, segments, service types and IPv6 modes are not offered here.",
        ));
    }
    Ok(NewSubnet {
        project_id: owner(body.project_id, body.tenant_id)?,
        network_id: body.network_id,
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        ip_version: body
            .ip_version
            .map_or(Ok(4), |version| version.read("ip_version"))?,
        cidr: body.cidr.unwrap_or_default(),
        gateway_ip: body.gateway_ip.map(Option::unwrap_or_default),
        enable_dhcp: body.enable_dhcp,
        dns_nameservers: body.dns_nameservers.unwrap_or_default(),
        host_routes: routes(body.host_routes.unwrap_or_default()),
        allocation_pools: pools(body.allocation_pools.unwrap_or_default()),
    })
}

fn routes(routes: Vec<Route>) -> Vec<HostRoute> {
    routes
        .into_iter()
        .map(|route| HostRoute {
            destination: route.destination,
            nexthop: route.nexthop,
        })
        .collect()
}

fn pools(pools: Vec<Pool>) -> Vec<AllocationPool> {
    pools
        .into_iter()
        .map(|pool| AllocationPool {
            start: pool.start,
            end: pool.end,
        })
        .collect()
}

fn render(it: Subnet, _ctx: &RequestContext) -> Value {
    let pools: Vec<Value> = it
        .allocation_pools
        .iter()
        .map(|pool| json!({"start": pool.start, "end": pool.end}))
        .collect();
    let routes: Vec<Value> = it
        .host_routes
        .iter()
        .map(|route| json!({"destination": route.destination, "nexthop": route.nexthop}))
        .collect();
    let mut document = json!({
        "id": it.id,
        "network_id": it.network_id,
        "name": it.name,
        "description": it.description,
        "ip_version": it.ip_version,
        "cidr": it.cidr,
        "gateway_ip": nullable(&it.gateway_ip),
        "enable_dhcp": it.enable_dhcp,
        "dns_nameservers": it.dns_nameservers,
        "host_routes": routes,
        "allocation_pools": pools,
        "ipv6_address_mode": null,
        "ipv6_ra_mode": null,
        "subnetpool_id": null,
        "service_types": [],
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

/// `GET /subnets`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/subnets", "subnets", |request| async {
            let reply = state.networks.list_subnets(&ctx, request).await?;
            Ok((
                reply
                    .subnets
                    .into_iter()
                    .map(|it| render(it, &ctx))
                    .collect(),
                reply.more,
            ))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /subnets/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state.networks.list_subnets(&ctx, by_id(&id)).await?.subnets;
    let it = shown(found, || not_found("SubnetNotFound", "Subnet", &id))?;
    Ok(ok(&wrapped(
        "subnet",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /subnets/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state.networks.delete_subnet(&ctx, IdRequest { id }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /subnets`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.subnet, body.subnets)?;
    let subnets = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let reply = state
        .networks
        .create_subnets(
            &ctx,
            CreateSubnetsRequest {
                subnets,
                idempotency_key: Some(key.or_own(&ctx).into()),
            },
        )
        .await?;
    let documents = reply
        .subnets
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "subnet", "subnets", documents, bulk,
    )?))
}

/// `PUT /subnets/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.subnet;
    let request = UpdateSubnetRequest {
        id,
        name: changes.name,
        description: changes.description,
        gateway_ip: changes.gateway_ip.map(Option::unwrap_or_default),
        enable_dhcp: changes.enable_dhcp,
        dns_nameservers: changes.dns_nameservers.map(|values| Texts { values }),
        host_routes: changes.host_routes.map(|list| HostRoutes {
            routes: routes(list),
        }),
        allocation_pools: changes
            .allocation_pools
            .map(|list| AllocationPools { pools: pools(list) }),
    };
    let it = state.networks.update_subnet(&ctx, request).await?;
    Ok(ok(&wrapped("subnet", render(it, &ctx))))
}

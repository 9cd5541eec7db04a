//! `/agents` and `/availability_zones`

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_contracts::network::{Agent, ListRequest};
use yakumo_http::{Auth, BaseUrl, HttpResult, Path, QueryPairs, ok};
use yakumo_types::Timestamp;

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{select, wrapped};

fn moment(micros: i64) -> String {
    // Agents' times are written as the database of the original has them.
    Timestamp::from_micros(micros)
        .iso_z()
        .replace('T', " ")
        .replace('Z', "")
}

fn render(it: Agent) -> Value {
    json!({
        "id": it.id,
        "agent_type": "Yakumo network agent",
        "binary": "yakumo",
        "topic": format!("host.{}", it.host),
        "host": it.host,
        "admin_state_up": true,
        "alive": it.alive,
        "availability_zone": it.availability_zone,
        "created_at": moment(it.created_at),
        "started_at": moment(it.started_at),
        "heartbeat_timestamp": moment(it.heartbeat_timestamp),
        "description": "",
        "resources_synced": it.applied_revision >= it.revision,
        "configurations": {
            "driver": it.driver,
            "networks": it.networks,
            "ports": it.ports,
            "revision": it.revision,
            "applied_revision": it.applied_revision,
        },
    })
}

/// `GET /agents`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(&base, "/v2.0/agents", "agents", |request| async {
            let reply = state.networks.list_agents(&ctx, request).await?;
            Ok((reply.agents.into_iter().map(render).collect(), reply.more))
        })
        .await?;
    Ok(ok(&document))
}

/// `GET /agents/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state.networks.list_agents(&ctx, by_id(&id)).await?.agents;
    let it = shown(found, || not_found("AgentNotFound", "Agent", &id))?;
    Ok(ok(&wrapped("agent", select(render(it), &fields(&query)))))
}

/// `GET /availability_zones`: those of the agents, for networks and routers.
pub async fn availability_zones(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
) -> HttpResult<Response> {
    ctx.require(yakumo_types::Role::Reader)?;
    let internal = yakumo_types::RequestContext::internal(ctx.request_id);
    let agents = state
        .networks
        .list_agents(&internal, ListRequest::default())
        .await?
        .agents;
    let zones: BTreeSet<String> = agents
        .into_iter()
        .map(|agent| agent.availability_zone)
        .collect();
    let zones: Vec<Value> = zones
        .into_iter()
        .flat_map(|zone| {
            ["network", "router"]
                .map(|resource| json!({"name": zone.clone(), "resource": resource, "state": "available"}))
        })
        .collect();
    Ok(ok(&json!({"availability_zones": zones})))
}

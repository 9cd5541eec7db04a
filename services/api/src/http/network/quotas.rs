//! `/quotas`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use yakumo_contracts::common::Empty;
use yakumo_contracts::network::{Quota, Quotas, QuotasRequest, SetQuotasRequest};
use yakumo_http::{Auth, HttpResult, Path, StrictJson, empty, ok};
use yakumo_types::Fault;

use super::NetworkState;
use super::shape::{Number, project};

/// Limits that clients know and set along with the others; nothing here has them.
const NOT_HERE: &[&str] = &[
    "subnetpool",
    "rbac_policy",
    "trunk",
    "network_gateway",
    "vip",
    "pool",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    quota: BTreeMap<String, Value>,
}

fn document(quotas: &[Quota], value: fn(&Quota) -> Value) -> Map<String, Value> {
    quotas
        .iter()
        .map(|quota| (quota.resource.clone(), value(quota)))
        .collect()
}

fn limits(quotas: &Quotas) -> Value {
    Value::Object(document(&quotas.quotas, |quota| quota.limit.into()))
}

/// `GET /quotas`: projects with limits of their own.
pub async fn list(State(state): State<NetworkState>, Auth(ctx): Auth) -> HttpResult<Response> {
    let projects = state.networks.list_quotas(&ctx, Empty {}).await?.projects;
    let quotas: Vec<Value> = projects
        .iter()
        .map(|quotas| {
            let mut map = document(&quotas.quotas, |quota| quota.limit.into());
            map.insert("project_id".into(), project(&quotas.project_id));
            map.insert("tenant_id".into(), project(&quotas.project_id));
            Value::Object(map)
        })
        .collect();
    Ok(ok(&json!({"quotas": quotas})))
}

async fn get(
    state: &NetworkState,
    ctx: &yakumo_types::RequestContext,
    project_id: String,
) -> Result<Quotas, Fault> {
    state
        .networks
        .get_quotas(ctx, QuotasRequest { project_id })
        .await
}

/// `GET /quotas/{project}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    Ok(ok(&json!({"quota": limits(&get(&state, &ctx, id).await?)})))
}

/// `GET /quotas/{project}/default`
pub async fn defaults(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let quotas = get(&state, &ctx, id).await?;
    let map = document(&quotas.quotas, |quota| quota.default_limit.into());
    Ok(ok(&json!({"quota": map})))
}

/// `GET /quotas/{project}/details.json`
pub async fn details(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let quotas = get(&state, &ctx, id).await?;
    let map = document(
        &quotas.quotas,
        |quota| json!({"limit": quota.limit, "used": quota.used, "reserved": 0}),
    );
    Ok(ok(&json!({"quota": map})))
}

/// `PUT /quotas/{project}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let mut quotas = Vec::new();
    let mut check = false;
    for (resource, value) in body.quota {
        match (resource.as_str(), &value) {
            ("check_limit", Value::Bool(wanted)) => {
                check = *wanted;
                continue;
            }
            ("check_limit" | "force", _) => continue,
            _ => {}
        }
        if matches!(resource.as_str(), "tenant_id" | "project_id")
            || NOT_HERE.contains(&resource.as_str())
        {
            continue;
        }
        let number: Number = serde_json::from_value(value)
            .map_err(|_| Fault::invalid(format!("The limit of {resource:?} must be a number.")))?;
        quotas.push(Quota {
            limit: number.read(&resource)?,
            resource,
            ..Quota::default()
        });
    }
    if check {
        let present = get(&state, &ctx, id.clone()).await?.quotas;
        let below = quotas.iter().find(|quota| {
            present.iter().any(|there| {
                there.resource == quota.resource
                    && u64::try_from(quota.limit).is_ok_and(|limit| limit < there.used)
            })
        });
        if let Some(quota) = below {
            return Err(Fault::conflict(format!(
                "The limit of {} is below what is in use.",
                quota.resource
            ))
            .with_type("QuotaLimitBelowUsage")
            .into());
        }
    }
    let request = SetQuotasRequest {
        project_id: id,
        quotas,
        reset: false,
    };
    let quotas = state.networks.set_quotas(&ctx, request).await?;
    Ok(ok(&json!({"quota": limits(&quotas)})))
}

/// `DELETE /quotas/{project}`: back to the defaults.
pub async fn reset(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let request = SetQuotasRequest {
        project_id: id,
        quotas: Vec::new(),
        reset: true,
    };
    state.networks.set_quotas(&ctx, request).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

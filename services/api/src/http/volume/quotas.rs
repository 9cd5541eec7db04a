//! `/os-quota-sets/{project}`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use yakumo_contracts::volume::{Quota, QuotaRequest, SetQuotaRequest};
use yakumo_http::{HttpResult, Path, QueryPairs, StrictJson, empty, ok};
use yakumo_types::Fault;

use super::{Caller, VolumeState};

/// The body of an update.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    quota_set: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    volumes: Option<i64>,
    gigabytes: Option<i64>,
    #[serde(rename = "tenant_id")]
    _tenant_id: Option<String>,
    #[serde(rename = "force")]
    _force: Option<bool>,
}

fn render(quota: &Quota, usage: bool) -> Value {
    let item = |limit: i64, used: u64| {
        if usage {
            json!({ "limit": limit, "in_use": used, "reserved": 0 })
        } else {
            json!(limit)
        }
    };
    json!({ "quota_set": {
        "id": quota.project_id,
        "volumes": item(quota.volumes, quota.volumes_used),
        "gigabytes": item(quota.gigabytes, quota.gigabytes_used),
        "snapshots": item(0, 0),
        "backups": item(0, 0),
        "backup_gigabytes": item(0, 0),
        "groups": item(0, 0),
        "per_volume_gigabytes": item(-1, 0),
    } })
}

fn target(path: &HashMap<String, String>) -> String {
    path.get("target").cloned().unwrap_or_default()
}

/// `GET /os-quota-sets/{project}[?usage=true]`
pub async fn show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let usage = query.flag("usage")?.unwrap_or(false);
    let quota = state
        .volumes
        .get_quota(
            &ctx,
            QuotaRequest {
                project_id: target(&path),
            },
        )
        .await?;
    Ok(ok(&render(&quota, usage)))
}

/// `GET /os-quota-sets/{project}/defaults`
pub async fn defaults(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let mut quota = state
        .volumes
        .get_quota(
            &ctx,
            QuotaRequest {
                project_id: target(&path),
            },
        )
        .await?;
    quota.volumes = quota.volumes_default;
    quota.gigabytes = quota.gigabytes_default;
    Ok(ok(&render(&quota, false)))
}

/// `PUT /os-quota-sets/{project}`, for administrators.
pub async fn update(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<Body>,
) -> HttpResult<Response> {
    let Limits {
        volumes, gigabytes, ..
    } = body.quota_set;
    if volumes.is_none() && gigabytes.is_none() {
        return Err(Fault::invalid("Nothing to set: volumes or gigabytes must be given.").into());
    }
    let request = SetQuotaRequest {
        project_id: target(&path),
        volumes,
        gigabytes,
        reset: false,
    };
    let quota = state.volumes.set_quota(&ctx, request).await?;
    Ok(ok(&render(&quota, false)))
}

/// `DELETE /os-quota-sets/{project}`: back to the defaults.
pub async fn delete(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let request = SetQuotaRequest {
        project_id: target(&path),
        reset: true,
        ..SetQuotaRequest::default()
    };
    state.volumes.set_quota(&ctx, request).await?;
    Ok(empty(StatusCode::OK))
}

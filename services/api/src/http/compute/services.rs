//! `/os-services`, for administrators: the agents on compute hosts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{HttpResult, Path, QueryPairs, StrictJson, empty, ok};
use yakumo_types::{Fault, Timestamp};

use super::Caller;
use crate::app::App;
use crate::store::hosts::Host;

/// The name by which clients know the agent on a compute host.
const BINARY: &str = "nova-compute";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceBody {
    host: String,
    binary: String,
    disabled_reason: Option<String>,
}

fn document(app: &App, row: &Host, now: Timestamp) -> Value {
    json!({
        "id": row.number,
        "binary": BINARY,
        "host": row.name,
        "zone": row.availability_zone,
        "status": if row.enabled { "enabled" } else { "disabled" },
        "state": if app.heard_lately(row.heard_at, now) { "up" } else { "down" },
        "updated_at": Timestamp::from_micros(row.heard_at).iso_micros(),
        "disabled_reason": row.disabled_reason,
    })
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> HttpResult<Response> {
    let (rows, now) = app.host_list(&ctx, None, 20_000).await?;
    let host = query.filled("host");
    let fits = query.filled("binary").is_none_or(|binary| binary == BINARY);
    let all: Vec<_> = rows
        .iter()
        .filter(|row| fits && host.is_none_or(|host| row.name == host))
        .map(|row| document(&app, row, now))
        .collect();
    Ok(ok(&json!({ "services": all })))
}

#[derive(Deserialize)]
pub(super) struct IdPath {
    id: String,
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<IdPath>,
) -> HttpResult<Response> {
    app.host_forget(&ctx, &path.id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn check(body: &ServiceBody) -> Result<(), Fault> {
    if body.binary == BINARY {
        return Ok(());
    }
    Err(Fault::not_found(format!(
        "Service {:.64} on host {:.255} could not be found.",
        body.binary, body.host
    )))
}

pub(super) async fn enable(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    StrictJson(body): StrictJson<ServiceBody>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    check(&body)?;
    app.host_enable(&ctx, &body.host, true, None).await?;
    Ok(ok(&json!({ "service": {
        "host": body.host, "binary": BINARY, "status": "enabled",
    }})))
}

pub(super) async fn disable(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    StrictJson(body): StrictJson<ServiceBody>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    check(&body)?;
    app.host_enable(&ctx, &body.host, false, None).await?;
    Ok(ok(&json!({ "service": {
        "host": body.host, "binary": BINARY, "status": "disabled",
    }})))
}

pub(super) async fn disable_log_reason(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    StrictJson(body): StrictJson<ServiceBody>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    check(&body)?;
    let Some(reason) = body.disabled_reason.as_deref() else {
        return Err(Fault::invalid("Missing disabled reason field").into());
    };
    app.host_enable(&ctx, &body.host, false, Some(reason))
        .await?;
    Ok(ok(&json!({ "service": {
        "host": body.host, "binary": BINARY, "status": "disabled",
        "disabled_reason": reason,
    }})))
}

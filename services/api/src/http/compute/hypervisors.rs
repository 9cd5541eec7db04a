//! `/os-hypervisors`, for administrators.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{HttpResult, Path, ok};
use yakumo_types::{RequestContext, Timestamp};

use super::Caller;
use crate::app::App;
use crate::store::hosts::Host;

#[derive(Deserialize)]
pub(super) struct IdPath {
    id: String,
}

fn short(app: &App, row: &Host, now: Timestamp) -> Value {
    json!({
        "id": row.number,
        "hypervisor_hostname": row.name,
        "state": if app.heard_lately(row.heard_at, now) { "up" } else { "down" },
        "status": if row.enabled { "enabled" } else { "disabled" },
    })
}

fn detail(app: &App, row: &Host, now: Timestamp) -> Value {
    let mut document = short(app, row, now);
    let more = json!({
        "host_ip": row.host_ip,
        "hypervisor_type": row.hypervisor_type,
        "hypervisor_version": row.hypervisor_version,
        "cpu_info": row.cpu_info,
        "vcpus": row.vcpus,
        "vcpus_used": row.claimed_vcpus,
        "memory_mb": row.memory_mib,
        "memory_mb_used": row.claimed_memory_mib,
        "free_ram_mb": row.memory_mib - row.claimed_memory_mib,
        "local_gb": row.disk_gib,
        "local_gb_used": row.claimed_disk_gib,
        "free_disk_gb": row.disk_gib - row.claimed_disk_gib,
        "disk_available_least": row.disk_gib - row.claimed_disk_gib,
        "running_vms": row.servers,
        "current_workload": 0,
        "service": {
            "id": row.number,
            "host": row.name,
            "disabled_reason": row.disabled_reason,
        },
    });
    if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
        document.extend(more);
    }
    document
}

async fn everything(app: &App, ctx: &RequestContext) -> HttpResult<(Vec<Host>, Timestamp)> {
    // Version 2.1 knows no pages; the bound is far above what it is used for.
    Ok(app.host_list(ctx, None, 20_000).await?)
}

pub(super) async fn list(State(app): State<Arc<App>>, Caller(ctx): Caller) -> HttpResult<Response> {
    let (rows, now) = everything(&app, &ctx).await?;
    let all: Vec<_> = rows.iter().map(|row| short(&app, row, now)).collect();
    Ok(ok(&json!({ "hypervisors": all })))
}

pub(super) async fn list_detail(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    let (rows, now) = everything(&app, &ctx).await?;
    let all: Vec<_> = rows.iter().map(|row| detail(&app, row, now)).collect();
    Ok(ok(&json!({ "hypervisors": all })))
}

pub(super) async fn statistics(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    let (rows, _) = everything(&app, &ctx).await?;
    let sum = |of: fn(&Host) -> i64| rows.iter().map(of).sum::<i64>();
    Ok(ok(&json!({ "hypervisor_statistics": {
        "count": rows.len(),
        "vcpus": sum(|row| row.vcpus),
        "vcpus_used": sum(|row| row.claimed_vcpus),
        "memory_mb": sum(|row| row.memory_mib),
        "memory_mb_used": sum(|row| row.claimed_memory_mib),
        "free_ram_mb": sum(|row| row.memory_mib - row.claimed_memory_mib),
        "local_gb": sum(|row| row.disk_gib),
        "local_gb_used": sum(|row| row.claimed_disk_gib),
        "free_disk_gb": sum(|row| row.disk_gib - row.claimed_disk_gib),
        "disk_available_least": sum(|row| row.disk_gib - row.claimed_disk_gib),
        "running_vms": sum(|row| row.servers),
        "current_workload": 0,
    }})))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<IdPath>,
) -> HttpResult<Response> {
    let (row, now) = app.host_show(&ctx, &path.id).await?;
    Ok(ok(&json!({ "hypervisor": detail(&app, &row, now) })))
}

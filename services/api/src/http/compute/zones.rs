//! `/os-availability-zone`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};
use yakumo_http::{HttpResult, ok};
use yakumo_types::Timestamp;

use super::Caller;
use crate::app::App;

pub(super) async fn list(State(app): State<Arc<App>>, Caller(ctx): Caller) -> HttpResult<Response> {
    let zones: Vec<_> = app
        .zone_list(&ctx)
        .await?
        .into_iter()
        .map(|zone| {
            json!({
                "zoneName": zone.name,
                "zoneState": { "available": zone.available },
                "hosts": null,
            })
        })
        .collect();
    Ok(ok(&json!({ "availabilityZoneInfo": zones })))
}

pub(super) async fn list_detail(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    let zones: Vec<_> = app
        .zone_list(&ctx)
        .await?
        .into_iter()
        .map(|zone| {
            let hosts: Map<String, Value> = zone
                .hosts
                .iter()
                .map(|host| {
                    let updated = Timestamp::from_micros(host.heard_at).iso_micros();
                    let service = json!({ "nova-compute": {
                        "active": host.enabled,
                        "available": host.up,
                        "updated_at": updated,
                    }});
                    (host.name.clone(), service)
                })
                .collect();
            json!({
                "zoneName": zone.name,
                "zoneState": { "available": zone.available },
                "hosts": hosts,
            })
        })
        .collect();
    Ok(ok(&json!({ "availabilityZoneInfo": zones })))
}

//! `/types`

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use yakumo_contracts::common::Empty;
use yakumo_contracts::volume::VolumeType;
use yakumo_http::{HttpResult, Path, ok};
use yakumo_types::Fault;

use super::{Caller, VolumeState};

fn render(it: &VolumeType) -> Value {
    json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "is_public": it.is_public,
        "os-volume-type-access:is_public": it.is_public,
        "qos_specs_id": null,
        "extra_specs": it.extra_specs,
    })
}

/// `GET /types`
pub async fn list(State(state): State<VolumeState>, Caller(ctx): Caller) -> HttpResult<Response> {
    let reply = state.volumes.list_volume_types(&ctx, Empty {}).await?;
    Ok(ok(
        &json!({ "volume_types": reply.types.iter().map(render).collect::<Vec<_>>() }),
    ))
}

/// `GET /types/{id}`; `default` and names are taken too.
pub async fn show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let wanted = path.get("id").map_or("", String::as_str);
    let reply = state.volumes.list_volume_types(&ctx, Empty {}).await?;
    let found = reply
        .types
        .iter()
        .find(|it| wanted == "default" || it.id == wanted || it.name == wanted);
    let found = found
        .ok_or_else(|| Fault::not_found(format!("Volume type {wanted} could not be found.")))?;
    Ok(ok(&json!({ "volume_type": render(found) })))
}

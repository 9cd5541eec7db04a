//! `PUT /v1/{account}/{container}`

use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{HttpResult, empty};
use yakumo_types::Fault;

use super::changes;
use crate::http::{Call, text};

/// 201 for a new container, 202 for one that is there.
pub async fn handle(call: Call, name: &str) -> HttpResult<Response> {
    if let Some(policy) = text(&call.headers, "x-storage-policy")
        && !policy.eq_ignore_ascii_case("default")
    {
        return Err(Fault::invalid(format!("Invalid X-Storage-Policy '{policy}'")).into());
    }
    let changes = changes(&call.headers)?;
    let is_new = call
        .store
        .put_container(&call.caller, name, changes)
        .await?;
    Ok(empty(match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::ACCEPTED,
    }))
}

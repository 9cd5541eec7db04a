//! `POST /v1/{account}/{container}`

use axum::response::Response;
use yakumo_http::HttpResult;

use super::changes;
use crate::http::{Call, no_content};

/// 204.
pub async fn handle(call: Call, name: &str) -> HttpResult<Response> {
    let changes = changes(&call.headers)?;
    call.store
        .update_container(&call.caller, name, changes)
        .await?;
    Ok(no_content())
}

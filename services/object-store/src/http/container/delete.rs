//! `DELETE /v1/{account}/{container}`

use axum::response::Response;
use yakumo_http::HttpResult;

use crate::http::{Call, no_content};

/// 204; 409 while there are objects in it.
pub async fn handle(call: Call, name: &str) -> HttpResult<Response> {
    call.store.delete_container(&call.caller, name).await?;
    Ok(no_content())
}

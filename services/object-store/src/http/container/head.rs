//! `HEAD /v1/{account}/{container}`

use axum::response::Response;
use yakumo_http::HttpResult;

use super::describe;
use crate::http::{Call, no_content};

/// 204.
pub async fn handle(call: Call, name: &str) -> HttpResult<Response> {
    let container = call.store.show_container(&call.caller, name).await?;
    let mut response = no_content();
    describe(&mut response, &container, &call.caller);
    Ok(response)
}

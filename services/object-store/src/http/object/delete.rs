//! `DELETE /v1/{account}/{container}/{object}`

use axum::response::Response;
use yakumo_http::HttpResult;

use crate::http::headers::conditions;
use crate::http::{Call, no_content};

/// 204.
pub async fn handle(call: Call, container: &str, name: &str) -> HttpResult<Response> {
    let conditions = conditions(&call.headers);
    call.store
        .delete_object(&call.caller, container, name, conditions)
        .await?;
    Ok(no_content())
}

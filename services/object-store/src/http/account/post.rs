//! `POST /v1/{account}`

use axum::response::Response;
use yakumo_http::HttpResult;

use crate::http::headers::metadata;
use crate::http::{Call, no_content};

/// 204.
pub async fn handle(call: Call) -> HttpResult<Response> {
    let changes = metadata(&call.headers, "account")?;
    call.store.update_account(&call.caller, changes).await?;
    Ok(no_content())
}

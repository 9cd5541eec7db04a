//! `POST /v1/{account}/{container}/{object}`

use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{HttpResult, empty};

use crate::http::Call;
use crate::http::headers::put_headers;

/// 202. Metadata that the request does not name is gone.
pub async fn handle(call: Call, container: &str, name: &str) -> HttpResult<Response> {
    let headers = put_headers(&call.headers, call.store.now())?;
    call.store
        .update_object(&call.caller, container, name, headers)
        .await?;
    Ok(empty(StatusCode::ACCEPTED))
}

//! `/v2/metadefs/…`: Yakumo has no metadata definitions; an empty list of
//! namespaces says so in the API's own words.

use axum::response::Response;
use serde_json::json;
use yakumo_http::{Auth, HttpResult, ok};

/// `GET /v2/metadefs/namespaces`
pub async fn namespaces(Auth(_): Auth) -> HttpResult<Response> {
    Ok(ok(&json!({
        "namespaces": [],
        "first": "/v2/metadefs/namespaces",
        "schema": "/v2/schemas/metadefs/namespaces",
    })))
}

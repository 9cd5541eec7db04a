//! Version documents; they need no token.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{BaseUrl, json_response, ok};

use super::RANGE;

fn version(base: &BaseUrl) -> Value {
    json!({
        "id": "v3.0",
        "status": "CURRENT",
        "version": RANGE.max.to_string(),
        "min_version": RANGE.min.to_string(),
        "updated": "2026-11-01T00:00:00Z",
        "links": [{ "rel": "self", "href": base.join("/v3/") }],
        "media-types": [{ "base": "application/json", "type": "application/vnd.openstack.volume+json;version=3" }],
    })
}

/// `GET /`: 300 with every version.
pub async fn all(base: BaseUrl) -> Response {
    json_response(
        StatusCode::MULTIPLE_CHOICES,
        &json!({ "versions": [version(&base)] }),
    )
}

/// `GET /v3`.
pub async fn v3(base: BaseUrl) -> Response {
    ok(&json!({ "versions": [version(&base)] }))
}

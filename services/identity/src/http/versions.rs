//! `GET /` and `GET /v3`: which versions there are; no token needed.

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use yakumo_http::{BaseUrl, json_response, ok};

use crate::app::App;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/", get(list)).route("/v3", get(show))
}

fn version(base: &BaseUrl) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": base.join("/v3/")}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

async fn list(base: BaseUrl) -> Response {
    let document = json!({"versions": {"values": [version(&base)]}});
    let mut response = json_response(StatusCode::MULTIPLE_CHOICES, &document);
    if let Ok(location) = HeaderValue::from_str(&base.join("/v3/")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn show(base: BaseUrl) -> Response {
    ok(&json!({"version": version(&base)}))
}

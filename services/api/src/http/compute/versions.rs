//! The version documents; no token is asked for.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{BaseUrl, json_response, ok};

fn version(base: &BaseUrl, id: &str, path: &str, status: &str, number: &str) -> Value {
    json!({
        "id": id,
        "status": status,
        "version": number,
        "min_version": number,
        "updated": "2013-07-23T11:33:21Z",
        "links": [{ "rel": "self", "href": base.join(path) }],
    })
}

pub(super) async fn all(base: BaseUrl) -> Response {
    json_response(
        StatusCode::OK,
        &json!({ "versions": [
            version(&base, "v2.0", "/v2/", "SUPPORTED", ""),
            version(&base, "v2.1", "/v2.1/", "CURRENT", "2.1"),
        ]}),
    )
}

fn one(mut document: Value) -> Response {
    if let Some(object) = document.as_object_mut() {
        object.insert(
            "media-types".into(),
            json!([{
                "base": "application/json",
                "type": "application/vnd.openstack.compute+json;version=2.1",
            }]),
        );
    }
    ok(&json!({ "version": document }))
}

pub(super) async fn v21(base: BaseUrl) -> Response {
    one(version(&base, "v2.1", "/v2.1/", "CURRENT", "2.1"))
}

pub(super) async fn v2(base: BaseUrl) -> Response {
    one(version(&base, "v2.0", "/v2/", "SUPPORTED", ""))
}

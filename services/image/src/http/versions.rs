//! The versions document. Clients read it before they log in, so it asks for
//! no token.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{BaseUrl, json_response, ok};

const MINORS: [&str; 9] = [
    "2.9", "2.8", "2.7", "2.6", "2.5", "2.4", "2.3", "2.2", "2.1",
];

/// `GET /`: 300.
pub async fn root(base: BaseUrl) -> Response {
    json_response(StatusCode::MULTIPLE_CHOICES, &document(&base))
}

/// `GET /versions`: 200.
pub async fn list(base: BaseUrl) -> Response {
    ok(&document(&base))
}

fn document(base: &BaseUrl) -> Value {
    let href = base.join("/v2/");
    let versions: Vec<Value> = MINORS
        .iter()
        .chain(&["2.0"])
        .enumerate()
        .map(|(index, minor)| {
            json!({
                "id": format!("v{minor}"),
                "status": if index == 0 { "CURRENT" } else { "SUPPORTED" },
                "links": [{"rel": "self", "href": href}],
            })
        })
        .collect();
    json!({ "versions": versions })
}

//! The version documents. They need no token.

use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{BaseUrl, HttpResult, ok};

/// `GET /`
pub async fn all(base: BaseUrl) -> HttpResult<Response> {
    Ok(ok(&json!({"versions": [{
        "id": "v2.0",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": base.join("/v2.0/")}],
    }]})))
}

/// `GET /v2.0`: the collections.
pub async fn v2(base: BaseUrl) -> HttpResult<Response> {
    let names = [
        ("network", "networks"),
        ("subnet", "subnets"),
        ("port", "ports"),
        ("security_group", "security-groups"),
        ("security_group_rule", "security-group-rules"),
        ("floatingip", "floatingips"),
        ("router", "routers"),
        ("agent", "agents"),
        ("availability_zone", "availability_zones"),
        ("extension", "extensions"),
        ("quota", "quotas"),
    ];
    let resources: Vec<Value> = names
        .iter()
        .map(|(name, path)| {
            json!({
                "name": name,
                "collection": path.replace('-', "_"),
                "links": [{"rel": "self", "href": base.join(&format!("/v2.0/{path}"))}],
            })
        })
        .collect();
    Ok(ok(&json!({ "resources": resources })))
}

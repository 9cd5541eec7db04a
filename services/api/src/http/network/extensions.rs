//! `/extensions`: only what is offered. Clients decide by this list what they
//! may ask for.

use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{Auth, HttpResult, Path, ok};
use yakumo_types::Fault;

/// Alias, name, and what it is.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("agent", "agent", "Agents and whether they are alive."),
    (
        "availability_zone",
        "Availability Zone",
        "The zones of agents.",
    ),
    (
        "binding",
        "Port Binding",
        "The host of a port, for administrators.",
    ),
    (
        "external-net",
        "External Networks",
        "Networks that floating IPs come from.",
    ),
    (
        "fip-port-details",
        "Floating IP Port Details",
        "A floating IP tells of its port.",
    ),
    ("net-mtu", "Network MTU", "Networks show their MTU."),
    (
        "net-mtu-writable",
        "Network MTU (Writable)",
        "The MTU of a network can be set.",
    ),
    ("pagination", "Pagination", "Listings come in pages."),
    (
        "port-security",
        "Port Security",
        "Enforcement can be turned off for a port.",
    ),
    (
        "port-security-groups-filtering",
        "Port Filtering On Security Groups",
        "Ports by their groups.",
    ),
    (
        "project-id",
        "project_id Attribute",
        "The owner's newer name.",
    ),
    (
        "provider",
        "Provider Network",
        "Type and physical network, for administrators.",
    ),
    ("quotas", "Quota Management", "Limits of projects."),
    (
        "quota_details",
        "Quota Details",
        "Limits with what is used of them.",
    ),
    ("router", "Router", "Routers and floating IPs."),
    (
        "security-group",
        "Security Groups",
        "What may reach a port, and what may leave it.",
    ),
    ("sorting", "Sorting", "Listings in a wished order."),
    (
        "standard-attr-description",
        "Description",
        "Resources can be described.",
    ),
    (
        "standard-attr-revisions",
        "Revisions",
        "Resources count their changes.",
    ),
    (
        "standard-attr-timestamp",
        "Timestamps",
        "Resources tell when they were made and changed.",
    ),
];

fn document((alias, name, description): &(&str, &str, &str)) -> Value {
    json!({
        "alias": alias,
        "name": name,
        "description": description,
        "updated": "2026-11-21T00:00:00-00:00",
        "links": [],
    })
}

/// `GET /extensions`
pub async fn list(_: Auth) -> HttpResult<Response> {
    let extensions: Vec<Value> = EXTENSIONS.iter().map(document).collect();
    Ok(ok(&json!({"extensions": extensions})))
}

/// `GET /extensions/{alias}`
pub async fn show(_: Auth, Path(alias): Path<String>) -> HttpResult<Response> {
    let found = EXTENSIONS.iter().find(|(known, ..)| *known == alias);
    let extension = found.ok_or_else(|| {
        let alias: String = alias.chars().take(64).collect();
        Fault::not_found(format!("Extension with alias {alias} does not exist"))
            .with_type("HTTPNotFound")
    })?;
    Ok(ok(&json!({"extension": document(extension)})))
}

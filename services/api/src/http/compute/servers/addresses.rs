//! `GET /servers/{server}/ips` and `os-interface`, from what the network
//! service projected into the server's row.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yakumo_http::{HttpResult, Path, ok};
use yakumo_types::Fault;

use super::super::Caller;
use super::ServerPath;
use crate::app::App;
use crate::store::servers::Server;

#[derive(Deserialize)]
pub(super) struct LabelPath {
    server: String,
    label: String,
}

/// Address and version alone.
fn addresses(row: &Server) -> Map<String, Value> {
    let all: Map<String, Value> = serde_json::from_str(&row.addresses).unwrap_or_default();
    all.into_iter()
        .map(|(label, list)| {
            let short: Vec<_> = list
                .as_array()
                .into_iter()
                .flatten()
                .map(|address| {
                    json!({ "addr": address.get("addr"), "version": address.get("version") })
                })
                .collect();
            (label, json!(short))
        })
        .collect()
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.id()?).await?;
    Ok(ok(&json!({ "addresses": addresses(&row) })))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<LabelPath>,
) -> HttpResult<Response> {
    let server = ServerPath {
        server: path.server,
    };
    let row = app.server_of(&ctx, server.id()?).await?;
    match addresses(&row).remove(&path.label) {
        Some(list) => Ok(ok(&json!({ &path.label: list }))),
        None => Err(Fault::not_found("Network name not found").into()),
    }
}

pub(super) async fn interfaces(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.id()?).await?;
    let ports = app.server_ports_of(&ctx, &row).await?;
    let all: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let fixed: Vec<_> = port
                .fixed_ips
                .iter()
                .map(|ip| json!({ "subnet_id": ip.subnet_id, "ip_address": ip.ip_address }))
                .collect();
            json!({
                "port_state": port.status,
                "fixed_ips": fixed,
                "mac_addr": port.mac_address,
                "net_id": port.network_id,
                "port_id": port.id,
            })
        })
        .collect();
    Ok(ok(&json!({ "interfaceAttachments": all })))
}

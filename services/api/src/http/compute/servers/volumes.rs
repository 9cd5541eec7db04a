//! `/servers/{server}/os-volume_attachments`

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{HttpResult, KeyedJson, Path, empty, ok};
use yakumo_types::{Fault, RequestContext, VolumeId};

use super::super::Caller;
use super::ServerPath;
use crate::app::App;
use crate::store::volumes::ServerVolume;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/servers/{server}/os-volume_attachments",
            get(list).post(attach),
        )
        .route(
            "/servers/{server}/os-volume_attachments/{volume}",
            get(show).delete(detach),
        )
}

#[derive(Deserialize)]
pub(super) struct VolumePath {
    server: String,
    volume: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "volumeAttachment")]
    attachment: Attach,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    #[serde(rename = "volumeId")]
    volume_id: VolumeId,
    device: Option<String>,
}

/// An attachment; at this version its id is the volume's.
fn document(row: &ServerVolume) -> Value {
    json!({
        "id": row.volume_id,
        "volumeId": row.volume_id,
        "serverId": row.server_id,
        "device": row.device,
    })
}

async fn volumes(
    app: &App,
    ctx: &RequestContext,
    path: &ServerPath,
) -> Result<Vec<ServerVolume>, Fault> {
    let server = app.server_of(ctx, path.id()?).await?.id;
    let mut all = app.volumes_of(vec![server.clone()]).await?;
    Ok(all.remove(&server).unwrap_or_default())
}

async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let rows = volumes(&app, &ctx, &path).await?;
    let all: Vec<_> = rows.iter().map(document).collect();
    Ok(ok(&json!({ "volumeAttachments": all })))
}

async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<VolumePath>,
) -> HttpResult<Response> {
    let server = ServerPath {
        server: path.server,
    };
    let wanted: Option<VolumeId> = path.volume.parse().ok();
    let rows = volumes(&app, &ctx, &server).await?;
    let found = rows
        .iter()
        .find(|row| wanted.is_some() && row.volume_id.parse().ok() == wanted);
    match found {
        Some(row) => Ok(ok(&json!({ "volumeAttachment": document(row) }))),
        None => Err(Fault::not_found(format!("volume_id not found: {:.64}", path.volume)).into()),
    }
}

/// 200 with the attachment, which is being made.
async fn attach(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
    KeyedJson(body, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let Attach { volume_id, device } = body.attachment;
    let device = device.as_deref().filter(|it| !matches!(*it, "" | "auto"));
    let row = app
        .volume_attach(&ctx, path.id()?, volume_id, device, key.get())
        .await?;
    Ok(ok(&json!({ "volumeAttachment": document(&row) })))
}

/// 202; the volume comes back once the guest has let go of it.
async fn detach(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<VolumePath>,
) -> HttpResult<Response> {
    let server = ServerPath {
        server: path.server,
    }
    .id()?;
    let volume: VolumeId = path.volume.parse().map_err(|_| {
        Fault::not_found(format!("Instance {server} is not attached to that volume."))
    })?;
    app.volume_detach(&ctx, server, volume).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

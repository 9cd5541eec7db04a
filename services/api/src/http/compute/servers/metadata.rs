//! `/servers/{server}/metadata`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use yakumo_http::{HttpResult, Path, StrictJson, empty, ok};
use yakumo_types::{Fault, RequestContext};

use super::super::Caller;
use super::ServerPath;
use crate::app::App;
use crate::app::servers::MetadataChange;
use crate::app::texts;

#[derive(Deserialize)]
pub(super) struct ItemPath {
    server: String,
    key: String,
}

impl ItemPath {
    fn server(&self) -> ServerPath {
        ServerPath {
            server: self.server.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Items {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    meta: BTreeMap<String, String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.id()?).await?;
    Ok(ok(&json!({ "metadata": texts(&row.metadata) })))
}

async fn set(
    app: &App,
    ctx: &RequestContext,
    path: &ServerPath,
    items: BTreeMap<String, String>,
    how: MetadataChange,
) -> Result<Response, Fault> {
    let all = app.server_metadata_set(ctx, path.id()?, items, how).await?;
    Ok(ok(&json!({ "metadata": all })))
}

pub(super) async fn merge(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
    StrictJson(body): StrictJson<Items>,
) -> HttpResult<Response> {
    Ok(set(&app, &ctx, &path, body.metadata, MetadataChange::Merge).await?)
}

pub(super) async fn replace(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
    StrictJson(body): StrictJson<Items>,
) -> HttpResult<Response> {
    Ok(set(&app, &ctx, &path, body.metadata, MetadataChange::Replace).await?)
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ItemPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.server().id()?).await?;
    match texts(&row.metadata).remove(&path.key) {
        Some(value) => Ok(ok(&json!({ "meta": { &path.key: value } }))),
        None => Err(Fault::not_found("Metadata item was not found").into()),
    }
}

pub(super) async fn put(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ItemPath>,
    StrictJson(body): StrictJson<Item>,
) -> HttpResult<Response> {
    let value = match (body.meta.len(), body.meta.get(&path.key)) {
        (1, Some(value)) => value.clone(),
        _ => return Err(Fault::invalid("The body must hold the key of the path.").into()),
    };
    let items = [(path.key.clone(), value.clone())].into();
    app.server_metadata_set(&ctx, path.server().id()?, items, MetadataChange::Merge)
        .await?;
    Ok(ok(&json!({ "meta": { &path.key: value } })))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ItemPath>,
) -> HttpResult<Response> {
    app.server_metadata_delete(&ctx, path.server().id()?, &path.key)
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

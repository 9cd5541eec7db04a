//! `GET /servers/{server}`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{BaseUrl, HttpResult, Path};
use yakumo_types::{Fault, RequestContext};

use super::super::Caller;
use super::super::write::Json;
use super::ServerPath;
use super::view::Viewer;
use crate::app::App;
use crate::store::servers::{Server, ShownServer};

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.id()?).await?;
    Ok(document(&app, &ctx, &base, row).await?)
}

/// The whole document of one server.
pub(super) async fn document(
    app: &App,
    ctx: &RequestContext,
    base: &BaseUrl,
    row: Server,
) -> Result<Response, Fault> {
    let volumes = app.volumes_of(vec![row.id.clone()]).await?;
    let row = ShownServer::from(row);
    let mut json = Json::with_capacity(4096);
    json.raw("{\"server\":");
    let attached = volumes.get(&row.id).map_or(&[][..], Vec::as_slice);
    Viewer::new(&base.0, ctx.is_admin()).detail(&mut json, &row, attached);
    json.raw("}");
    Ok(json.answer(StatusCode::OK))
}

//! `DELETE /servers/{server}`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{HttpResult, Path, empty};

use super::super::Caller;
use super::ServerPath;
use crate::app::App;

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    app.server_delete(&ctx, path.id()?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

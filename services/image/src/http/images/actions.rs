//! `POST /v2/images/{image}/actions/…`: an administrator closes an image and
//! opens it again.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, empty};

use crate::app::Images;
use crate::app::model::Status;
use crate::http::Params;

/// 204.
pub async fn deactivate(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    app.set_active(&ctx, params.image()?, Status::Deactivated)
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// 204.
pub async fn reactivate(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    app.set_active(&ctx, params.image()?, Status::Active)
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

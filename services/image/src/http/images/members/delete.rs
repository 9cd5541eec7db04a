//! `DELETE /v2/images/{image}/members/{member}`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, empty};

use crate::app::Images;
use crate::http::Params;

/// 204.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    app.remove_member(&ctx, params.image()?, params.member()?)
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

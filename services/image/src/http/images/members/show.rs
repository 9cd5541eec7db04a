//! `GET /v2/images/{image}/members/{member}`

use axum::extract::State;
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, ok};

use crate::app::Images;
use crate::http::{Params, render};

/// 200 with the member.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    let member = app
        .show_member(&ctx, params.image()?, params.member()?)
        .await?;
    Ok(ok(&render::member(&member)))
}

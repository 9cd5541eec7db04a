//! `GET /v2/images/{image}`

use axum::extract::State;
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, ok};

use crate::app::Images;
use crate::http::{Params, render};

/// 200 with the image.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    let image = app.show(&ctx, params.image()?).await?;
    Ok(ok(&render::image(&image)))
}

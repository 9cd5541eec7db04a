//! `GET /v2/images/{image}/members`

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{Auth, HttpResult, ok};

use crate::app::Images;
use crate::http::{Params, render};

/// 200 with the members that the caller may know of.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
) -> HttpResult<Response> {
    let members = app.list_members(&ctx, params.image()?).await?;
    let members: Vec<Value> = members.iter().map(render::member).collect();
    Ok(ok(
        &json!({"members": members, "schema": "/v2/schemas/members"}),
    ))
}

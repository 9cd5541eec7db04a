//! `PUT /v2/images/{image}/members/{member}`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use yakumo_http::{Auth, HttpResult, StrictJson, ok};
use yakumo_types::Fault;

use crate::app::Images;
use crate::app::model::MemberStatus;
use crate::http::{Params, render};

/// What the member says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// `pending`, `accepted` or `rejected`.
    status: String,
}

/// 200 with the member.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
    StrictJson(body): StrictJson<Body>,
) -> HttpResult<Response> {
    let status = MemberStatus::parse(&body.status)
        .ok_or_else(|| Fault::invalid("The status must be pending, accepted or rejected."))?;
    let member = app
        .answer_member(&ctx, params.image()?, params.member()?, status)
        .await?;
    Ok(ok(&render::member(&member)))
}

//! `POST /v2/images/{image}/members`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use yakumo_http::{Auth, HttpResult, KeyedJson, ok};
use yakumo_types::Fault;

use crate::app::Images;
use crate::http::{Params, render};

/// Whom to invite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// A project.
    member: String,
}

/// 200 with the member.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
    KeyedJson(body, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let project = body
        .member
        .parse()
        .map_err(|_| Fault::invalid("The member must be the id of a project."))?;
    let member = app
        .add_member(&ctx, params.image()?, project, key.get())
        .await?;
    Ok(ok(&render::member(&member)))
}

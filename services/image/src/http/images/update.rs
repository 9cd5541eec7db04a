//! `PATCH /v2/images/{image}`

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, ok, parse_json_value};
use yakumo_types::Fault;

use crate::app::Images;
use crate::app::document::{PATCH_TYPES, parse_patch};
use crate::http::{Params, render};

/// 200 with the changed image; 415 for a body that is not a JSON patch of the
/// image API.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> HttpResult<Response> {
    let id = params.image()?;
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or("")
        .trim();
    if !PATCH_TYPES.contains(&given) {
        let fault = Fault::unsupported_media(format!(
            "The body of PATCH must be one of: {}.",
            PATCH_TYPES.join(", ")
        ));
        return Err(fault.into());
    }
    let body = body.map_err(|rejection| unreadable(&rejection))?;
    let changes = parse_patch(&parse_json_value(&body)?)?;
    let image = app.update(&ctx, id, &changes).await?;
    Ok(ok(&render::image(&image)))
}

fn unreadable(rejection: &BytesRejection) -> Fault {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Fault::too_large("The request body is too large."),
        _ => Fault::invalid("The request body ended early."),
    }
}

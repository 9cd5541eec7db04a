//! `PUT /v2/images/{image}/file`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use yakumo_http::{Auth, HttpResult, empty};
use yakumo_types::Fault;

use crate::app::{BodyCut, Images};
use crate::http::Params;

/// 204 once the data is durable and the image active.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> HttpResult<Response> {
    let id = params.image()?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .unwrap_or("")
        .trim();
    if kind != "application/octet-stream" {
        let fault =
            Fault::unsupported_media("Image data must be sent as application/octet-stream.");
        return Err(fault.into());
    }
    let announced = text(header::CONTENT_LENGTH).and_then(|value| value.parse().ok());
    let pieces = body
        .into_data_stream()
        .map(|piece| piece.map_err(|_| BodyCut));
    app.upload(&ctx, id, announced, pieces).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

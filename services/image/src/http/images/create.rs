//! `POST /v2/images`

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::{Map, Value};
use yakumo_http::{Auth, BaseUrl, HttpResult, KeyedJson, created};

use crate::app::Images;
use crate::http::render;

/// 201 with an image that waits for its data.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(body, key): KeyedJson<Map<String, Value>>,
) -> HttpResult<Response> {
    let image = app.create(&ctx, &body, key.get()).await?;
    let mut response = created(&render::image(&image));
    let location = base.join(&format!("/v2/images/{}", image.id));
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

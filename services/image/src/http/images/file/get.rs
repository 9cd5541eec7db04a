//! `GET /v2/images/{image}/file`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use yakumo_http::{Auth, HttpResult, empty};

use crate::app::{ByteRange, Images};
use crate::http::Params;

/// 200 with the data, 206 with one range of it, 204 while there is none.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    params: Params,
    headers: HeaderMap,
) -> HttpResult<Response> {
    let (_, data) = app.download(&ctx, params.image()?).await?;
    let Some(data) = data else {
        return Ok(empty(StatusCode::NO_CONTENT));
    };
    let size = data.stored.size;
    let asked = match headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
    {
        Some(text) => ByteRange::parse(text, size)?,
        None => None,
    };
    let checksum = data.stored.md5.clone();
    let range = asked.unwrap_or_else(|| data.whole());
    let mut response = Response::new(Body::from_stream(data.stream(range)));
    let out = response.headers_mut();
    out.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(range.end - range.start),
    );
    if asked.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    } else if let Ok(value) = HeaderValue::from_str(&checksum) {
        // Hexadecimal, as the image API has it, and only for the whole: a
        // client would compare the part with it.
        response.headers_mut().insert("content-md5", value);
    }
    Ok(response)
}

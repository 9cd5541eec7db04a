//! JSON bodies, in and out.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use yakumo_types::Fault;

use crate::fault::HttpFault;
use crate::strict::{from_value, parse_json_value};
use crate::surface::MaxBody;

/// A JSON body that passed every check: type, size, UTF-8, depth, no key
/// twice, and whatever `T` asks for. Use `#[serde(deny_unknown_fields)]`.
#[derive(Debug, Clone)]
pub struct StrictJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequest<S> for StrictJson<T> {
    type Rejection = HttpFault;

    async fn from_request(request: Request, _state: &S) -> Result<Self, HttpFault> {
        Ok(Self(from_value(read_json(request).await?)?))
    }
}

/// A body that is JSON, whatever it says.
pub(crate) async fn read_json(request: Request) -> Result<Value, Fault> {
    check_type(request.headers())?;
    parse_json_value(&read_body(request).await?)
}

/// The whole body, within the surface's bound.
pub(crate) async fn read_body(request: Request) -> Result<bytes::Bytes, Fault> {
    let limit = request
        .extensions()
        .get::<MaxBody>()
        .copied()
        .unwrap_or_default()
        .0;
    let too_large = || Fault::too_large(format!("The request body is larger than {limit} bytes."));
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    let mut body = request.into_body();
    if announced.is_some_and(|length| length > limit) {
        discard(body).await;
        return Err(too_large());
    }
    match Limited::new(&mut body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_large())
        }
        Err(_) => Err(Fault::invalid("The request body ended early.")),
    }
}

/// Reads what a client is still sending, within bounds: one that is cut off in
/// the middle often never sees the answer.
async fn discard(mut body: Body) {
    const MOST: usize = 16 << 20;
    const LONGEST: Duration = Duration::from_secs(2);
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await
            && seen < MOST
        {
            seen += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
    };
    // Whatever is left then is the client's loss.
    let _ = tokio::time::timeout(LONGEST, rest).await;
}

fn check_type(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let is_json = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<mime::Mime>().ok())
        .is_some_and(|mime| {
            mime.type_() == mime::APPLICATION
                && (mime.subtype() == mime::JSON || mime.suffix() == Some(mime::JSON))
        });
    if is_json {
        Ok(())
    } else {
        Err(Fault::unsupported_media(
            "The request body must be application/json.",
        ))
    }
}

/// A document with a status.
pub fn json_response<T: Serialize>(status: StatusCode, document: &T) -> Response {
    (status, Json(document)).into_response()
}

/// 200 with a document.
pub fn ok<T: Serialize>(document: &T) -> Response {
    json_response(StatusCode::OK, document)
}

/// 201 with a document.
pub fn created<T: Serialize>(document: &T) -> Response {
    json_response(StatusCode::CREATED, document)
}

/// 202 with a document.
pub fn accepted<T: Serialize>(document: &T) -> Response {
    json_response(StatusCode::ACCEPTED, document)
}

/// A status without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

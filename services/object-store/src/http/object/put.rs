//! `PUT /v1/{account}/{container}/{object}`

use axum::http::header;
use axum::response::Response;
use futures::StreamExt;
use yakumo_http::HttpResult;
use yakumo_types::{Fault, FaultCode};

use super::stored;
use crate::app::BodyCut;
use crate::http::headers::put_headers;
use crate::http::{Call, text};

/// 201 once the object is durable.
pub async fn handle(call: Call, container: &str, name: &str) -> HttpResult<Response> {
    // An ordinary object in the place of a manifest would lose data unseen.
    if call.query.has("multipart-manifest") || call.headers.contains_key("x-object-manifest") {
        return Err(Fault::not_implemented("Large object manifests are not offered.").into());
    }
    if call.headers.contains_key("x-symlink-target") {
        return Err(Fault::not_implemented("Symbolic links are not offered.").into());
    }
    let announced = text(&call.headers, header::CONTENT_LENGTH.as_str())
        .map(|value| {
            value
                .parse::<u64>()
                .map_err(|_| Fault::invalid("Invalid Content-Length."))
        })
        .transpose()?;
    if announced.is_none() && !call.headers.contains_key(header::TRANSFER_ENCODING) {
        let fault = Fault::new(FaultCode::LengthRequired, "Missing Content-Length header.");
        return Err(fault.into());
    }
    let headers = put_headers(&call.headers, call.store.now())?;
    let pieces = call
        .body
        .into_data_stream()
        .map(|piece| piece.map_err(|_| BodyCut));
    let new = call
        .store
        .put_object(&call.caller, container, name, headers, announced, pieces)
        .await?;
    Ok(stored(&new))
}

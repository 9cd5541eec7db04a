//! `GET` and `HEAD /v1/{account}/{container}/{object}`

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use yakumo_http::{HttpResult, empty};

use super::{describe, identify};
use crate::app::ByteRange;
use crate::app::conditions::{Verdict, last_modified};
use crate::http::headers::{conditions, if_range_holds, put};
use crate::http::{Call, text};

/// What is wanted of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Headers and bytes.
    Data,
    /// Headers.
    Head,
}

/// 200, 206 for one range, 304 for what the client has. Several ranges at once
/// are answered with the whole, as HTTP allows.
pub async fn handle(call: Call, container: &str, name: &str, part: Part) -> HttpResult<Response> {
    let conditions = conditions(&call.headers);
    let (store, caller) = (&call.store, &call.caller);
    let download = match part {
        Part::Head => {
            store
                .head_object(caller, container, name, &conditions)
                .await?
        }
        Part::Data => {
            store
                .get_object(caller, container, name, &conditions)
                .await?
        }
    };
    let object = download.object;
    if download.verdict == Verdict::NotModified {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        identify(&mut response, &object);
        return Ok(response);
    }
    let asked = match text(&call.headers, header::RANGE.as_str()) {
        Some(range)
            if object.size > 0
                && if_range_holds(&call.headers, &object.etag, last_modified(&object)) =>
        {
            ByteRange::parse(range, object.size)?
        }
        _ => None,
    };
    let range = asked.unwrap_or_else(|| ByteRange::whole(object.size));
    let body = match download.data {
        Some(data) => Body::from_stream(data.stream(range).await?),
        None => Body::empty(),
    };
    let mut response = Response::new(body);
    describe(&mut response, &object);
    if asked.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!(
            "bytes {}-{}/{}",
            range.start,
            range.end.saturating_sub(1),
            object.size
        );
        put(&mut response, header::CONTENT_RANGE.as_str(), &text);
    }
    response.headers_mut().insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(range.end - range.start),
    );
    Ok(response)
}

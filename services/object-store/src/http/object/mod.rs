//! `/v1/{account}/{container}/{object}`

mod copy;
mod delete;
mod get;
mod post;
mod put;

use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use yakumo_http::{HttpResult, empty};

use super::headers::{http_date, put as set, put_metadata, timestamp};
use super::{Call, not_allowed};
use crate::app::conditions::last_modified;
use crate::store::objects::Object;

pub async fn handle(
    call: Call,
    method: &Method,
    container: &str,
    name: &str,
) -> HttpResult<Response> {
    match method.as_str() {
        "GET" => get::handle(call, container, name, get::Part::Data).await,
        "HEAD" => get::handle(call, container, name, get::Part::Head).await,
        "PUT" if call.headers.contains_key("x-copy-from") => {
            copy::from_header(call, container, name).await
        }
        "PUT" => put::handle(call, container, name).await,
        "POST" => post::handle(call, container, name).await,
        "DELETE" => delete::handle(call, container, name).await,
        "COPY" => copy::to_destination(call, container, name).await,
        _ => Err(not_allowed(method).into()),
    }
}

/// The object's headers, for GET and HEAD.
fn describe(response: &mut Response, object: &Object) {
    set(
        response,
        header::CONTENT_TYPE.as_str(),
        &object.content_type,
    );
    for (name, value) in &object.headers {
        set(response, name, value);
    }
    set(response, "accept-ranges", "bytes");
    set(response, "x-timestamp", &timestamp(object.updated_at));
    if let Some(end) = object.delete_at {
        set(response, "x-delete-at", &end.to_string());
    }
    put_metadata(response, "object", &object.metadata);
    identify(response, object);
}

/// ETag and time.
fn identify(response: &mut Response, object: &Object) {
    set(response, header::ETAG.as_str(), &object.etag);
    let date = http_date(last_modified(object));
    set(response, header::LAST_MODIFIED.as_str(), &date);
}

fn stored(object: &Object) -> Response {
    let mut response = empty(StatusCode::CREATED);
    identify(&mut response, object);
    response
}

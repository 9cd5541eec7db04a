//! `/v1/{account}/{container}`

mod delete;
mod get;
mod head;
mod post;
mod put;

use axum::http::{HeaderMap, Method};
use axum::response::Response;
use yakumo_http::HttpResult;
use yakumo_types::{Fault, Role};

use super::headers::{http_date, metadata, put as set, put_metadata, timestamp};
use super::{Call, not_allowed, text};
use crate::app::{Caller, Changes};
use crate::store::containers::Container;

pub async fn handle(call: Call, method: &Method, name: &str) -> HttpResult<Response> {
    match *method {
        Method::GET => get::handle(call, name).await,
        Method::HEAD => head::handle(call, name).await,
        Method::PUT => put::handle(call, name).await,
        Method::POST => post::handle(call, name).await,
        Method::DELETE => delete::handle(call, name).await,
        _ => Err(not_allowed(method).into()),
    }
}

/// What the headers of a PUT or POST change.
fn changes(headers: &HeaderMap) -> Result<Changes, Fault> {
    let acl = |kind: &str| match text(headers, &format!("x-container-{kind}")) {
        Some(acl) => Some(acl.to_owned()),
        None => headers
            .contains_key(format!("x-remove-container-{kind}"))
            .then(String::new),
    };
    Ok(Changes {
        metadata: metadata(headers, "container")?,
        read_acl: acl("read"),
        write_acl: acl("write"),
    })
}

/// The container's counters and metadata as headers; its ACLs for those who
/// may change them.
fn describe(response: &mut Response, container: &Container, caller: &Caller) {
    set(
        response,
        "x-container-object-count",
        &container.objects.to_string(),
    );
    set(
        response,
        "x-container-bytes-used",
        &container.bytes.to_string(),
    );
    set(response, "x-timestamp", &timestamp(container.created_at));
    let seconds = container.updated_at.as_micros().saturating_add(999_999) / 1_000_000;
    set(response, "last-modified", &http_date(seconds));
    set(response, "accept-ranges", "bytes");
    set(response, "x-storage-policy", "default");
    put_metadata(response, "container", &container.metadata);
    if caller.owns(Role::Member) {
        if !container.read_acl.is_empty() {
            set(response, "x-container-read", &container.read_acl);
        }
        if !container.write_acl.is_empty() {
            set(response, "x-container-write", &container.write_acl);
        }
    }
}

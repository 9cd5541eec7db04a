//! `/v1/{account}`

mod get;
mod head;
mod post;

use axum::http::Method;
use axum::response::Response;
use yakumo_http::HttpResult;

use super::headers::{put, put_metadata, timestamp};
use super::{Call, not_allowed};
use crate::store::accounts::Account;

pub async fn handle(call: Call, method: &Method) -> HttpResult<Response> {
    match *method {
        Method::GET => get::handle(call).await,
        Method::HEAD => head::handle(call).await,
        Method::POST => post::handle(call).await,
        _ => Err(not_allowed(method).into()),
    }
}

/// The account's counters and metadata as headers.
fn describe(response: &mut Response, account: &Account) {
    for (name, value) in [
        ("x-account-container-count", account.containers),
        ("x-account-object-count", account.objects),
        ("x-account-bytes-used", account.bytes),
    ] {
        put(response, name, &value.to_string());
    }
    let time = timestamp(account.created_at);
    put(response, "x-timestamp", &time);
    put(response, "accept-ranges", "bytes");
    put_metadata(response, "account", &account.metadata);
}

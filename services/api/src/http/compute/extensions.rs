//! `/extensions`: the API has none that could be left out.

use axum::response::Response;
use serde_json::json;
use yakumo_http::{HttpResult, ok};
use yakumo_types::Fault;

use super::Caller;

pub(super) async fn list(_: Caller) -> Response {
    ok(&json!({ "extensions": [] }))
}

pub(super) async fn show(_: Caller) -> HttpResult<Response> {
    Err(Fault::not_found("Extension not found.").into())
}

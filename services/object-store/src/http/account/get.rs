//! `GET /v1/{account}`

use axum::response::Response;
use serde_json::json;
use yakumo_http::HttpResult;

use super::describe;
use crate::http::Call;
use crate::http::listing::{Format, Line, query, respond};
use crate::store::containers::Container;

/// 200 with a page of containers; 204 for an empty page of text.
pub async fn handle(call: Call) -> HttpResult<Response> {
    let account = call.store.show_account(&call.caller).await?;
    let format = Format::of(&call.query, &call.headers)?;
    let query = query(&call.query, call.store.config().max_listing)?;
    let entries = call.store.list_containers(&call.caller, &query).await?;
    let name = format!("AUTH_{}", call.caller.account.simple());
    let mut response = respond(
        format,
        entries,
        ("account", &name),
        "container",
        |container: Container| Line {
            fields: vec![
                ("count", json!(container.objects)),
                ("bytes", json!(container.bytes)),
                ("last_modified", json!(container.updated_at.iso_micros())),
            ],
            name: container.name,
        },
    );
    describe(&mut response, &account);
    Ok(response)
}

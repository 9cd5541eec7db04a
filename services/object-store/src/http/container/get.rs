//! `GET /v1/{account}/{container}`

use axum::response::Response;
use serde_json::json;
use yakumo_http::HttpResult;

use super::describe;
use crate::http::Call;
use crate::http::listing::{Format, Line, query, respond};
use crate::store::objects::Object;

/// 200 with a page of objects; 204 for an empty page of text.
pub async fn handle(call: Call, name: &str) -> HttpResult<Response> {
    let container = call.store.show_container(&call.caller, name).await?;
    let format = Format::of(&call.query, &call.headers)?;
    let query = query(&call.query, call.store.config().max_listing)?;
    let entries = call.store.list_objects(&container, &query).await?;
    let mut response = respond(
        format,
        entries,
        ("container", &container.name),
        "object",
        |object: Object| Line {
            fields: vec![
                ("hash", json!(object.etag)),
                ("bytes", json!(object.size)),
                ("content_type", json!(object.content_type)),
                ("last_modified", json!(object.updated_at.iso_micros())),
            ],
            name: object.name,
        },
    );
    describe(&mut response, &container, &call.caller);
    Ok(response)
}

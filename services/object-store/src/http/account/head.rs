//! `HEAD /v1/{account}`

use axum::response::Response;
use yakumo_http::HttpResult;

use super::describe;
use crate::http::{Call, no_content};

/// 204.
pub async fn handle(call: Call) -> HttpResult<Response> {
    let account = call.store.show_account(&call.caller).await?;
    let mut response = no_content();
    describe(&mut response, &account);
    Ok(response)
}

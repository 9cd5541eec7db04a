//! `POST /yakumo/v1/join`: a machine becomes a host of this cloud. No login is
//! asked for but a token that an operator made with `yakumo host token`. It is
//! none of OpenStack's, so it stands outside of their versions.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use yakumo_http::{HttpResult, StrictJson, ok};
use yakumo_types::HostId;

use crate::app::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinBody {
    token: String,
    host: String,
    host_id: HostId,
}

pub(super) async fn join(
    State(app): State<Arc<App>>,
    StrictJson(body): StrictJson<JoinBody>,
) -> HttpResult<Response> {
    let welcome = app.host_join(&body.token, &body.host, body.host_id).await?;
    let mut response = ok(&json!({ "host": {
        "name": welcome.host,
        "bus": {
            "url": welcome.broker_url.reveal(),
            "ca": welcome.broker_ca,
            "context_public_keys": welcome.context_public_keys,
        },
    }}));
    // It holds a password.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

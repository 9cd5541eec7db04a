//! `GET /servers/{server}/os-security-groups`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use yakumo_http::{HttpResult, Path, ok};

use super::super::Caller;
use super::ServerPath;
use crate::app::App;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let row = app.server_of(&ctx, path.id()?).await?;
    let groups = app.server_groups_of(&ctx, &row).await?;
    let all: Vec<_> = groups
        .iter()
        .map(|group| {
            json!({
                "id": group.id,
                "name": group.name,
                "description": group.description,
                "tenant_id": group.project_id,
                // The rules in the network API's own words are one request
                // away; the form that belongs here could not hold them.
                "rules": [],
            })
        })
        .collect();
    Ok(ok(&json!({ "security_groups": all })))
}

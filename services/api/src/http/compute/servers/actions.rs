//! `GET /servers/{server}/os-instance-actions`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{HttpResult, Path, ok};
use yakumo_types::{ProjectId, Timestamp, UserId};

use super::super::Caller;
use super::ServerPath;
use crate::app::App;
use crate::store::actions::Action;

#[derive(Deserialize)]
pub(super) struct ActionPath {
    server: String,
    request: String,
}

fn document(row: &Action) -> Value {
    let simple_project = row.project_id.parse::<ProjectId>().map(|id| id.simple());
    let simple_user = row.user_id.parse::<UserId>().map(|id| id.simple());
    json!({
        "action": row.action,
        "instance_uuid": row.server_id,
        "request_id": format!("req-{}", row.request_id),
        "project_id": simple_project.unwrap_or_default(),
        "user_id": simple_user.unwrap_or_default(),
        "start_time": Timestamp::from_micros(row.started_at).iso_micros(),
        "message": row.message,
    })
}

fn events(row: &Action, for_administrator: bool) -> Vec<Value> {
    let stored: Vec<Value> = serde_json::from_str(&row.events).unwrap_or_default();
    stored
        .into_iter()
        .map(|event| {
            let finish = event.get("finish_time").and_then(Value::as_i64);
            let mut shown = json!({
                "event": event.get("event"),
                "start_time": Timestamp::from_micros(row.started_at).iso_micros(),
                "finish_time": finish.map(|at| Timestamp::from_micros(at).iso_micros()),
                "result": event.get("result"),
            });
            if let (true, Some(object)) = (for_administrator, shown.as_object_mut()) {
                object.insert(
                    "traceback".into(),
                    event.get("details").cloned().unwrap_or_default(),
                );
            }
            shown
        })
        .collect()
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
) -> HttpResult<Response> {
    let rows = app.action_list(&ctx, path.id()?).await?;
    let all: Vec<_> = rows.iter().map(document).collect();
    Ok(ok(&json!({ "instanceActions": all })))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ActionPath>,
) -> HttpResult<Response> {
    let server = ServerPath {
        server: path.server,
    };
    let row = app.action_show(&ctx, server.id()?, &path.request).await?;
    let mut shown = document(&row);
    if let (true, Some(object)) = (ctx.is_admin(), shown.as_object_mut()) {
        object.insert("events".into(), json!(events(&row, true)));
    }
    Ok(ok(&json!({ "instanceAction": shown })))
}

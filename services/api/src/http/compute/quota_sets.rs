//! `/os-quota-sets`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yakumo_http::{HttpResult, Path, StrictJson, empty, ok};
use yakumo_types::{Fault, ProjectId};

use super::{Caller, boolean, integer};
use crate::app::App;
use crate::app::quotas::{ENFORCED, FIXED, Limits};

#[derive(Deserialize)]
pub(super) struct TargetPath {
    target: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    quota_set: BTreeMap<String, Value>,
}

impl TargetPath {
    fn project(&self) -> Result<ProjectId, Fault> {
        self.target
            .parse()
            .map_err(|_| Fault::invalid("Project ID is not a valid project."))
    }
}

fn document(project: Option<&str>, limits: &Limits) -> Response {
    let mut set = Map::new();
    if let Some(project) = project {
        set.insert("id".into(), json!(project));
    }
    for (name, limit) in limits {
        set.insert(name.clone(), json!(limit));
    }
    for (name, limit) in FIXED {
        set.insert((*name).to_owned(), json!(limit));
    }
    ok(&json!({ "quota_set": set }))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<TargetPath>,
) -> HttpResult<Response> {
    let limits = app.quota_show(&ctx, path.project()?).await?;
    Ok(document(Some(&path.target), &limits))
}

pub(super) async fn defaults(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<TargetPath>,
) -> HttpResult<Response> {
    let limits = app.quota_defaults(&ctx)?;
    Ok(document(Some(&path.target), &limits))
}

pub(super) async fn detail(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<TargetPath>,
) -> HttpResult<Response> {
    let project = path.project()?;
    let limits = app.quota_show(&ctx, project).await?;
    let used = app.quota_usage(&ctx, project).await?;
    let mut set = Map::new();
    set.insert("id".into(), json!(path.target));
    let fixed = FIXED
        .iter()
        .map(|(name, limit)| ((*name).to_owned(), *limit));
    for (name, limit) in limits.into_iter().chain(fixed) {
        let in_use = match name.as_str() {
            "instances" => used.servers,
            "cores" => used.vcpus,
            "ram" => used.memory_mib,
            _ => 0,
        };
        set.insert(
            name,
            json!({ "limit": limit, "in_use": in_use, "reserved": 0 }),
        );
    }
    Ok(ok(&json!({ "quota_set": set })))
}

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<TargetPath>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    let mut wanted = Limits::new();
    let mut force = false;
    for (name, value) in &body.quota_set {
        match name.as_str() {
            "force" => force = boolean("force", value)?,
            "tenant_id" | "id" => {}
            name if ENFORCED.contains(&name) => {
                wanted.insert(name.to_owned(), integer(name, value)?);
            }
            // Known, and not limited here: accepting a number that nothing
            // would hold to would be a lie.
            name if FIXED.iter().any(|(fixed, _)| *fixed == name) => {
                return Err(Fault::invalid(format!(
                    "{name} is not limited by compute; ask the service that owns it."
                ))
                .into());
            }
            other => {
                return Err(Fault::invalid(format!("There is no quota named {other:.64}.")).into());
            }
        }
    }
    let limits = app
        .quota_update(&ctx, path.project()?, wanted, force)
        .await?;
    Ok(document(None, &limits))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<TargetPath>,
) -> HttpResult<Response> {
    app.quota_reset(&ctx, path.project()?).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

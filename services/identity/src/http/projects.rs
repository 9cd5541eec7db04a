//! `/projects`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::Fault;

use super::{Shared, links, list_document, nothing_in, nullable, owned, page, text, whole};
use crate::app::{App, NewProject, ProjectChange, ids};
use crate::store::entity::project;
use crate::store::projects::Filter;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/projects", get(list).post(create))
        .route("/projects/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    project: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    is_domain: Option<Value>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    tags: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        nothing_in("project.is_domain", self.is_domain.as_ref())?;
        nothing_in("project.options", self.options.as_ref())?;
        nothing_in("project.tags", self.tags.as_ref())
    }
}

/// A project as the API shows it.
pub(super) fn document(row: &project::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    json!({
        "id": id,
        "name": row.name,
        "domain_id": ids::shown(&row.domain_id),
        "parent_id": ids::shown(row.parent_id.as_ref().unwrap_or(&row.domain_id)),
        "description": row.description,
        "enabled": row.enabled,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": links(base, &format!("projects/{id}")),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let filter = Filter {
        name: owned(&query, "name"),
        domain_id: owned(&query, "domain_id"),
        parent_id: owned(&query, "parent_id"),
        top: false,
        enabled: query.flag("enabled")?,
        ids: None,
    };
    let page = page(&query)?;
    let found = if query.flag("is_domain")? == Some(true) {
        // Domains are not projects here.
        whole(Vec::new())
    } else {
        app.list_projects(&ctx, filter, &page).await?
    };
    Ok(ok(&list_document(
        "projects",
        found,
        &base,
        &query,
        |row| document(row, &base),
    )))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { project }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    project.check()?;
    let new = NewProject {
        name: project
            .name
            .ok_or_else(|| Fault::invalid("Invalid input for project.name: it is missing."))?,
        domain_id: project.domain_id,
        parent_id: project.parent_id,
        description: text(project.description).unwrap_or_default(),
        enabled: project.enabled.unwrap_or(true),
    };
    let row = app.create_project(&ctx, new, key.get()).await?;
    Ok(created(&json!({"project": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_project(&ctx, &id).await?;
    Ok(ok(&json!({"project": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { project }): StrictJson<Body>,
) -> HttpResult<Response> {
    project.check()?;
    let change = ProjectChange {
        name: project.name,
        description: text(project.description),
        enabled: project.enabled,
        domain_id: project.domain_id,
        parent_id: project.parent_id,
    };
    let row = app.update_project(&ctx, &id, change).await?;
    Ok(ok(&json!({"project": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_project(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

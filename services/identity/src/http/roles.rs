//! `/roles`.

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

use super::{Shared, links, list_document, nothing_in, nullable, page, text};
use crate::app::{App, FIXED_ROLES, RoleChange, ids};
use crate::store::entity::role;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/roles", get(list).post(create))
        .route("/roles/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    role: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default)]
    domain_id: Option<Value>,
    #[serde(default)]
    options: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        nothing_in("role.domain_id", self.domain_id.as_ref())?;
        nothing_in("role.options", self.options.as_ref())
    }
}

/// A role as the API shows it.
pub(super) fn document(row: &role::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    let options = if FIXED_ROLES.contains(&row.name.as_str()) {
        json!({"immutable": true})
    } else {
        json!({})
    };
    let description = (!row.description.is_empty()).then_some(&row.description);
    json!({
        "id": id,
        "name": row.name,
        "domain_id": null,
        "description": description,
        "options": options,
        "links": links(base, &format!("roles/{id}")),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = app
        .list_roles(&ctx, query.filled("name"), &page(&query)?)
        .await?;
    Ok(ok(&list_document("roles", found, &base, &query, |row| {
        document(row, &base)
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { role }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    role.check()?;
    let name = role
        .name
        .ok_or_else(|| Fault::invalid("Invalid input for role.name: it is missing."))?;
    let about = text(role.description).unwrap_or_default();
    let row = app.create_role(&ctx, &name, &about, key.get()).await?;
    Ok(created(&json!({"role": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_role(&ctx, &id).await?;
    Ok(ok(&json!({"role": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { role }): StrictJson<Body>,
) -> HttpResult<Response> {
    role.check()?;
    let change = RoleChange {
        name: role.name,
        description: text(role.description),
    };
    let row = app.update_role(&ctx, &id, change).await?;
    Ok(ok(&json!({"role": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_role(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

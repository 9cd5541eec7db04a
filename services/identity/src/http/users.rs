//! `/users`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::Fault;

use super::{
    Shared, groups, links, list_document, nothing_in, nullable, owned, page, projects, text, whole,
};
use crate::app::{App, NewUser, UserChange, ids};
use crate::store::entity::user;
use crate::store::users::Filter;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{id}", get(show).patch(update).delete(delete))
        .route("/users/{id}/password", post(change_password))
        .route("/users/{id}/projects", get(list_projects))
        .route("/users/{id}/groups", get(list_groups))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    user: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    default_project_id: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default)]
    options: Option<Value>,
}

/// A user as the API shows it.
pub(super) fn document(row: &user::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    let mut shown = json!({
        "id": id,
        "name": row.name,
        "domain_id": ids::shown(&row.domain_id),
        "enabled": row.enabled,
        "password_expires_at": null,
        "options": {},
        "links": links(base, &format!("users/{id}")),
    });
    if let Some(object) = shown.as_object_mut() {
        // Keystone leaves out what was never given.
        if let Some(project) = &row.default_project_id {
            object.insert("default_project_id".into(), ids::shown(project).into());
        }
        if !row.description.is_empty() {
            object.insert("description".into(), row.description.clone().into());
        }
        if !row.email.is_empty() {
            object.insert("email".into(), row.email.clone().into());
        }
    }
    shown
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
        enabled: query.flag("enabled")?,
        ids: None,
    };
    let found = app.list_users(&ctx, filter, &page(&query)?).await?;
    Ok(ok(&list_document("users", found, &base, &query, |row| {
        document(row, &base)
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { user }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    nothing_in("user.options", user.options.as_ref())?;
    let new = NewUser {
        name: user
            .name
            .ok_or_else(|| Fault::invalid("Invalid input for user.name: it is missing."))?,
        domain_id: user.domain_id,
        password: user.password,
        description: text(user.description).unwrap_or_default(),
        email: text(user.email).unwrap_or_default(),
        enabled: user.enabled.unwrap_or(true),
        default_project_id: user.default_project_id.flatten(),
    };
    let row = app.create_user(&ctx, new, key.get()).await?;
    Ok(created(&json!({"user": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_user(&ctx, &id).await?;
    Ok(ok(&json!({"user": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { user }): StrictJson<Body>,
) -> HttpResult<Response> {
    nothing_in("user.options", user.options.as_ref())?;
    let change = UserChange {
        name: user.name,
        password: user.password,
        description: text(user.description),
        email: text(user.email),
        enabled: user.enabled,
        default_project_id: user.default_project_id,
        domain_id: user.domain_id,
    };
    let row = app.update_user(&ctx, &id, change).await?;
    Ok(ok(&json!({"user": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_user(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordBody {
    user: Passwords,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passwords {
    original_password: String,
    password: String,
}

async fn change_password(
    State(app): Shared,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<PasswordBody>,
) -> HttpResult<Response> {
    app.change_password(&id, &body.user.original_password, &body.user.password)
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn list_projects(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let found = whole(app.user_projects(&ctx, &id).await?);
    Ok(ok(&list_document(
        "projects",
        found,
        &base,
        &query,
        |row| projects::document(row, &base),
    )))
}

async fn list_groups(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let found = whole(app.groups_of_user(&ctx, &id).await?);
    Ok(ok(&list_document("groups", found, &base, &query, |row| {
        groups::document(row, &base)
    })))
}

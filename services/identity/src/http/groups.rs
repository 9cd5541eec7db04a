//! `/groups`.

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

use super::{Shared, links, list_document, nullable, owned, page, text, users, whole};
use crate::app::{App, GroupChange, NewGroup, ids};
use crate::store::entity::group;
use crate::store::groups::Filter;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/groups", get(list).post(create))
        .route("/groups/{id}", get(show).patch(update).delete(delete))
        .route("/groups/{id}/users", get(list_users))
        .route(
            "/groups/{id}/users/{user}",
            get(check_user).put(add_user).delete(remove_user),
        )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
}

/// A group as the API shows it.
pub(super) fn document(row: &group::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    json!({
        "id": id,
        "name": row.name,
        "domain_id": ids::shown(&row.domain_id),
        "description": row.description,
        "links": links(base, &format!("groups/{id}")),
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
        ids: None,
    };
    let found = app.list_groups(&ctx, filter, &page(&query)?).await?;
    Ok(ok(&list_document("groups", found, &base, &query, |row| {
        document(row, &base)
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { group }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let new = NewGroup {
        name: group
            .name
            .ok_or_else(|| Fault::invalid("Invalid input for group.name: it is missing."))?,
        domain_id: group.domain_id,
        description: text(group.description).unwrap_or_default(),
    };
    let row = app.create_group(&ctx, new, key.get()).await?;
    Ok(created(&json!({"group": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_group(&ctx, &id).await?;
    Ok(ok(&json!({"group": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { group }): StrictJson<Body>,
) -> HttpResult<Response> {
    if group.domain_id.is_some() {
        return Err(Fault::invalid("A group cannot move to another domain.").into());
    }
    let change = GroupChange {
        name: group.name,
        description: text(group.description),
    };
    let row = app.update_group(&ctx, &id, change).await?;
    Ok(ok(&json!({"group": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_group(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn list_users(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let found = whole(app.users_of_group(&ctx, &id).await?);
    Ok(ok(&list_document("users", found, &base, &query, |row| {
        users::document(row, &base)
    })))
}

async fn check_user(
    State(app): Shared,
    Auth(ctx): Auth,
    Path((group, user)): Path<(String, String)>,
) -> HttpResult<Response> {
    app.check_in_group(&ctx, &group, &user).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn add_user(
    State(app): Shared,
    Auth(ctx): Auth,
    Path((group, user)): Path<(String, String)>,
) -> HttpResult<Response> {
    app.add_to_group(&ctx, &group, &user).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn remove_user(
    State(app): Shared,
    Auth(ctx): Auth,
    Path((group, user)): Path<(String, String)>,
) -> HttpResult<Response> {
    app.remove_from_group(&ctx, &group, &user).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

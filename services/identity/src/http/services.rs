//! `/services`.

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

use super::{Shared, links, list_document, nullable, page, text};
use crate::app::{App, NewService, ServiceChange, ids};
use crate::store::entity::service;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/services", get(list).post(create))
        .route("/services/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    service: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
}

fn document(row: &service::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    json!({
        "id": id,
        "type": row.kind,
        "name": row.name,
        "description": row.description,
        "enabled": row.enabled,
        "links": links(base, &format!("services/{id}")),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = app
        .list_services(
            &ctx,
            query.filled("type"),
            query.filled("name"),
            &page(&query)?,
        )
        .await?;
    Ok(ok(&list_document(
        "services",
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
    KeyedJson(Body { service }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let new = NewService {
        kind: service
            .kind
            .ok_or_else(|| Fault::invalid("Invalid input for service.type: it is missing."))?,
        name: text(service.name).unwrap_or_default(),
        description: text(service.description).unwrap_or_default(),
        enabled: service.enabled.unwrap_or(true),
    };
    let row = app.create_service(&ctx, new, key.get()).await?;
    Ok(created(&json!({"service": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_service(&ctx, &id).await?;
    Ok(ok(&json!({"service": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { service }): StrictJson<Body>,
) -> HttpResult<Response> {
    let change = ServiceChange {
        kind: service.kind,
        name: text(service.name),
        description: text(service.description),
        enabled: service.enabled,
    };
    let row = app.update_service(&ctx, &id, change).await?;
    Ok(ok(&json!({"service": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_service(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

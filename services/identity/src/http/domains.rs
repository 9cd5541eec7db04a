//! `/domains`.

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

use super::{Shared, links, list_document, nothing_in, nullable, owned, page, text};
use crate::app::{App, DomainChange, NewDomain, ids};
use crate::store::domains::Filter;
use crate::store::entity::domain;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/domains", get(list).post(create))
        .route("/domains/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    domain: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    tags: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        nothing_in("domain.options", self.options.as_ref())?;
        nothing_in("domain.tags", self.tags.as_ref())
    }
}

/// A domain as the API shows it.
pub(super) fn document(row: &domain::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    json!({
        "id": id,
        "name": row.name,
        "description": row.description,
        "enabled": row.enabled,
        "tags": [],
        "options": {},
        "links": links(base, &format!("domains/{id}")),
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
        enabled: query.flag("enabled")?,
        ids: None,
    };
    let found = app.list_domains(&ctx, filter, &page(&query)?).await?;
    Ok(ok(&list_document("domains", found, &base, &query, |row| {
        document(row, &base)
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { domain }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    domain.check()?;
    let new = NewDomain {
        name: domain
            .name
            .ok_or_else(|| Fault::invalid("Invalid input for domain.name: it is missing."))?,
        description: text(domain.description).unwrap_or_default(),
        enabled: domain.enabled.unwrap_or(true),
    };
    let row = app.create_domain(&ctx, new, key.get()).await?;
    Ok(created(&json!({"domain": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_domain(&ctx, &id).await?;
    Ok(ok(&json!({"domain": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { domain }): StrictJson<Body>,
) -> HttpResult<Response> {
    domain.check()?;
    let change = DomainChange {
        name: domain.name,
        description: text(domain.description),
        enabled: domain.enabled,
    };
    let row = app.update_domain(&ctx, &id, change).await?;
    Ok(ok(&json!({"domain": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_domain(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

//! `/endpoints`.

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

use super::{Shared, links, list_document, nullable, owned, page};
use crate::app::{App, EndpointChange, NewEndpoint, ids};
use crate::store::catalog::EndpointFilter;
use crate::store::entity::endpoint;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/endpoints", get(list).post(create))
        .route("/endpoints/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    endpoint: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    service_id: Option<String>,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    region_id: Option<Option<String>>,
    /// The older word for `region_id`.
    #[serde(default, deserialize_with = "nullable")]
    region: Option<Option<String>>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    /// Clients that send a name get it ignored by Keystone as well.
    #[serde(default)]
    #[allow(dead_code)]
    name: Option<String>,
}

fn document(row: &endpoint::Model, base: &BaseUrl) -> Value {
    let id = ids::shown(&row.id);
    json!({
        "id": id,
        "service_id": ids::shown(&row.service_id),
        "interface": row.interface,
        "region": row.region_id,
        "region_id": row.region_id,
        "url": row.url,
        "enabled": row.enabled,
        "links": links(base, &format!("endpoints/{id}")),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let filter = EndpointFilter {
        interface: owned(&query, "interface"),
        service_id: owned(&query, "service_id"),
        region_id: owned(&query, "region_id").or_else(|| owned(&query, "region")),
        enabled: query.flag("enabled")?,
    };
    let found = app.list_endpoints(&ctx, filter, &page(&query)?).await?;
    Ok(ok(&list_document(
        "endpoints",
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
    KeyedJson(Body { endpoint }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let needed = |value: Option<String>, name: &str| {
        value.ok_or_else(|| {
            Fault::invalid(format!("Invalid input for endpoint.{name}: it is missing."))
        })
    };
    let new = NewEndpoint {
        service_id: needed(endpoint.service_id, "service_id")?,
        interface: needed(endpoint.interface, "interface")?,
        region_id: endpoint.region_id.or(endpoint.region).flatten(),
        url: needed(endpoint.url, "url")?,
        enabled: endpoint.enabled.unwrap_or(true),
    };
    let row = app.create_endpoint(&ctx, new, key.get()).await?;
    Ok(created(&json!({"endpoint": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_endpoint(&ctx, &id).await?;
    Ok(ok(&json!({"endpoint": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { endpoint }): StrictJson<Body>,
) -> HttpResult<Response> {
    let change = EndpointChange {
        service_id: endpoint.service_id,
        interface: endpoint.interface,
        region_id: endpoint.region_id.or(endpoint.region),
        url: endpoint.url,
        enabled: endpoint.enabled,
    };
    let row = app.update_endpoint(&ctx, &id, change).await?;
    Ok(ok(&json!({"endpoint": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_endpoint(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

//! `/regions`.

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

use super::{Shared, links, list_document, nullable, raw_page, text};
use crate::app::{App, RegionChange};
use crate::store::entity::region;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/regions", get(list).post(create))
        .route("/regions/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    region: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    parent_region_id: Option<Option<String>>,
}

fn document(row: &region::Model, base: &BaseUrl) -> Value {
    json!({
        "id": row.id,
        "description": row.description,
        "parent_region_id": row.parent_region_id,
        "links": links(base, &format!("regions/{}", row.id)),
    })
}

async fn list(
    State(app): Shared,
    Auth(_): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = app
        .list_regions(query.filled("parent_region_id"), &raw_page(&query)?)
        .await?;
    Ok(ok(&list_document("regions", found, &base, &query, |row| {
        document(row, &base)
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    KeyedJson(Body { region }, key): KeyedJson<Body>,
) -> HttpResult<Response> {
    let about = text(region.description).unwrap_or_default();
    let parent = region.parent_region_id.flatten();
    let row = app
        .create_region(&ctx, region.id, &about, parent, key.get())
        .await?;
    Ok(created(&json!({"region": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(_): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_region(&id).await?;
    Ok(ok(&json!({"region": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { region }): StrictJson<Body>,
) -> HttpResult<Response> {
    let change = RegionChange {
        description: text(region.description),
        parent_region_id: region.parent_region_id,
    };
    let row = app.update_region(&ctx, &id, change).await?;
    Ok(ok(&json!({"region": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_region(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

//! `/credentials`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, NoKey, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::Fault;

use super::{Shared, links, list_document, nullable, raw_page};
use crate::app::{App, CredentialChange, NewCredential, ids};
use crate::store::entity::credential;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/credentials", get(list).post(create))
        .route("/credentials/{id}", get(show).patch(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    credential: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    project_id: Option<Option<String>>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    blob: Option<String>,
}

fn document(row: &credential::Model, base: &BaseUrl) -> Value {
    json!({
        "id": row.id,
        "user_id": ids::shown(&row.user_id),
        "project_id": row.project_id.as_deref().map(ids::shown),
        "type": row.kind,
        "blob": row.secret,
        "links": links(base, &format!("credentials/{}", row.id)),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let (user, kind) = (query.filled("user_id"), query.filled("type"));
    let found = app
        .list_credentials(&ctx, user, kind, &raw_page(&query)?)
        .await?;
    Ok(ok(&list_document(
        "credentials",
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
    _: NoKey,
    StrictJson(Body { credential }): StrictJson<Body>,
) -> HttpResult<Response> {
    let needed = |value: Option<String>, name: &str| {
        value.ok_or_else(|| {
            Fault::invalid(format!(
                "Invalid input for credential.{name}: it is missing."
            ))
        })
    };
    let new = NewCredential {
        user_id: credential.user_id,
        project_id: credential.project_id.flatten(),
        kind: needed(credential.kind, "type")?,
        secret: needed(credential.blob, "blob")?,
    };
    let row = app.create_credential(&ctx, new).await?;
    Ok(created(&json!({"credential": document(&row, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    let row = app.show_credential(&ctx, &id).await?;
    Ok(ok(&json!({"credential": document(&row, &base)})))
}

async fn update(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(id): Path<String>,
    StrictJson(Body { credential }): StrictJson<Body>,
) -> HttpResult<Response> {
    if credential.user_id.is_some() {
        return Err(Fault::invalid("A credential cannot be given to another user.").into());
    }
    let change = CredentialChange {
        project_id: credential.project_id,
        kind: credential.kind,
        secret: credential.blob,
    };
    let row = app.update_credential(&ctx, &id, change).await?;
    Ok(ok(&json!({"credential": document(&row, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    app.delete_credential(&ctx, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

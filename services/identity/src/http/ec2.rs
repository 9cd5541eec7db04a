//! `/users/{user}/credentials/OS-EC2`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{
    Auth, BaseUrl, HttpFault, HttpResult, NoKey, Path, StrictJson, created, empty, ok,
};

use super::{Shared, absent, links};
use crate::app::{App, Ec2Key, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/users/{user}/credentials/OS-EC2", get(list).post(create))
        .route(
            "/users/{user}/credentials/OS-EC2/{access}",
            get(show).delete(delete),
        )
        .route("/ec2tokens", post(not_yet))
        .route("/s3tokens", post(not_yet))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tenant_id: String,
}

fn document(key: &Ec2Key, base: &BaseUrl) -> Value {
    let user = ids::shown(&key.user_id);
    json!({
        "access": key.access,
        "secret": key.secret,
        "user_id": user,
        "tenant_id": ids::shown(&key.project_id),
        "trust_id": null,
        "links": links(base, &format!("users/{user}/credentials/OS-EC2/{}", key.access)),
    })
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(user): Path<String>,
) -> HttpResult<Response> {
    let keys = app.list_ec2_keys(&ctx, &user).await?;
    let keys: Vec<Value> = keys.iter().map(|key| document(key, &base)).collect();
    let path = format!("/v3/users/{}/credentials/OS-EC2", ctx.user_id.simple());
    Ok(ok(&json!({
        "credentials": keys,
        "links": {"self": base.join(&path), "previous": null, "next": null},
    })))
}

async fn create(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path(user): Path<String>,
    _: NoKey,
    StrictJson(body): StrictJson<Body>,
) -> HttpResult<Response> {
    let key = app.create_ec2_key(&ctx, &user, &body.tenant_id).await?;
    Ok(created(&json!({"credential": document(&key, &base)})))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    Path((user, access)): Path<(String, String)>,
) -> HttpResult<Response> {
    let key = app.show_ec2_key(&ctx, &user, &access).await?;
    Ok(ok(&json!({"credential": document(&key, &base)})))
}

async fn delete(
    State(app): Shared,
    Auth(ctx): Auth,
    Path((user, access)): Path<(String, String)>,
) -> HttpResult<Response> {
    app.delete_ec2_key(&ctx, &user, &access).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn not_yet() -> HttpFault {
    absent("Checking EC2 and S3 signatures")
}

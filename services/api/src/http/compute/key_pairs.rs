//! `/os-keypairs`: the caller's key pairs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_http::{HttpResult, KeyedJson, Paging, Path, empty, ok};
use yakumo_types::{Fault, Timestamp};

use super::Caller;
use crate::app::App;
use crate::app::key_pairs::KeyKind;
use crate::store::key_pairs::KeyPair;

#[derive(Deserialize)]
pub(super) struct NamePath {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    keypair: NewKeyPair,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyPair {
    name: String,
    public_key: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn short(row: &KeyPair) -> Value {
    json!({
        "name": row.name,
        "public_key": row.public_key,
        "fingerprint": row.fingerprint,
    })
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    paging: Paging,
) -> HttpResult<Response> {
    let limit = paging.bounded(u64::from(app.config.max_page));
    let rows = app
        .key_pair_list(&ctx, paging.marker.as_deref(), limit)
        .await?;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| json!({ "keypair": short(row) }))
        .collect();
    Ok(ok(&json!({ "keypairs": rows })))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<NamePath>,
) -> HttpResult<Response> {
    let row = app.key_pair_show(&ctx, &path.name).await?;
    let created = Timestamp::from_micros(row.created_at);
    let mut document = short(&row);
    if let Some(object) = document.as_object_mut() {
        object.insert("user_id".into(), json!(ctx.user_id.simple()));
        object.insert("created_at".into(), json!(created.iso_micros()));
        object.insert("updated_at".into(), Value::Null);
        object.insert("deleted_at".into(), Value::Null);
        object.insert("deleted".into(), json!(false));
        // A number is part of the document; the name is the key.
        object.insert("id".into(), json!(created.as_secs()));
    }
    Ok(ok(&json!({ "keypair": document })))
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let new = body.keypair;
    // The name of a type is of later versions; RSA is what old clients ask
    // their users to expect, so it can be asked for.
    let kind = match new.kind.as_deref() {
        None | Some("ssh") => KeyKind::Ed25519,
        Some("rsa") => KeyKind::Rsa,
        Some(_) => return Err(Fault::invalid("A key pair's type must be ssh.").into()),
    };
    let made = app
        .key_pair_create(&ctx, &new.name, new.public_key.as_deref(), kind, key.get())
        .await?;
    let mut document = short(&made.row);
    if let Some(object) = document.as_object_mut() {
        object.insert("user_id".into(), json!(ctx.user_id.simple()));
        if let Some(private_key) = made.private_key {
            object.insert("private_key".into(), json!(private_key));
        }
    }
    Ok(ok(&json!({ "keypair": document })))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<NamePath>,
) -> HttpResult<Response> {
    app.key_pair_delete(&ctx, &path.name).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

//! The metadata service over HTTP, for network nodes that stand outside the
//! bus. They resolve which server asks and sign it; what a guest claims of
//! itself is never looked at, so they must strip it.
//!
//! `X-Instance-ID` and `X-Tenant-ID` name the server and its project, and
//! `X-Instance-ID-Signature` is the HMAC-SHA256 of both, in this order and
//! with a line feed between them, under the shared secret.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use yakumo_http::HttpResult;
use yakumo_service::Secret;
use yakumo_types::{Fault, ProjectId, ServerId};

use crate::app::App;

#[derive(Clone)]
struct Signed {
    app: Arc<App>,
    secret: Secret,
}

/// Every path below the root, for signed requests.
pub(crate) fn router(app: Arc<App>, secret: Secret) -> Router {
    Router::new()
        .route("/", get(answer))
        .route("/{*path}", get(answer))
        .with_state(Signed { app, secret })
}

async fn answer(State(signed): State<Signed>, request: Request) -> HttpResult<Response> {
    let (server, project) = caller(&signed.secret, request.headers())?;
    let document = signed
        .app
        .metadata_signed(server, project, request.uri().path())
        .await?
        .ok_or_else(|| Fault::not_found("Not Found"))?;
    Ok((
        StatusCode::OK,
        [(header::CONTENT_TYPE, document.content_type)],
        document.body,
    )
        .into_response())
}

fn caller(secret: &Secret, headers: &HeaderMap) -> Result<(ServerId, ProjectId), Fault> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| Fault::invalid(format!("The header {name} is missing.")))
    };
    let (server, project) = (text("x-instance-id")?, text("x-tenant-id")?);
    let signature = hex::decode(text("x-instance-id-signature")?)
        .map_err(|_| Fault::forbidden("The signature is malformed."))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes())
        .map_err(|_| Fault::internal("The metadata service has no usable secret."))?;
    mac.update(server.as_bytes());
    mac.update(b"\n");
    mac.update(project.as_bytes());
    mac.verify_slice(&signature)
        .map_err(|_| Fault::forbidden("The signature is wrong."))?;
    let missing = || Fault::not_found("Not Found");
    Ok((
        server.parse().map_err(|_| missing())?,
        project.parse().map_err(|_| missing())?,
    ))
}

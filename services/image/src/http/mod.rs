//! The REST API, Image v2. Folders follow the URL, files the verb; a handler
//! parses, calls `app` and renders.

mod images;
mod info;
mod metadefs;
mod render;
mod schemas;
mod versions;

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use yakumo_auth::TokenVerifier;
use yakumo_http::{HttpFault, Path, Surface, SurfaceOptions, surface};
use yakumo_types::{Env, Fault, ImageId, ProjectId};

use crate::app::Images;

/// The whole API.
pub fn router(app: Images, verifier: TokenVerifier, env: Env) -> Router {
    let options = SurfaceOptions {
        // Uploads take as long as they take; they have an idle limit of their own.
        timeout: None,
        ..SurfaceOptions::new(env, &app.config().identity_url)
    };
    let routes = Router::new()
        .route("/", get(versions::root))
        .route("/versions", get(versions::list))
        .route("/v2", get(versions::root))
        .route(
            "/v2/images",
            get(images::list::handle).post(images::create::handle),
        )
        .route(
            "/v2/images/{image}",
            get(images::show::handle)
                .patch(images::update::handle)
                .delete(images::delete::handle),
        )
        .route(
            "/v2/images/{image}/file",
            get(images::file::get::handle).put(images::file::put::handle),
        )
        .route(
            "/v2/images/{image}/tags/{tag}",
            put(images::tags::put::handle).delete(images::tags::delete::handle),
        )
        .route(
            "/v2/images/{image}/members",
            get(images::members::list::handle).post(images::members::create::handle),
        )
        .route(
            "/v2/images/{image}/members/{member}",
            get(images::members::show::handle)
                .put(images::members::update::handle)
                .delete(images::members::delete::handle),
        )
        .route(
            "/v2/images/{image}/actions/deactivate",
            post(images::actions::deactivate),
        )
        .route(
            "/v2/images/{image}/actions/reactivate",
            post(images::actions::reactivate),
        )
        .route("/v2/info/import", get(info::import))
        .route("/v2/info/stores", get(info::stores))
        .route("/v2/metadefs/namespaces", get(metadefs::namespaces))
        .route("/v2/schemas/{name}", get(schemas::show))
        .layer(Extension(verifier))
        .with_state(app);
    surface(routes, Surface::Image, options)
}

/// The names in a path. What cannot be decoded names nothing.
pub(crate) struct Params(HashMap<String, String>);

impl Params {
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn image(&self) -> Result<ImageId, Fault> {
        let text = self.get("image");
        text.parse()
            .map_err(|_| Fault::not_found(format!("No image found with ID {text:.64}.")))
    }

    pub(crate) fn member(&self) -> Result<ProjectId, Fault> {
        self.get("member")
            .parse()
            .map_err(|_| Fault::not_found("The image has no such member."))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpFault> {
        let Path(params) = Path::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

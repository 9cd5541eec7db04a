//! Volume API v3 (Cinder's), at microversions 3.0 to 3.3.
//!
//! Volumes belong to the volume service; this surface parses, asks it over
//! the bus and renders. Every path exists with the project in it
//! (`/v3/{project}/volumes`) and without (`/v3/volumes`); a project in the
//! path must be that of the token. What later microversions have added is there
//! at each of them; they only decide how a filter is read.

mod limits;
mod messages;
mod quotas;
mod types;
mod versions;
mod volumes;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::extract::RawPathParams;
use axum::http::request::Parts;
use axum::routing::{get, post};
use serde_json::{Value, json};
use yakumo_contracts::volume::VolumesClient;
use yakumo_http::{Auth, BaseUrl, HttpFault, Microversion, MicroversionRange, microversions};
use yakumo_types::{Fault, ProjectId, RequestContext};

const RANGE: MicroversionRange = MicroversionRange {
    service: "volume",
    legacy_header: None,
    min: Microversion { major: 3, minor: 0 },
    max: Microversion { major: 3, minor: 3 },
};

/// What the surface needs.
#[derive(Clone)]
pub struct VolumeState {
    /// The volume service.
    pub volumes: VolumesClient,
}

/// All routes of the volume API.
pub fn router(state: VolumeState) -> Router {
    let resources = Router::new()
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/detail", get(volumes::list_detail))
        .route("/volumes/summary", get(volumes::summary))
        .route(
            "/volumes/{id}",
            get(volumes::show)
                .put(volumes::update)
                .delete(volumes::delete),
        )
        .route("/volumes/{id}/action", post(volumes::act))
        .route(
            "/volumes/{id}/metadata",
            get(volumes::metadata_show)
                .post(volumes::metadata_add)
                .put(volumes::metadata_replace),
        )
        .route(
            "/volumes/{id}/metadata/{key}",
            get(volumes::metadata_item_show)
                .put(volumes::metadata_item_put)
                .delete(volumes::metadata_item_delete),
        )
        .route("/messages", get(messages::list))
        .route("/messages/{id}", get(messages::show))
        .route("/types", get(types::list))
        .route("/types/{id}", get(types::show))
        .route("/limits", get(limits::show))
        .route("/extensions", get(limits::extensions))
        .route("/os-availability-zone", get(limits::availability_zones))
        .route("/os-services", get(limits::services))
        .route(
            "/os-quota-sets/{target}",
            get(quotas::show).put(quotas::update).delete(quotas::delete),
        )
        .route("/os-quota-sets/{target}/defaults", get(quotas::defaults));
    let versioned = Router::new()
        .route("/v3", get(versions::v3))
        .nest("/v3", resources.clone())
        .nest("/v3/{project_id}", resources)
        .with_state(state);
    microversions(versioned, RANGE).route("/", get(versions::all))
}

/// A resource's links, with the caller's project in them.
fn links(base: &BaseUrl, ctx: &RequestContext, collection: &str, id: &str) -> Value {
    let project = ctx.project_id.map(|id| id.simple()).unwrap_or_default();
    json!([
        { "rel": "self", "href": base.join(&format!("/v3/{project}/{collection}/{id}")) },
        { "rel": "bookmark", "href": base.join(&format!("/{project}/{collection}/{id}")) },
    ])
}

/// The caller, whose project is the one in the path, if the path has one.
pub(crate) struct Caller(pub RequestContext);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpFault> {
        let Auth(ctx) = Auth::from_request_parts(parts, state).await?;
        let path = RawPathParams::from_request_parts(parts, state)
            .await
            // What cannot be read names nothing.
            .map_err(|_| Fault::not_found("The resource could not be found."))?;
        if let Some((_, text)) = path.iter().find(|(name, _)| *name == "project_id") {
            let project: Option<ProjectId> = text.parse().ok();
            if project.is_none() || (project != ctx.project_id && !ctx.is_admin()) {
                return Err(Fault::invalid("Malformed request url").into());
            }
        }
        Ok(Self(ctx))
    }
}

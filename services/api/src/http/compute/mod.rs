//! Compute's API v2.1, at microversion 2.1 alone.
//!
//! Every path is also served below `/v2`, and with the project's id in it as
//! old clients write it (`/v2.1/{project}/servers`); that project must be the
//! token's.

mod extensions;
mod flavors;
mod hypervisors;
mod join;
mod key_pairs;
mod limits;
mod quota_sets;
mod servers;
mod services;
mod versions;
mod write;
mod zones;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::routing::{get, post, put};
use serde_json::Value;
use yakumo_http::{Auth, HttpFault, Microversion, MicroversionRange, microversions};
use yakumo_types::{Fault, ProjectId, RequestContext};

use crate::app::App;

const ONLY: Microversion = Microversion { major: 2, minor: 1 };

const RANGE: MicroversionRange = MicroversionRange {
    service: "compute",
    legacy_header: Some("x-openstack-nova-api-version"),
    min: ONLY,
    max: ONLY,
};

/// All routes of the compute API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let resources = resources();
    let versioned = Router::new()
        .route("/v2.1", get(versions::v21))
        .route("/v2", get(versions::v2))
        .nest("/v2.1", resources.clone())
        .nest("/v2.1/{project_id}", resources.clone())
        .nest("/v2", resources.clone())
        .nest("/v2/{project_id}", resources)
        .with_state(Arc::clone(&app));
    let own = Router::new()
        .route("/yakumo/v1/join", post(join::join))
        .with_state(app);
    microversions(versioned, RANGE)
        .route("/", get(versions::all))
        .merge(own)
}

fn resources() -> Router<Arc<App>> {
    Router::new()
        .merge(servers::routes())
        .route("/flavors", get(flavors::list).post(flavors::create))
        .route("/flavors/detail", get(flavors::list_detail))
        .route(
            "/flavors/{flavor}",
            get(flavors::show).delete(flavors::delete),
        )
        .route("/flavors/{flavor}/action", post(flavors::act))
        .route("/flavors/{flavor}/os-flavor-access", get(flavors::access))
        .route(
            "/flavors/{flavor}/os-extra_specs",
            get(flavors::extra_specs).post(flavors::extra_specs_add),
        )
        .route(
            "/flavors/{flavor}/os-extra_specs/{key}",
            get(flavors::extra_spec)
                .put(flavors::extra_spec_put)
                .delete(flavors::extra_spec_delete),
        )
        .route("/os-keypairs", get(key_pairs::list).post(key_pairs::create))
        .route(
            "/os-keypairs/{name}",
            get(key_pairs::show).delete(key_pairs::delete),
        )
        .route("/limits", get(limits::show))
        .route(
            "/os-quota-sets/{target}",
            get(quota_sets::show)
                .put(quota_sets::update)
                .delete(quota_sets::delete),
        )
        .route("/os-quota-sets/{target}/detail", get(quota_sets::detail))
        .route(
            "/os-quota-sets/{target}/defaults",
            get(quota_sets::defaults),
        )
        .route("/os-availability-zone", get(zones::list))
        .route("/os-availability-zone/detail", get(zones::list_detail))
        .route("/os-hypervisors", get(hypervisors::list))
        .route("/os-hypervisors/detail", get(hypervisors::list_detail))
        .route("/os-hypervisors/statistics", get(hypervisors::statistics))
        .route("/os-hypervisors/{id}", get(hypervisors::show))
        .route("/os-services", get(services::list))
        .route("/os-services/{id}", axum::routing::delete(services::delete))
        .route("/os-services/enable", put(services::enable))
        .route("/os-services/disable", put(services::disable))
        .route(
            "/os-services/disable-log-reason",
            put(services::disable_log_reason),
        )
        .route("/extensions", get(extensions::list))
        .route("/extensions/{alias}", get(extensions::show))
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

/// A whole number, written as one or as text.
fn integer(what: &str, value: &Value) -> Result<i64, Fault> {
    let wrong = || Fault::invalid(format!("{what} must be a whole number."));
    match value {
        Value::Number(number) => number.as_i64().ok_or_else(wrong),
        Value::String(text) => text.trim().parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// True or false, written as such or as text.
fn boolean(what: &str, value: &Value) -> Result<bool, Fault> {
    let text = match value {
        Value::Bool(known) => return Ok(*known),
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    match text.as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(Fault::invalid(format!("{what} must be true or false."))),
    }
}

/// The id of a reference, which may be an id or a link that ends in one.
fn last_segment(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

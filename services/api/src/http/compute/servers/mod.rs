//! `/servers` and everything below it.

mod action;
mod actions;
mod addresses;
mod create;
mod delete;
mod list;
mod metadata;
mod security_groups;
mod show;
mod update;
mod view;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use serde::Deserialize;
use yakumo_types::{Fault, ServerId};

use crate::app::App;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/servers", get(list::list).post(create::create))
        .route("/servers/detail", get(list::list_detail))
        .route(
            "/servers/{server}",
            get(show::show).put(update::update).delete(delete::delete),
        )
        .route("/servers/{server}/action", post(action::act))
        .route(
            "/servers/{server}/metadata",
            get(metadata::list)
                .post(metadata::merge)
                .put(metadata::replace),
        )
        .route(
            "/servers/{server}/metadata/{key}",
            get(metadata::show)
                .put(metadata::put)
                .delete(metadata::delete),
        )
        .route("/servers/{server}/ips", get(addresses::list))
        .route("/servers/{server}/ips/{label}", get(addresses::show))
        .route("/servers/{server}/os-interface", get(addresses::interfaces))
        .route(
            "/servers/{server}/os-security-groups",
            get(security_groups::list),
        )
        .route("/servers/{server}/os-instance-actions", get(actions::list))
        .route(
            "/servers/{server}/os-instance-actions/{request}",
            get(actions::show),
        )
        .merge(volumes::routes())
}

/// The server that a path names.
#[derive(Debug, Deserialize)]
pub(super) struct ServerPath {
    server: String,
}

impl ServerPath {
    /// 404 for what is no id: no server can have it.
    fn id(&self) -> Result<ServerId, Fault> {
        self.server.parse().map_err(|_| {
            Fault::not_found(format!("Instance {:.64} could not be found.", self.server))
        })
    }
}

//! `PUT /servers/{server}`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use yakumo_http::{BaseUrl, HttpResult, Path, StrictJson};
use yakumo_types::Fault;

use super::super::Caller;
use super::ServerPath;
use super::create::check_disk_config;
use super::show::document;
use crate::app::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    server: Update,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    name: Option<String>,
    #[serde(rename = "accessIPv4")]
    access_ip_v4: Option<String>,
    #[serde(rename = "accessIPv6")]
    access_ip_v6: Option<String>,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
}

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<ServerPath>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let id = path.id()?;
    for address in [&body.server.access_ip_v4, &body.server.access_ip_v6] {
        if address
            .as_deref()
            .is_some_and(|address| !address.is_empty())
        {
            return Err(Fault::invalid("Access addresses are not offered by this cloud.").into());
        }
    }
    check_disk_config(body.server.disk_config.as_deref())?;
    let row = match &body.server.name {
        Some(name) => app.server_rename(&ctx, id, name).await?,
        None => {
            ctx.require_member()?;
            app.server_of(&ctx, id).await?
        }
    };
    Ok(document(&app, &ctx, &base, row).await?)
}

//! `POST /servers`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yakumo_http::{BaseUrl, HttpResult, KeyedJson, accepted};
use yakumo_types::Fault;

use super::super::{Caller, boolean, integer, last_segment};
use crate::app::App;
use crate::app::create::{NewServer, WantedNetwork, WantedNetworks};

/// Security groups that one request may name.
const MAX_SECURITY_GROUPS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    server: Body,
    #[serde(rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints")]
    scheduler_hints: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    #[serde(rename = "imageRef")]
    image_ref: Option<String>,
    #[serde(rename = "flavorRef")]
    flavor_ref: Value,
    networks: Option<Vec<NetworkBody>>,
    key_name: Option<String>,
    user_data: Option<String>,
    security_groups: Option<Vec<GroupBody>>,
    config_drive: Option<Value>,
    metadata: Option<BTreeMap<String, String>>,
    min_count: Option<Value>,
    max_count: Option<Value>,
    availability_zone: Option<String>,
    #[serde(rename = "adminPass")]
    admin_pass: Option<String>,
    return_reservation_id: Option<Value>,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(rename = "accessIPv4")]
    access_ip_v4: Option<String>,
    #[serde(rename = "accessIPv6")]
    access_ip_v6: Option<String>,
    personality: Option<Vec<Value>>,
    block_device_mapping: Option<Vec<Value>>,
    block_device_mapping_v2: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkBody {
    uuid: Option<String>,
    port: Option<String>,
    fixed_ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupBody {
    name: String,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    ctx.require_member()?;
    if body
        .scheduler_hints
        .as_ref()
        .is_some_and(|hints| !hints.is_empty())
    {
        return Err(Fault::invalid("Scheduler hints are not offered by this cloud.").into());
    }
    let body = body.server;
    let wants_reservation = match &body.return_reservation_id {
        Some(value) => boolean("return_reservation_id", value)?,
        None => false,
    };
    let made = app.server_create(&ctx, wanted(body)?, key.get()).await?;
    if wants_reservation {
        return Ok(accepted(&json!({ "reservation_id": made.reservation_id })));
    }
    let Some(first) = made.servers.first() else {
        return Err(Fault::internal("No server was accepted.").into());
    };
    let location = format!("{base}/v2.1/servers/{}", first.id);
    let groups: Value = serde_json::from_str(&first.security_groups).unwrap_or_default();
    let mut document = json!({
        "id": first.id,
        "links": [
            { "rel": "self", "href": location },
            { "rel": "bookmark", "href": format!("{base}/servers/{}", first.id) },
        ],
        "OS-DCF:diskConfig": "MANUAL",
        "security_groups": groups,
    });
    if let (Some(object), Some(password)) = (document.as_object_mut(), made.admin_password) {
        object.insert("adminPass".into(), password.into());
    }
    let mut response = accepted(&json!({ "server": document }));
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn wanted(body: Body) -> Result<NewServer, Fault> {
    refuse_what_is_not_offered(&body)?;
    let count = |what: &str, value: &Option<Value>| {
        value
            .as_ref()
            .map(|value| {
                let number = integer(what, value)?;
                u32::try_from(number)
                    .ok()
                    .filter(|number| *number > 0)
                    .ok_or_else(|| Fault::invalid(format!("{what} must be 1 or more.")))
            })
            .transpose()
    };
    let min_count = count("min_count", &body.min_count)?;
    let max_count = count("max_count", &body.max_count)?;
    let least = min_count.unwrap_or(1);
    let flavor = match &body.flavor_ref {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Fault::invalid("flavorRef must be the id of a flavor.")),
    };
    let image_id = image(&body)?;
    let networks = match body.networks {
        None => WantedNetworks::Auto,
        Some(list) if list.is_empty() => WantedNetworks::Auto,
        Some(list) => WantedNetworks::These(
            list.into_iter()
                .map(|network| WantedNetwork {
                    network_id: network.uuid,
                    port_id: network.port,
                    fixed_ip: network.fixed_ip,
                })
                .collect(),
        ),
    };
    let security_groups = group_names(body.security_groups.unwrap_or_default())?;
    Ok(NewServer {
        name: body.name,
        image_id,
        flavor_id: last_segment(&flavor).to_owned(),
        networks,
        security_groups,
        key_name: body.key_name,
        user_data: body.user_data.filter(|data| !data.is_empty()),
        config_drive: match &body.config_drive {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) if text.is_empty() => false,
            Some(value) => boolean("config_drive", value)?,
        },
        metadata: body.metadata.unwrap_or_default(),
        availability_zone: body.availability_zone,
        admin_password: body.admin_pass,
        min_count: least,
        max_count: max_count.unwrap_or(least),
    })
}

/// Every name once, in the order that they came.
fn group_names(groups: Vec<GroupBody>) -> Result<Vec<String>, Fault> {
    if groups.len() > MAX_SECURITY_GROUPS {
        return Err(Fault::invalid(format!(
            "A server may be given {MAX_SECURITY_GROUPS} security groups."
        )));
    }
    let mut names: Vec<String> = Vec::new();
    for group in groups {
        if !names.contains(&group.name) {
            names.push(group.name);
        }
    }
    Ok(names)
}

fn refuse_what_is_not_offered(body: &Body) -> Result<(), Fault> {
    let none = |list: &Option<Vec<Value>>| list.as_ref().is_none_or(Vec::is_empty);
    if !none(&body.personality) {
        return Err(Fault::invalid(
            "Files cannot be put into servers here; use user_data.",
        ));
    }
    if !none(&body.block_device_mapping) {
        return Err(Fault::invalid(
            "Booting from volumes is not offered by this cloud.",
        ));
    }
    for address in [&body.access_ip_v4, &body.access_ip_v6] {
        if address
            .as_deref()
            .is_some_and(|address| !address.is_empty())
        {
            return Err(Fault::invalid(
                "Access addresses are not offered by this cloud.",
            ));
        }
    }
    check_disk_config(body.disk_config.as_deref())
}

/// Disks are never resized in the guest, whichever of the two is asked for.
pub(super) fn check_disk_config(wanted: Option<&str>) -> Result<(), Fault> {
    match wanted {
        None | Some("AUTO" | "MANUAL") => Ok(()),
        Some(_) => Err(Fault::invalid("OS-DCF:diskConfig must be AUTO or MANUAL.")),
    }
}

/// The image: by reference, or as the one block device that says the same in
/// other words.
fn image(body: &Body) -> Result<String, Fault> {
    let reference = body
        .image_ref
        .as_deref()
        .filter(|reference| !reference.is_empty())
        .map(|reference| last_segment(reference).to_owned());
    let devices = body.block_device_mapping_v2.as_deref().unwrap_or_default();
    let only_volumes =
        || Fault::invalid("Only a disk made from an image on the host can be booted from here.");
    match devices {
        [] => {}
        [device] => {
            let text = |name: &str| device.get(name).and_then(Value::as_str);
            let first = match device.get("boot_index") {
                Some(index) => integer("boot_index", index)? == 0,
                None => false,
            };
            if text("source_type") != Some("image")
                || !matches!(text("destination_type"), Some("local") | None)
                || !first
            {
                return Err(only_volumes());
            }
            let id = text("uuid").ok_or_else(|| Fault::invalid("The image's uuid is missing."))?;
            if reference
                .as_deref()
                .is_some_and(|reference| reference != id)
            {
                return Err(Fault::invalid(
                    "imageRef and the block device name different images.",
                ));
            }
            return Ok(id.to_owned());
        }
        [_, _, ..] => return Err(only_volumes()),
    }
    reference.ok_or_else(|| Fault::invalid("imageRef is needed: servers boot from images here."))
}

//! `/volumes`

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use yakumo_contracts::common::Page;
use yakumo_contracts::volume::{
    Attachment, CreateVolumeRequest, ListVolumesRequest, UpdateVolumeRequest, Volume, VolumeRequest,
};
use yakumo_http::{
    BaseUrl, HttpResult, KeyedJson, Microversion, Paging, Path, QueryPairs, SortDirection,
    StrictJson, accepted, empty, ok,
};
use yakumo_types::{Fault, RequestContext, Timestamp};

use super::{Caller, VolumeState, links};

const MAX_PAGE: u64 = 1000;

/// From here on the filter `bootable` is true or false, or refused.
const STRICT_BOOTABLE: Microversion = Microversion { major: 3, minor: 2 };

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    volume: NewVolume,
    #[serde(rename = "OS-SCH-HNT:scheduler_hints")]
    hints: Option<Map<String, Value>>,
}

/// Fields of other ways to make a volume are known, so that asking for one of
/// them is refused by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewVolume {
    size: Option<Value>,
    name: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    display_description: Option<String>,
    volume_type: Option<String>,
    availability_zone: Option<String>,
    #[serde(default)]
    metadata: Option<HashMap<String, String>>,
    snapshot_id: Option<String>,
    source_volid: Option<String>,
    source_replica: Option<String>,
    consistencygroup_id: Option<String>,
    #[serde(rename = "imageRef")]
    image_ref: Option<String>,
    image_id: Option<String>,
    backup_id: Option<String>,
    multiattach: Option<bool>,
    #[serde(rename = "user_id")]
    _user_id: Option<String>,
    #[serde(rename = "project_id")]
    _project_id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "attach_status")]
    _attach_status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    volume: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    display_description: Option<String>,
    metadata: Option<HashMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataBody {
    metadata: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataItemBody {
    meta: HashMap<String, String>,
}

/// GiB as a number or as digits in a text, as clients send both.
fn size(value: Option<&Value>) -> Result<u64, Fault> {
    let number = match value {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    number.filter(|size| *size > 0).ok_or_else(|| {
        Fault::invalid(
            "Invalid input for field/attribute size: a whole number of GiB, 1 or more, is wanted.",
        )
    })
}

fn attachment(it: &Attachment, admin: bool) -> Value {
    json!({
        "id": it.volume_id,
        "attachment_id": it.id,
        "volume_id": it.volume_id,
        "server_id": it.server_id,
        "device": it.device,
        "host_name": if admin { Value::from(it.host.as_str()) } else { Value::Null },
        "attached_at": (it.attached_at > 0).then(|| Timestamp::from_micros(it.attached_at).iso_micros()),
    })
}

fn render(it: &Volume, base: &BaseUrl, ctx: &RequestContext) -> Value {
    let admin = ctx.is_admin();
    let mut volume = json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "size": it.size,
        "status": it.status,
        "volume_type": it.volume_type,
        "availability_zone": it.availability_zone,
        "attachments": it.attachments.iter().filter(|it| it.status != "reserved").map(|it| attachment(it, admin)).collect::<Vec<_>>(),
        "links": links(base, ctx, "volumes", &it.id),
        "user_id": simple(&it.user_id),
        "bootable": it.bootable.to_string(),
        "encrypted": false,
        "multiattach": false,
        "metadata": it.metadata,
        "snapshot_id": null,
        "source_volid": null,
        "consistencygroup_id": null,
        "replication_status": null,
        "created_at": Timestamp::from_micros(it.created_at).iso_micros(),
        "updated_at": Timestamp::from_micros(it.updated_at).iso_micros(),
        "os-vol-tenant-attr:tenant_id": simple(&it.project_id),
    });
    if admin && let Value::Object(fields) = &mut volume {
        fields.insert("os-vol-host-attr:host".into(), json!(it.host));
        fields.insert("os-vol-mig-status-attr:migstat".into(), Value::Null);
        fields.insert("os-vol-mig-status-attr:name_id".into(), Value::Null);
        fields.insert("migration_status".into(), Value::Null);
    }
    volume
}

fn simple(id: &str) -> String {
    id.replace('-', "")
}

fn id_of(path: &HashMap<String, String>) -> String {
    path.get("id").cloned().unwrap_or_default()
}

/// What the filter `bootable` wants. Before 3.2 everything is true that is not
/// false.
fn bootable(query: &QueryPairs, version: Microversion) -> Result<Option<bool>, Fault> {
    if version >= STRICT_BOOTABLE {
        return query.flag("bootable");
    }
    let wanted = query.get("bootable");
    Ok(wanted.map(|text| !text.eq_ignore_ascii_case("false")))
}

async fn page(
    state: &VolumeState,
    ctx: &RequestContext,
    paging: &Paging,
    query: &QueryPairs,
    version: Microversion,
) -> Result<(Vec<Volume>, bool), Fault> {
    if paging.sort.len() > 1 {
        return Err(Fault::invalid("Volumes are sorted by one key."));
    }
    let (sort_key, direction) = paging.sort.first().cloned().unwrap_or_default();
    // No volume is bootable here.
    if bootable(query, version)? == Some(true) || paging.limit == Some(0) {
        return Ok((Vec::new(), false));
    }
    let request = ListVolumesRequest {
        page: Some(Page {
            limit: u32::try_from(paging.bounded(MAX_PAGE)).unwrap_or(1000),
            marker: paging.marker.clone().unwrap_or_default(),
        }),
        name: query
            .filled("name")
            .or(query.filled("display_name"))
            .unwrap_or("")
            .to_owned(),
        status: query.filled("status").unwrap_or("").to_owned(),
        all_projects: query.flag("all_tenants")?.unwrap_or(false) && ctx.is_admin(),
        project_id: query.filled("project_id").unwrap_or("").to_owned(),
        sort_key,
        sort_ascending: direction == Some(SortDirection::Ascending),
        ids: query.filled("id").map(str::to_owned).into_iter().collect(),
    };
    let reply = state.volumes.list_volumes(ctx, request).await?;
    Ok((reply.volumes, reply.more))
}

struct Listing {
    volumes: Vec<Value>,
    next: Option<String>,
}

impl Listing {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("volumes".into(), Value::Array(self.volumes));
        if let Some(next) = self.next {
            body.insert(
                "volumes_links".into(),
                json!([{ "rel": "next", "href": next }]),
            );
        }
        ok(&Value::Object(body))
    }
}

/// `GET /volumes`
pub async fn list(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Extension(version): Extension<Microversion>,
    paging: Paging,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let (volumes, more) = page(&state, &ctx, &paging, &query, version).await?;
    let brief = |it: &Volume| {
        let links = links(&base, &ctx, "volumes", &it.id);
        json!({ "id": it.id, "name": it.name, "links": links })
    };
    Ok(listing(&volumes, more, &base, "/v3/volumes", &query, brief).into_response())
}

/// `GET /volumes/detail`
pub async fn list_detail(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Extension(version): Extension<Microversion>,
    paging: Paging,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let (volumes, more) = page(&state, &ctx, &paging, &query, version).await?;
    let whole = |it: &Volume| render(it, &base, &ctx);
    Ok(listing(&volumes, more, &base, "/v3/volumes/detail", &query, whole).into_response())
}

fn listing(
    volumes: &[Volume],
    more: bool,
    base: &BaseUrl,
    path: &str,
    query: &QueryPairs,
    render: impl Fn(&Volume) -> Value,
) -> Listing {
    let next = volumes
        .last()
        .filter(|_| more)
        .map(|last| Paging::next_link(base, path, query, &last.id));
    Listing {
        volumes: volumes.iter().map(render).collect(),
        next,
    }
}

/// `GET /volumes/summary`
pub async fn summary(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    let quota = state.volumes.get_quota(&ctx, Default::default()).await?;
    Ok(ok(
        &json!({ "volume-summary": { "total_count": quota.volumes_used, "total_size": quota.gigabytes_used } }),
    ))
}

/// `POST /volumes`: 202 with the volume in `creating`.
pub async fn create(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    base: BaseUrl,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    if body.hints.is_some_and(|hints| !hints.is_empty()) {
        return Err(Fault::invalid("Scheduler hints are not offered by this cloud.").into());
    }
    let new = body.volume;
    for (given, what) in [
        (new.snapshot_id.is_some(), "snapshots"),
        (
            new.source_volid.is_some() || new.source_replica.is_some(),
            "other volumes",
        ),
        (new.image_ref.is_some() || new.image_id.is_some(), "images"),
        (new.backup_id.is_some(), "backups"),
        (new.consistencygroup_id.is_some(), "consistency groups"),
    ] {
        if given {
            return Err(Fault::invalid(format!("Volumes cannot be made from {what} here.")).into());
        }
    }
    if new.multiattach == Some(true) {
        return Err(
            Fault::invalid("Volumes with several attachments are not offered here.").into(),
        );
    }
    let request = CreateVolumeRequest {
        size: size(new.size.as_ref())?,
        name: new.name.or(new.display_name).unwrap_or_default(),
        description: new
            .description
            .or(new.display_description)
            .unwrap_or_default(),
        volume_type: new.volume_type.unwrap_or_default(),
        availability_zone: new.availability_zone.unwrap_or_default(),
        metadata: new.metadata.unwrap_or_default(),
        idempotency_key: Some(key.or_own(&ctx).into()),
    };
    let volume = state.volumes.create_volume(&ctx, request).await?;
    Ok(accepted(&json!({ "volume": render(&volume, &base, &ctx) })))
}

/// `GET /volumes/{id}`
pub async fn show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let volume = state
        .volumes
        .show_volume(&ctx, VolumeRequest { id: id_of(&path) })
        .await?;
    Ok(ok(&json!({ "volume": render(&volume, &base, &ctx) })))
}

/// `PUT /volumes/{id}`
pub async fn update(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.volume;
    let request = UpdateVolumeRequest {
        id: id_of(&path),
        name: changes.name.or(changes.display_name),
        description: changes.description.or(changes.display_description),
        replace_metadata: changes.metadata.is_some(),
        set_metadata: changes.metadata.unwrap_or_default(),
        remove_metadata: Vec::new(),
    };
    let volume = state.volumes.update_volume(&ctx, request).await?;
    Ok(ok(&json!({ "volume": render(&volume, &base, &ctx) })))
}

/// `DELETE /volumes/{id}`: 202.
pub async fn delete(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    state
        .volumes
        .delete_volume(&ctx, VolumeRequest { id: id_of(&path) })
        .await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `POST /volumes/{id}/action`: the actions of the API are known by name, and
/// those that are not offered say so.
pub async fn act(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<Map<String, Value>>,
) -> HttpResult<Response> {
    state
        .volumes
        .show_volume(&ctx, VolumeRequest { id: id_of(&path) })
        .await?;
    let mut names = body.keys();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(Fault::invalid("The body must hold exactly one action.").into());
    };
    if name.starts_with("os-") || name == "revert" {
        return Err(
            Fault::not_implemented(format!("The action {name} is not offered here.")).into(),
        );
    }
    Err(Fault::invalid(format!(
        "There is no such action: {}.",
        name.chars().take(64).collect::<String>()
    ))
    .into())
}

/// `GET /volumes/{id}/metadata`
pub async fn metadata_show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let volume = state
        .volumes
        .show_volume(&ctx, VolumeRequest { id: id_of(&path) })
        .await?;
    Ok(ok(&json!({ "metadata": volume.metadata })))
}

async fn change_metadata(
    state: &VolumeState,
    ctx: &RequestContext,
    request: UpdateVolumeRequest,
) -> HttpResult<Response> {
    let volume = state.volumes.update_volume(ctx, request).await?;
    Ok(ok(&json!({ "metadata": volume.metadata })))
}

/// `POST /volumes/{id}/metadata`: adds.
pub async fn metadata_add(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<MetadataBody>,
) -> HttpResult<Response> {
    let request = UpdateVolumeRequest {
        id: id_of(&path),
        set_metadata: body.metadata,
        ..Default::default()
    };
    change_metadata(&state, &ctx, request).await
}

/// `PUT /volumes/{id}/metadata`: replaces.
pub async fn metadata_replace(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<MetadataBody>,
) -> HttpResult<Response> {
    let request = UpdateVolumeRequest {
        id: id_of(&path),
        set_metadata: body.metadata,
        replace_metadata: true,
        ..Default::default()
    };
    change_metadata(&state, &ctx, request).await
}

fn key_of(path: &HashMap<String, String>) -> String {
    path.get("key").cloned().unwrap_or_default()
}

/// `GET /volumes/{id}/metadata/{key}`
pub async fn metadata_item_show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let volume = state
        .volumes
        .show_volume(&ctx, VolumeRequest { id: id_of(&path) })
        .await?;
    let key = key_of(&path);
    let value = volume
        .metadata
        .get(&key)
        .ok_or_else(|| Fault::not_found("Metadata item was not found."))?;
    Ok(ok(&json!({ "meta": { key: value } })))
}

/// `PUT /volumes/{id}/metadata/{key}`
pub async fn metadata_item_put(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
    StrictJson(body): StrictJson<MetadataItemBody>,
) -> HttpResult<Response> {
    let key = key_of(&path);
    if body.meta.len() != 1 || !body.meta.contains_key(&key) {
        return Err(Fault::invalid("The body must hold the item that the path names.").into());
    }
    let request = UpdateVolumeRequest {
        id: id_of(&path),
        set_metadata: body.meta.clone(),
        ..Default::default()
    };
    state.volumes.update_volume(&ctx, request).await?;
    Ok(ok(&json!({ "meta": body.meta })))
}

/// `DELETE /volumes/{id}/metadata/{key}`
pub async fn metadata_item_delete(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let request = UpdateVolumeRequest {
        id: id_of(&path),
        remove_metadata: vec![key_of(&path)],
        ..Default::default()
    };
    state.volumes.update_volume(&ctx, request).await?;
    Ok(empty(StatusCode::OK))
}

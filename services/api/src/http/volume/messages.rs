//! `/messages`: why volumes are in error.
//!
//! A volume that is in error has one message, and it is gone when the volume is
//! in error no more. It has the volume's own id: nothing but the volume stands
//! behind it, so that the id stays the same for as long as the message is there,
//! and finds it in one question. A volume that fails in another way afterwards
//! says so under the same id. Its time is that of the volume's last change.
//!
//! Which request led to the error is not known any more, and no time ends a
//! message: both are null. There is no way to remove one, since it would take
//! the reason from the volume.

use std::cmp::Ordering;
use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_contracts::common::Page;
use yakumo_contracts::volume::{ListVolumesRequest, Volume, VolumeRequest};
use yakumo_http::{BaseUrl, HttpResult, Paging, Path, QueryPairs, SortDirection, ok};
use yakumo_types::{Fault, FaultCode, ProjectId, RequestContext, Timestamp};

use super::{Caller, VolumeState, links};

const MAX_PAGE: u64 = 1000;

/// The states of a volume that has a message.
const FAILED: [&str; 2] = ["error", "error_deleting"];

const LEVEL: &str = "ERROR";
const RESOURCE: &str = "VOLUME";

/// The API numbers what was being done, which is not known here; the state
/// that the volume fell into is.
fn event(status: &str) -> String {
    format!("VOLUME_{RESOURCE}_{}", status.to_ascii_uppercase())
}

fn render(it: &Volume, base: &BaseUrl, ctx: &RequestContext) -> Value {
    let why = match it.fault.as_str() {
        "" => "An unknown error occurred.",
        fault => fault,
    };
    json!({
        "id": it.id,
        "event_id": event(&it.status),
        "message_level": LEVEL,
        "resource_type": RESOURCE,
        "resource_uuid": it.id,
        "user_message": why,
        "request_id": null,
        "created_at": Timestamp::from_micros(it.updated_at).iso_micros(),
        "guaranteed_until": null,
        "links": links(base, ctx, "messages", &it.id),
    })
}

/// The order of a listing: by when the volumes were made, or by id.
struct Order {
    by_id: bool,
    ascending: bool,
}

impl Order {
    fn of(paging: &Paging) -> Result<Self, Fault> {
        match paging.sort.as_slice() {
            [] => Ok(Self {
                by_id: false,
                ascending: false,
            }),
            [(key, direction)] if key == "id" => Ok(Self {
                by_id: true,
                ascending: *direction == Some(SortDirection::Ascending),
            }),
            _ => Err(Fault::invalid("Messages can be sorted by id alone.")),
        }
    }

    fn key(&self) -> String {
        let key = if self.by_id { "id" } else { "created_at" };
        key.to_owned()
    }

    fn compare(&self, one: &Volume, other: &Volume) -> Ordering {
        let by_time = if self.by_id {
            Ordering::Equal
        } else {
            one.created_at.cmp(&other.created_at)
        };
        let order = by_time.then_with(|| one.id.cmp(&other.id));
        if self.ascending {
            order
        } else {
            order.reverse()
        }
    }
}

/// Whether any message that the caller may see can be as the filters want it.
fn is_possible(ctx: &RequestContext, query: &QueryPairs) -> bool {
    let is_own = |text: &str| ctx.is_admin() || text.parse::<ProjectId>().ok() == ctx.project_id;
    query.filled("project_id").is_none_or(is_own)
        && query
            .filled("message_level")
            .is_none_or(|level| level == LEVEL)
        && query
            .filled("resource_type")
            .is_none_or(|resource| resource == RESOURCE)
        && query.filled("request_id").is_none()
}

/// One page of the volumes that have messages, and whether more follow. The
/// volume service lists volumes of one state: of each there is a list.
async fn page(
    state: &VolumeState,
    ctx: &RequestContext,
    paging: &Paging,
    query: &QueryPairs,
) -> Result<(Vec<Volume>, bool), Fault> {
    if !ctx.is_admin() {
        ctx.require_reader()?;
    }
    let order = Order::of(paging)?;
    let limit = usize::try_from(paging.bounded(MAX_PAGE)).unwrap_or(usize::MAX);
    if limit == 0 || !is_possible(ctx, query) {
        return Ok((Vec::new(), false));
    }
    let mut found: Vec<Volume> = Vec::new();
    let mut ends: Vec<String> = Vec::new();
    for status in FAILED {
        let wanted = query.filled("event_id");
        if wanted.is_some_and(|wanted| wanted != event(status)) {
            continue;
        }
        let resource = query.filled("resource_uuid");
        let request = ListVolumesRequest {
            page: Some(Page {
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
                marker: paging.marker.clone().unwrap_or_default(),
            }),
            status: status.to_owned(),
            all_projects: ctx.is_admin(),
            project_id: query.filled("project_id").unwrap_or("").to_owned(),
            sort_key: order.key(),
            sort_ascending: order.ascending,
            ids: resource.map(str::to_owned).into_iter().collect(),
            ..ListVolumesRequest::default()
        };
        let reply = state.volumes.list_volumes(ctx, request).await?;
        if reply.more {
            ends.extend(reply.volumes.last().map(|last| last.id.clone()));
        }
        found.extend(reply.volumes);
    }
    found.sort_by(|one, other| order.compare(one, other));
    // One that went from one state to the other meanwhile is in both lists.
    found.dedup_by(|one, other| one.id == other.id);
    // A list that goes on may have more of what comes behind its end.
    let known = found
        .iter()
        .position(|it| ends.contains(&it.id))
        .map_or(found.len(), |at| at + 1)
        .min(limit);
    let more = !ends.is_empty() || known < found.len();
    found.truncate(known);
    Ok((found, more))
}

/// `GET /messages`: the project's, or everybody's for administrators.
pub async fn list(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    paging: Paging,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let (volumes, more) = page(&state, &ctx, &paging, &query).await?;
    let messages: Vec<_> = volumes.iter().map(|it| render(it, &base, &ctx)).collect();
    let mut body = json!({ "messages": messages });
    if let (true, Some(last), Value::Object(fields)) = (more, volumes.last(), &mut body) {
        let next = Paging::next_link(&base, "/v3/messages", &query, &last.id);
        fields.insert(
            "messages_links".into(),
            json!([{ "rel": "next", "href": next }]),
        );
    }
    Ok(ok(&body))
}

/// `GET /messages/{id}`
pub async fn show(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<HashMap<String, String>>,
) -> HttpResult<Response> {
    let id = path.get("id").cloned().unwrap_or_default();
    let none = || Fault::not_found(format!("Message {id} could not be found."));
    let volume = state
        .volumes
        .show_volume(&ctx, VolumeRequest { id: id.clone() })
        .await
        .map_err(|fault| match fault.code {
            FaultCode::NotFound => none(),
            _ => fault,
        })?;
    if !FAILED.contains(&volume.status.as_str()) {
        return Err(none().into());
    }
    let message = render(&volume, &base, &ctx);
    // The API calls it `message`; the unmodified command line client looks for
    // it under `messages`.
    Ok(ok(&json!({ "message": message, "messages": message })))
}

//! `GET /servers` and `GET /servers/detail`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use yakumo_http::{BaseUrl, HttpResult, Paging, QueryPairs, SortDirection};
use yakumo_types::server_state::states_of_status;
use yakumo_types::{Fault, ProjectId, RequestContext, Timestamp};

use super::super::write::Json;
use super::super::{Caller, last_segment};
use super::view::Viewer;
use crate::app::App;
use crate::app::servers::{Whose, user_filter};
use crate::store::likeness::Likeness;
use crate::store::servers::{Direction, Life, ServerFilter, ServerPage, SortKey};

/// How often `status` may be given; there are fewer statuses.
const MAX_STATUSES: usize = 32;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    query: QueryPairs,
    paging: Paging,
) -> HttpResult<Response> {
    let wanted = wanted(&app, &ctx, &query, &paging).await?;
    let mut rows = app
        .server_list_named(&ctx, wanted.whose, &wanted.filter, &wanted.page)
        .await?;
    let more = wanted.cut(&mut rows);
    let viewer = Viewer::new(&base.0, ctx.is_admin());
    let mut json = Json::with_capacity(64 + rows.len() * 320);
    json.raw("{\"servers\":[");
    for (number, row) in rows.iter().enumerate() {
        if number > 0 {
            json.raw(",");
        }
        viewer.summary(&mut json, row);
    }
    let next = rows.last().filter(|_| more).map(|row| row.id.as_str());
    Ok(finish(json, &base, "/v2.1/servers", &query, next))
}

pub(super) async fn list_detail(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    query: QueryPairs,
    paging: Paging,
) -> HttpResult<Response> {
    let wanted = wanted(&app, &ctx, &query, &paging).await?;
    let mut rows = app
        .server_list(&ctx, wanted.whose, &wanted.filter, &wanted.page)
        .await?;
    let more = wanted.cut(&mut rows);
    let ids = rows.iter().map(|row| row.id.clone()).collect();
    let volumes = app.volumes_of(ids).await?;
    let mut viewer = Viewer::new(&base.0, ctx.is_admin());
    let mut json = Json::with_capacity(64 + rows.len() * 2048);
    json.raw("{\"servers\":[");
    for (number, row) in rows.iter().enumerate() {
        if number > 0 {
            json.raw(",");
        }
        let attached = volumes.get(&row.id).map_or(&[][..], Vec::as_slice);
        viewer.detail(&mut json, row, attached);
    }
    let next = rows.last().filter(|_| more).map(|row| row.id.as_str());
    Ok(finish(json, &base, "/v2.1/servers/detail", &query, next))
}

/// The end of a page; `next` is the last server of it, if there are more.
fn finish(
    mut json: Json,
    base: &BaseUrl,
    path: &str,
    query: &QueryPairs,
    next: Option<&str>,
) -> Response {
    json.raw("]");
    if let Some(last) = next {
        json.raw(",\"servers_links\":[{\"rel\":\"next\",\"href\":")
            .text(&Paging::next_link(base, path, query, last))
            .raw("}]");
    }
    json.raw("}");
    json.answer(StatusCode::OK)
}

/// What a listing was asked for.
struct Wanted {
    whose: Whose,
    filter: ServerFilter,
    /// One row more than wanted, to know whether there is a next page.
    page: ServerPage,
    limit: u64,
}

impl Wanted {
    /// Takes the row too many away; whether there was one, and a next page.
    fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let more = rows.len() as u64 > self.limit;
        rows.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        more && self.limit > 0
    }
}

async fn wanted(
    app: &App,
    ctx: &RequestContext,
    query: &QueryPairs,
    paging: &Paging,
) -> Result<Wanted, Fault> {
    ctx.require(yakumo_types::Role::Reader)?;
    let filter = filter(ctx, query)?;
    let limit = paging.bounded(u64::from(app.config.max_page));
    let after = match &paging.marker {
        Some(marker) => Some(app.server_marker(ctx, marker).await?),
        None => None,
    };
    Ok(Wanted {
        page: ServerPage {
            sort: sort(paging)?,
            after,
            limit: limit.saturating_add(1),
        },
        whose: whose(query)?,
        filter,
        limit,
    })
}

fn whose(query: &QueryPairs) -> Result<Whose, Fault> {
    if query.flag("all_tenants")? != Some(true) {
        return Ok(Whose::Own);
    }
    match query
        .filled("project_id")
        .or_else(|| query.filled("tenant_id"))
    {
        None => Ok(Whose::Everybodys),
        Some(text) => text
            .parse::<ProjectId>()
            .map(Whose::Project)
            .map_err(|_| Fault::invalid("project_id must be the id of a project.")),
    }
}

fn sort(paging: &Paging) -> Result<Vec<(SortKey, Direction)>, Fault> {
    if paging.sort.is_empty() {
        return Ok(ServerPage::default().sort);
    }
    let mut all: Vec<(SortKey, Direction)> = Vec::new();
    for (key, direction) in &paging.sort {
        let key = sort_key(key)?;
        let direction = match direction {
            Some(SortDirection::Ascending) => Direction::Ascending,
            Some(SortDirection::Descending) | None => Direction::Descending,
        };
        // Once sorted by, a key decides nothing any more.
        if all.iter().all(|(known, _)| *known != key) {
            all.push((key, direction));
        }
    }
    Ok(all)
}

fn sort_key(name: &str) -> Result<SortKey, Fault> {
    Ok(match name {
        "created_at" => SortKey::CreatedAt,
        "updated_at" => SortKey::UpdatedAt,
        "display_name" => SortKey::Name,
        "uuid" => SortKey::Id,
        "vm_state" => SortKey::VmState,
        "task_state" => SortKey::TaskState,
        "power_state" => SortKey::PowerState,
        "host" | "node" => SortKey::Host,
        "image_ref" => SortKey::ImageId,
        "instance_type_id" => SortKey::FlavorId,
        "key_name" => SortKey::KeyName,
        "project_id" => SortKey::ProjectId,
        "user_id" => SortKey::UserId,
        "availability_zone" => SortKey::AvailabilityZone,
        "launched_at" => SortKey::LaunchedAt,
        other => {
            return Err(Fault::invalid(format!(
                "Servers cannot be sorted by {other:.64}."
            )));
        }
    })
}

fn time(query: &QueryPairs, name: &str) -> Result<Option<Timestamp>, Fault> {
    query
        .filled(name)
        .map(|text| {
            Timestamp::parse(text)
                .ok_or_else(|| Fault::invalid(format!("Invalid {name} value; it must be a time.")))
        })
        .transpose()
}

/// Reads the filters. Those that only administrators may use are ignored for
/// others, as the API has always done, and unknown ones too.
fn filter(ctx: &RequestContext, query: &QueryPairs) -> Result<ServerFilter, Fault> {
    let text = |name: &str| query.filled(name).map(ToOwned::to_owned);
    let likeness = |name: &str| {
        query
            .filled(name)
            .map(|text| Likeness::from_regex(name, text))
            .transpose()
    };
    let mut filter = ServerFilter {
        name: likeness("name")?,
        ip: likeness("ip")?,
        flavor_id: text("flavor").map(|flavor| last_segment(&flavor).to_owned()),
        image_id: text("image").map(|image| {
            // Rows write ids in one way; what is no id matches nothing.
            let id = last_segment(&image);
            id.parse::<yakumo_types::ImageId>()
                .map_or_else(|_| id.to_owned(), |id| id.to_string())
        }),
        reservation_id: text("reservation_id"),
        key_name: text("key_name"),
        availability_zone: text("availability_zone"),
        changes_since: time(query, "changes-since")?,
        ids: text("uuid").map(|id| vec![id]),
        ..ServerFilter::default()
    };
    if let Some(power) = query.filled("power_state") {
        filter.power_state = Some(
            power
                .parse()
                .map_err(|_| Fault::invalid("power_state must be a number."))?,
        );
    }
    if let Some(user) = query.filled("user_id") {
        filter.user_id =
            Some(user_filter(user).map_or_else(|| user.to_owned(), |id| id.to_string()));
    }
    if filter.changes_since.is_some() {
        // Whoever follows changes must hear of deletions.
        filter.life = Life::Either;
    }
    if ctx.is_admin() {
        filter.host = text("host").or_else(|| text("node"));
        filter.created_at = time(query, "created_at")?;
        filter.locked = query.flag("locked")?;
        match query.flag("deleted")? {
            Some(true) => filter.life = Life::Deleted,
            Some(false) => filter.life = Life::Living,
            None => {}
        }
    }
    states(ctx, query, &mut filter)?;
    Ok(filter)
}

fn states(
    ctx: &RequestContext,
    query: &QueryPairs,
    filter: &mut ServerFilter,
) -> Result<(), Fault> {
    let mut wanted = Vec::new();
    let mut asked = false;
    for (number, status) in query
        .all("status")
        .filter(|status| !status.is_empty())
        .enumerate()
    {
        if number >= MAX_STATUSES {
            return Err(Fault::invalid(format!(
                "status may be given {MAX_STATUSES} times."
            )));
        }
        asked = true;
        for state in states_of_status(status) {
            // Each state is one more condition of the query.
            if !wanted.contains(&state) {
                wanted.push(state);
            }
        }
    }
    if let Some(vm) = query.filled("vm_state") {
        let fits = |state: &yakumo_types::server_state::ServerState| state.vm.as_str() == vm;
        if asked {
            wanted.retain(fits);
        } else {
            wanted = every_state().into_iter().filter(fits).collect();
        }
        asked = true;
    }
    if let Some(task) = query.filled("task_state") {
        let fits = |state: &yakumo_types::server_state::ServerState| {
            state.task.is_some_and(|known| known.as_str() == task)
        };
        if asked {
            wanted.retain(fits);
        } else {
            wanted = every_state().into_iter().filter(fits).collect();
        }
        asked = true;
    }
    if !asked {
        return Ok(());
    }
    let names_deleted = query
        .all("status")
        .chain(query.all("vm_state"))
        .any(|word| word.eq_ignore_ascii_case("deleted"));
    if names_deleted {
        if !ctx.is_admin() && filter.changes_since.is_none() {
            return Err(Fault::forbidden(
                "Only administrators can list deleted servers.",
            ));
        }
        filter.life = Life::Either;
    }
    filter.states = Some(wanted);
    Ok(())
}

fn every_state() -> Vec<yakumo_types::server_state::ServerState> {
    [
        "BUILD",
        "ACTIVE",
        "SHUTOFF",
        "PAUSED",
        "REBOOT",
        "HARD_REBOOT",
        "ERROR",
        "DELETED",
    ]
    .into_iter()
    .flat_map(states_of_status)
    .collect()
}

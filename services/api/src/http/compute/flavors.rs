//! `/flavors`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yakumo_http::{
    BaseUrl, HttpResult, KeyedJson, Paging, Path, QueryPairs, SortDirection, StrictJson, empty, ok,
};
use yakumo_types::{Fault, ProjectId, RequestContext};

use super::{Caller, boolean, integer};
use crate::app::App;
use crate::app::flavors::{AccessChange, NewFlavor};
use crate::app::texts;
use crate::store::flavors::{Flavor, FlavorPage, FlavorSort};
use crate::store::servers::Direction;

#[derive(Deserialize)]
pub(super) struct FlavorPath {
    flavor: String,
}

#[derive(Deserialize)]
pub(super) struct SpecPath {
    flavor: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    flavor: NewFlavorBody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFlavorBody {
    name: String,
    id: Option<Value>,
    ram: Value,
    vcpus: Value,
    disk: Value,
    #[serde(rename = "OS-FLV-EXT-DATA:ephemeral")]
    ephemeral: Option<Value>,
    swap: Option<Value>,
    rxtx_factor: Option<Value>,
    #[serde(rename = "os-flavor-access:is_public")]
    is_public: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecsBody {
    extra_specs: BTreeMap<String, Value>,
}

fn links(base: &BaseUrl, id: &str) -> Value {
    json!([
        { "rel": "self", "href": format!("{base}/v2.1/flavors/{id}") },
        { "rel": "bookmark", "href": format!("{base}/flavors/{id}") },
    ])
}

fn detail(base: &BaseUrl, row: &Flavor) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "ram": row.memory_mib,
        "vcpus": row.vcpus,
        "disk": row.disk_gib,
        "OS-FLV-EXT-DATA:ephemeral": row.ephemeral_gib,
        "OS-FLV-DISABLED:disabled": false,
        "swap": if row.swap_mib == 0 { json!("") } else { json!(row.swap_mib) },
        "rxtx_factor": row.rxtx_factor,
        "os-flavor-access:is_public": row.is_public,
        "links": links(base, &row.id),
    })
}

async fn page(
    app: &App,
    ctx: &RequestContext,
    query: &QueryPairs,
    paging: &Paging,
) -> Result<(Vec<Flavor>, bool), Fault> {
    let is_public = match query.filled("is_public") {
        None => Some(true),
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        Some(_) => query.flag("is_public")?,
    };
    let least = |name: &str| -> Result<Option<i64>, Fault> {
        query
            .filled(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Fault::invalid(format!("Invalid {name} filter")))
            })
            .transpose()
    };
    let (sort, direction) = match paging.sort.first() {
        None => (FlavorSort::Id, SortDirection::Ascending),
        Some((key, direction)) => (
            match key.as_str() {
                "flavorid" | "id" => FlavorSort::Id,
                "name" => FlavorSort::Name,
                "memory_mb" => FlavorSort::Memory,
                "vcpus" => FlavorSort::Vcpus,
                "root_gb" => FlavorSort::Disk,
                "created_at" => FlavorSort::CreatedAt,
                _ => return Err(Fault::invalid("Flavors cannot be sorted by this key.")),
            },
            direction.unwrap_or(SortDirection::Ascending),
        ),
    };
    let after = match &paging.marker {
        None => None,
        Some(marker) => Some(
            app.flavor_show(ctx, marker)
                .await
                .map_err(|_| Fault::invalid(format!("marker [{marker:.255}] not found")))?,
        ),
    };
    let limit = paging.bounded(u64::from(app.config.max_page));
    let wanted = FlavorPage {
        sort,
        direction: match direction {
            SortDirection::Ascending => Direction::Ascending,
            SortDirection::Descending => Direction::Descending,
        },
        after,
        limit: limit.saturating_add(1),
        min_memory_mib: least("minRam")?,
        min_disk_gib: least("minDisk")?,
    };
    let mut rows = app.flavor_list(ctx, is_public, &wanted).await?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((rows, more))
}

fn listing(
    base: &BaseUrl,
    path: &str,
    query: &QueryPairs,
    rows: &[Flavor],
    more: bool,
    render: impl Fn(&Flavor) -> Value,
) -> Response {
    let mut document = Map::new();
    document.insert("flavors".into(), rows.iter().map(render).collect());
    if let (true, Some(last)) = (more, rows.last()) {
        let href = Paging::next_link(base, path, query, &last.id);
        document.insert(
            "flavors_links".into(),
            json!([{ "rel": "next", "href": href }]),
        );
    }
    ok(&document)
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    query: QueryPairs,
    paging: Paging,
) -> HttpResult<Response> {
    let (rows, more) = page(&app, &ctx, &query, &paging).await?;
    Ok(listing(
        &base,
        "/v2.1/flavors",
        &query,
        &rows,
        more,
        |row| json!({ "id": row.id, "name": row.name, "links": links(&base, &row.id) }),
    ))
}

pub(super) async fn list_detail(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    query: QueryPairs,
    paging: Paging,
) -> HttpResult<Response> {
    let (rows, more) = page(&app, &ctx, &query, &paging).await?;
    Ok(listing(
        &base,
        "/v2.1/flavors/detail",
        &query,
        &rows,
        more,
        |row| detail(&base, row),
    ))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    Path(path): Path<FlavorPath>,
) -> HttpResult<Response> {
    let row = app.flavor_show(&ctx, &path.flavor).await?;
    Ok(ok(&json!({ "flavor": detail(&base, &row) })))
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    base: BaseUrl,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    let body = body.flavor;
    let number = |what: &str, value: &Option<Value>| match value {
        None | Some(Value::Null) => Ok(0),
        Some(value) => integer(what, value),
    };
    let id = match body.id {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(_) => return Err(Fault::invalid("A flavor's id must be text.").into()),
    };
    let rxtx_factor = match &body.rxtx_factor {
        None => 1.0,
        Some(Value::Number(factor)) => factor.as_f64().unwrap_or(0.0),
        Some(Value::String(factor)) => factor.parse().unwrap_or(0.0),
        Some(_) => 0.0,
    };
    let new = NewFlavor {
        name: body.name,
        id,
        memory_mib: integer("ram", &body.ram)?,
        vcpus: integer("vcpus", &body.vcpus)?,
        disk_gib: integer("disk", &body.disk)?,
        ephemeral_gib: number("OS-FLV-EXT-DATA:ephemeral", &body.ephemeral)?,
        swap_mib: match &body.swap {
            Some(Value::String(text)) if text.is_empty() => 0,
            value => number("swap", value)?,
        },
        rxtx_factor,
        is_public: match &body.is_public {
            None => true,
            Some(value) => boolean("os-flavor-access:is_public", value)?,
        },
    };
    let row = app.flavor_create(&ctx, new, key.get()).await?;
    Ok(ok(&json!({ "flavor": detail(&base, &row) })))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<FlavorPath>,
) -> HttpResult<Response> {
    app.flavor_delete(&ctx, &path.flavor).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

fn access_list(flavor: &str, projects: &[String]) -> Response {
    let all: Vec<_> = projects
        .iter()
        .map(|project| json!({ "flavor_id": flavor, "tenant_id": simple(project) }))
        .collect();
    ok(&json!({ "flavor_access": all }))
}

/// A project as tokens and catalogs write it.
fn simple(project: &str) -> String {
    project
        .parse::<ProjectId>()
        .map_or_else(|_| project.to_owned(), |id| id.simple())
}

pub(super) async fn access(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<FlavorPath>,
) -> HttpResult<Response> {
    ctx.require_admin()?;
    let projects = app.flavor_access_list(&ctx, &path.flavor).await?;
    Ok(access_list(&path.flavor, &projects))
}

pub(super) async fn act(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<FlavorPath>,
    StrictJson(body): StrictJson<Map<String, Value>>,
) -> HttpResult<Response> {
    let mut entries = body.into_iter();
    let (Some((name, argument)), None) = (entries.next(), entries.next()) else {
        return Err(Fault::invalid("The body must name one action.").into());
    };
    let change = match name.as_str() {
        "addTenantAccess" => AccessChange::Give,
        "removeTenantAccess" => AccessChange::Take,
        _ => return Err(Fault::invalid(format!("There is no such action {name:.64}")).into()),
    };
    let project = argument
        .get("tenant")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Fault::invalid("tenant must be the id of a project."))?;
    let projects = app
        .flavor_access_change(&ctx, &path.flavor, project, change)
        .await?;
    Ok(access_list(&path.flavor, &projects))
}

pub(super) async fn extra_specs(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<FlavorPath>,
) -> HttpResult<Response> {
    let row = app.flavor_show(&ctx, &path.flavor).await?;
    Ok(ok(&json!({ "extra_specs": texts(&row.extra_specs) })))
}

fn spec_text(value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Fault::invalid("An extra spec must be text or a number.")),
    }
}

pub(super) async fn extra_specs_add(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<FlavorPath>,
    StrictJson(body): StrictJson<SpecsBody>,
) -> HttpResult<Response> {
    let specs = body
        .extra_specs
        .iter()
        .map(|(key, value)| Ok((key.clone(), spec_text(value)?)))
        .collect::<Result<BTreeMap<_, _>, Fault>>()?;
    let given: Vec<String> = specs.keys().cloned().collect();
    let all = app
        .flavor_extra_specs_set(&ctx, &path.flavor, specs)
        .await?;
    let shown: BTreeMap<_, _> = all
        .into_iter()
        .filter(|(key, _)| given.contains(key))
        .collect();
    Ok(ok(&json!({ "extra_specs": shown })))
}

pub(super) async fn extra_spec(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<SpecPath>,
) -> HttpResult<Response> {
    let row = app.flavor_show(&ctx, &path.flavor).await?;
    match texts(&row.extra_specs).get(&path.key) {
        Some(value) => Ok(ok(&json!({ &path.key: value }))),
        None => Err(Fault::not_found(format!(
            "Flavor {} has no extra specs with key {:.255}.",
            row.id, path.key
        ))
        .into()),
    }
}

pub(super) async fn extra_spec_put(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<SpecPath>,
    StrictJson(body): StrictJson<BTreeMap<String, Value>>,
) -> HttpResult<Response> {
    let value = match (body.len(), body.get(&path.key)) {
        (1, Some(value)) => spec_text(value)?,
        _ => return Err(Fault::invalid("The body must hold the key of the path.").into()),
    };
    app.flavor_extra_specs_set(
        &ctx,
        &path.flavor,
        [(path.key.clone(), value.clone())].into(),
    )
    .await?;
    Ok(ok(&json!({ &path.key: value })))
}

pub(super) async fn extra_spec_delete(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<SpecPath>,
) -> HttpResult<Response> {
    app.flavor_extra_spec_delete(&ctx, &path.flavor, &path.key)
        .await?;
    Ok(empty(StatusCode::OK))
}

//! Keystone's v3 API. Files are named after the resource; handlers parse, call
//! `app` and render.

mod auth;
mod credentials;
mod domains;
mod ec2;
mod endpoints;
mod grants;
mod groups;
mod projects;
mod regions;
mod role_assignments;
mod roles;
mod services;
mod users;
mod versions;

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::{Extension, Router};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use yakumo_http::{BaseUrl, HttpFault, Paging, QueryPairs, Surface, SurfaceOptions, surface};
use yakumo_types::{Fault, FaultCode};

use crate::app::{App, Listing, ids};
use crate::store::Page;

/// What handlers share.
pub(crate) type Shared = axum::extract::State<Arc<App>>;

/// The whole API.
pub fn router(app: Arc<App>, options: SurfaceOptions) -> Router {
    let verifier = app.verifier.clone();
    let v3 = Router::new()
        .merge(auth::routes())
        .merge(users::routes())
        .merge(ec2::routes())
        .merge(projects::routes())
        .merge(domains::routes())
        .merge(groups::routes())
        .merge(roles::routes())
        .merge(grants::routes())
        .merge(role_assignments::routes())
        .merge(services::routes())
        .merge(endpoints::routes())
        .merge(regions::routes())
        .merge(credentials::routes());
    let routes = Router::new()
        .merge(versions::routes())
        .nest("/v3", v3)
        .with_state(app)
        .layer(Extension(verifier))
        .layer(from_fn(empty_answers));
    surface(routes, Surface::Identity, options)
}

/// Clients keep connections only if an answer without a body says so.
async fn empty_answers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().insert(
            HeaderName::from_static("cache-control"),
            HeaderValue::from_static("no-cache"),
        );
    }
    response
}

/// A field that may be left out, or be null.
fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    reader: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(reader).map(Some)
}

/// A null and an empty text are the same to us.
fn text(value: Option<Option<String>>) -> Option<String> {
    value.map(Option::unwrap_or_default)
}

/// Refuses what Keystone knows and Yakumo does not offer, unless it is empty.
fn nothing_in(name: &str, value: Option<&Value>) -> Result<(), Fault> {
    let empty = match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Object(object)) => object.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if empty {
        Ok(())
    } else {
        Err(Fault::invalid(format!(
            "Invalid input for {name}: it is not offered by this cloud."
        )))
    }
}

/// The page that a query asks for, by an id in the form of the tables.
fn page(query: &QueryPairs) -> Result<Page, Fault> {
    let mut page = raw_page(query)?;
    if let Some(marker) = &page.marker {
        let stored = ids::stored(marker)
            .ok_or_else(|| Fault::invalid("The query parameter marker is no id."))?;
        page.marker = Some(stored);
    }
    Ok(page)
}

/// The same where ids are any text.
fn raw_page(query: &QueryPairs) -> Result<Page, Fault> {
    let paging = Paging::parse(query)?;
    Ok(Page {
        marker: paging.marker,
        limit: paging.limit.filter(|limit| *limit > 0),
    })
}

fn owned(query: &QueryPairs, name: &str) -> Option<String> {
    query.filled(name).map(str::to_owned)
}

/// `{"<name>": [...], "links": {...}}`.
fn list_document<T>(
    name: &str,
    listing: Listing<T>,
    base: &BaseUrl,
    query: &QueryPairs,
    render: impl Fn(&T) -> Value,
) -> Value {
    let items: Vec<Value> = listing.items.iter().map(render).collect();
    let last = items
        .last()
        .and_then(|item| item.get("id"))
        .and_then(Value::as_str);
    let path = format!("/v3/{name}");
    let next = match last {
        Some(id) if listing.more => Value::from(Paging::next_link(base, &path, query, id)),
        _ => Value::Null,
    };
    let mut document = Map::new();
    document.insert(name.to_owned(), Value::Array(items));
    document.insert(
        "links".to_owned(),
        json!({"self": base.join(&path), "previous": null, "next": next}),
    );
    if listing.more {
        document.insert("truncated".to_owned(), Value::Bool(true));
    }
    Value::Object(document)
}

fn whole<T>(items: Vec<T>) -> Listing<T> {
    Listing { items, more: false }
}

/// `{"self": <link>}`.
fn links(base: &BaseUrl, path: &str) -> Value {
    json!({"self": base.join(&format!("/v3/{path}"))})
}

fn absent(what: &str) -> HttpFault {
    HttpFault(Fault::new(
        FaultCode::NotImplemented,
        format!("{what} is not offered by this cloud."),
    ))
}

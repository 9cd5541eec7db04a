//! Queries of listings, and their pages.

use std::collections::BTreeMap;
use std::future::Future;

use serde_json::{Value, json};
use yakumo_contracts::network::{Filter, ListRequest, SortKey};
use yakumo_http::{BaseUrl, Paging, QueryPairs, SortDirection};
use yakumo_types::Fault;

use super::shape::{select, wrapped};

/// Rows in one question on the bus.
const PAGE: u32 = 500;

/// The most rows that a listing without a limit gives.
const MOST: usize = 100_000;

/// Parameters that are no filters.
const WORDS: &[&str] = &[
    "fields",
    "limit",
    "marker",
    "page_reverse",
    "sort_key",
    "sort_dir",
    "sort",
];

/// A listing that was asked for.
pub struct Listing<'a> {
    query: &'a QueryPairs,
    paging: Paging,
    fields: Vec<&'a str>,
}

impl<'a> Listing<'a> {
    /// Reads a query.
    pub fn read(query: &'a QueryPairs) -> Result<Self, Fault> {
        let paging = Paging::parse(query).map_err(bad)?;
        let directions = query.all("sort_dir").count();
        if directions > 0 && directions != query.all("sort_key").count() {
            return Err(bad(Fault::invalid(
                "The number of sort_keys and sort_dirs must be same.",
            )));
        }
        if query
            .get("limit")
            .is_some_and(|limit| limit.starts_with('-'))
        {
            return Err(bad(Fault::invalid("The limit must not be negative.")));
        }
        Ok(Self {
            paging,
            fields: query
                .all("fields")
                .filter(|field| !field.is_empty())
                .collect(),
            query,
        })
    }

    fn request(&self) -> ListRequest {
        let mut filters: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (key, value) in &self.query.0 {
            if !WORDS.contains(&key.as_str()) {
                filters.entry(key).or_default().push(value.clone());
            }
        }
        ListRequest {
            filters: filters
                .into_iter()
                .map(|(key, values)| Filter {
                    key: key.to_owned(),
                    values,
                })
                .collect(),
            sorts: self
                .paging
                .sort
                .iter()
                .map(|(key, direction)| SortKey {
                    key: key.clone(),
                    descending: *direction == Some(SortDirection::Descending),
                })
                .collect(),
            limit: 0,
            marker: self.paging.marker.clone().unwrap_or_default(),
            page_reverse: self.paging.page_reverse,
        }
    }

    /// Reads as many pages as were asked for and writes the document. `ask`
    /// gives the rows of one page as documents, and whether more follow.
    pub async fn run<F, A>(
        &self,
        base: &BaseUrl,
        path: &str,
        name: &str,
        mut ask: A,
    ) -> Result<Value, Fault>
    where
        A: FnMut(ListRequest) -> F,
        F: Future<Output = Result<(Vec<Value>, bool), Fault>>,
    {
        let wanted = match self.paging.limit {
            None | Some(0) => None,
            Some(limit) => Some(usize::try_from(limit).unwrap_or(MOST).min(MOST)),
        };
        let mut request = self.request();
        let mut documents: Vec<Value> = Vec::new();
        let mut more;
        loop {
            let left = wanted.unwrap_or(MOST) - documents.len();
            request.limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
            let (page, follows) = ask(request.clone()).await?;
            more = follows;
            // Going backwards, each page stands before the one that was read first.
            let edge = if request.page_reverse {
                page.first()
            } else {
                page.last()
            };
            let edge = edge.map(id_of).unwrap_or_default();
            if request.page_reverse {
                documents.splice(0..0, page);
            } else {
                documents.extend(page);
            }
            if !more || edge.is_empty() || documents.len() >= wanted.unwrap_or(MOST) {
                break;
            }
            request.marker = edge;
        }
        let links = wanted.map(|_| self.links(base, path, &documents, more));
        let documents = documents
            .into_iter()
            .map(|document| select(document, &self.fields))
            .collect();
        let mut document = wrapped(name, Value::Array(documents));
        if let (Some(Value::Array(links)), Some(map)) = (links, document.as_object_mut())
            && !links.is_empty()
        {
            map.insert(format!("{name}_links"), Value::Array(links));
        }
        Ok(document)
    }

    fn links(&self, base: &BaseUrl, path: &str, documents: &[Value], more: bool) -> Value {
        let mut links = Vec::new();
        let link = |rel: &str, marker: String, reverse: bool| {
            let mut query = self.query.clone();
            query
                .0
                .retain(|(key, _)| key != "page_reverse" && key != "marker");
            if reverse {
                query.0.push(("page_reverse".into(), "True".into()));
            }
            let href = format!("{}?{}", base.join(path), query.with("marker", &marker));
            json!({"rel": rel, "href": href})
        };
        let backwards = self.paging.page_reverse;
        if let Some(last) = documents.last()
            && ((more && !backwards) || (backwards && self.paging.marker.is_some()))
        {
            links.push(link("next", id_of(last), false));
        }
        if let Some(first) = documents.first()
            && ((more && backwards) || (!backwards && self.paging.marker.is_some()))
        {
            links.push(link("previous", id_of(first), true));
        }
        Value::Array(links)
    }
}

fn id_of(document: &Value) -> String {
    document
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn bad(fault: Fault) -> Fault {
    if fault.details.is_none() {
        return fault.with_type("BadRequest");
    }
    fault
}

/// The question for one thing by its id.
pub fn by_id(id: &str) -> ListRequest {
    ListRequest {
        filters: vec![Filter {
            key: "id".into(),
            values: vec![id.to_owned()],
        }],
        limit: 1,
        ..ListRequest::default()
    }
}

/// The one thing that was asked for, with the wanted fields.
pub fn shown<T>(found: Vec<T>, missing: impl FnOnce() -> Fault) -> Result<T, Fault> {
    found.into_iter().next().ok_or_else(missing)
}

/// 404 in the API's words.
pub fn not_found(kind: &str, name: &str, id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::not_found(format!("{name} {id} could not be found.")).with_type(kind)
}

/// The fields that a query for one thing asks for.
pub fn fields(query: &QueryPairs) -> Vec<&str> {
    query
        .all("fields")
        .filter(|field| !field.is_empty())
        .collect()
}

//! Queries: pairs in the order that they came, and the paging parameters that
//! OpenStack's APIs share.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use yakumo_types::Fault;

use crate::base_url::BaseUrl;
use crate::fault::HttpFault;

const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A query's decoded pairs; a name may come several times. Text that is not
/// UTF-8 is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryPairs(pub Vec<(String, String)>);

impl QueryPairs {
    /// From the text after the question mark.
    pub fn parse(query: &str) -> Result<Self, Fault> {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Fault::invalid("The query is not valid UTF-8."))
        };
        let mut pairs = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a name comes at all, with or without a value (`?nocatalog`).
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Every value of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// A flag: `true`, `1`, `yes`, or the bare name are true; `false`, `0`,
    /// `no` are false; anything else is refused.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("" | "true" | "1" | "yes" | "on" | "t" | "y") => Ok(Some(true)),
            Some("false" | "0" | "no" | "off" | "f" | "n") => Ok(Some(false)),
            Some(_) => Err(Fault::invalid(format!(
                "The query parameter {name} must be true or false."
            ))),
        }
    }

    /// The query again, with one name replaced.
    pub fn with(&self, name: &str, value: &str) -> String {
        let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
        let kept = self.0.iter().filter(|(key, _)| key != name);
        kept.map(|(key, value)| (key.as_str(), value.as_str()))
            .chain([(name, value)])
            .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
            .collect::<Vec<_>>()
            .join("&")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        Ok(Self::parse(parts.uri.query().unwrap_or(""))?)
    }
}

/// The most sort keys that a query may name. Every key makes the condition
/// that finds the place behind a marker longer.
const MAX_SORT_KEYS: usize = 16;

/// Which way a listing is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortDirection {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Which page of a listing is wanted, and in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paging {
    /// At most so many; nothing if the client left it to us.
    pub limit: Option<u64>,
    /// The id of the last item of the page before.
    pub marker: Option<String>,
    /// Network API: the page before the marker instead.
    pub page_reverse: bool,
    /// Keys in order, none twice; the direction is nothing where the client
    /// gave none.
    pub sort: Vec<(String, Option<SortDirection>)>,
}

impl Paging {
    /// From a query: `limit`, `marker`, `page_reverse`, `sort_key` with
    /// `sort_dir`, or `sort=key:dir,key:dir`. A key that comes again says
    /// nothing new and is left out; more than sixteen are refused.
    pub fn parse(query: &QueryPairs) -> Result<Self, Fault> {
        let limit = query
            .filled("limit")
            .map(|text| {
                text.parse::<u64>().map_err(|_| {
                    Fault::invalid("The query parameter limit must be a whole number, 0 or more.")
                })
            })
            .transpose()?;
        let mut sort: Vec<(String, Option<SortDirection>)> = Vec::new();
        let mut named = 0_usize;
        let mut add = |key: &str, direction| {
            named += 1;
            if named > MAX_SORT_KEYS {
                return Err(Fault::invalid(format!(
                    "A listing can be sorted by at most {MAX_SORT_KEYS} keys."
                )));
            }
            if !sort.iter().any(|(other, _)| other == key) {
                sort.push((key.to_owned(), direction));
            }
            Ok(())
        };
        if let Some(text) = query.filled("sort") {
            for part in text.split(',') {
                let (key, direction) = match part.split_once(':') {
                    Some((key, direction)) => (key, Some(parse_direction(direction)?)),
                    None => (part, None),
                };
                add(key, direction)?;
            }
        }
        let directions: Vec<&str> = query.all("sort_dir").collect();
        for (index, key) in query.all("sort_key").enumerate() {
            let direction = directions
                .get(index)
                .map(|text| parse_direction(text))
                .transpose()?;
            add(key, direction)?;
        }
        Ok(Self {
            limit,
            marker: query.filled("marker").map(str::to_owned),
            page_reverse: query.flag("page_reverse")?.unwrap_or(false),
            sort,
        })
    }

    /// How many items to give: the wanted number, at most `most`.
    pub fn bounded(&self, most: u64) -> u64 {
        self.limit.unwrap_or(most).min(most)
    }

    /// The absolute link to the page after the item `marker`.
    pub fn next_link(base: &BaseUrl, path: &str, query: &QueryPairs, marker: &str) -> String {
        format!("{base}{path}?{}", query.with("marker", marker))
    }
}

fn parse_direction(text: &str) -> Result<SortDirection, Fault> {
    match text {
        "asc" => Ok(SortDirection::Ascending),
        "desc" => Ok(SortDirection::Descending),
        _ => Err(Fault::invalid("A sort direction must be asc or desc.")),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        let query = QueryPairs::parse(parts.uri.query().unwrap_or(""))?;
        Ok(Self::parse(&query)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(query: &str) -> Result<Paging, Fault> {
        Paging::parse(&QueryPairs::parse(query)?)
    }

    #[test]
    fn every_way_of_asking_for_a_page_is_understood() {
        let page = paging("limit=5&marker=a%20b&sort_key=name&sort_dir=desc").unwrap();
        assert_eq!(page.bounded(1_000), 5);
        assert_eq!(page.marker.as_deref(), Some("a b"));
        assert_eq!(
            page.sort,
            [("name".to_owned(), Some(SortDirection::Descending))]
        );
        assert_eq!(paging("sort=name:asc,id").unwrap().sort.len(), 2);
        assert_eq!(paging("").unwrap().bounded(1_000), 1_000);
        for bad in [
            "limit=-1",
            "limit=many",
            "sort_key=a&sort_dir=up",
            "marker=%ff",
        ] {
            assert!(paging(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sort_keys_are_few_and_each_counts_once() {
        let sort = paging("sort=name:desc,id,name:asc&sort_key=id&sort_key=size")
            .unwrap()
            .sort;
        let keys: Vec<&str> = sort.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["name", "id", "size"]);
        assert_eq!(sort[0].1, Some(SortDirection::Descending));
        let by = |count: usize| format!("sort={}", vec!["uuid"; count].join(","));
        assert_eq!(paging(&by(16)).unwrap().sort.len(), 1);
        assert!(paging(&by(17)).is_err());
        let many = vec!["sort_key=uuid"; 17].join("&");
        assert!(paging(&many).is_err());
    }

    #[test]
    fn the_next_link_keeps_the_rest_of_the_query() {
        let query = QueryPairs::parse("limit=2&marker=old&name=a%26b").unwrap();
        let base = BaseUrl("http://cloud".into());
        assert_eq!(
            Paging::next_link(&base, "/v2.1/servers", &query, "new"),
            "http://cloud/v2.1/servers?limit=2&name=a%26b&marker=new"
        );
    }

    #[test]
    fn a_flag_is_true_false_or_refused() {
        let query = QueryPairs::parse("a&b=False&c=perhaps").unwrap();
        assert_eq!(query.flag("a").unwrap(), Some(true));
        assert_eq!(query.flag("b").unwrap(), Some(false));
        assert!(query.flag("c").is_err());
        assert_eq!(query.flag("d").unwrap(), None);
        assert!(query.has("a"));
    }
}

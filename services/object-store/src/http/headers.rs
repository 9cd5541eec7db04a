//! Headers in and out.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use yakumo_types::{Fault, Timestamp};

use super::text;
use crate::app::PutHeaders;
use crate::app::conditions::Conditions;
use crate::store::Metadata;

/// Headers beside the media type that an object gives back.
const KEPT: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
const CONTENT_TYPE_BYTES: usize = 255;
const KEPT_BYTES: usize = 2048;

/// `X-<kind>-Meta-*` as entries, and `X-Remove-<kind>-Meta-*` as empty ones.
pub fn metadata(headers: &HeaderMap, kind: &str) -> Result<Metadata, Fault> {
    let set = format!("x-{kind}-meta-");
    let remove = format!("x-remove-{kind}-meta-");
    let mut found = Metadata::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(&remove) {
            found.insert(name.to_owned(), String::new());
        }
        if let Some(name) = name.as_str().strip_prefix(&set) {
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| Fault::invalid("Metadata must be valid UTF-8."))?;
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

/// Writes entries as `X-<kind>-Meta-*`.
pub fn put_metadata<B>(response: &mut Response<B>, kind: &str, metadata: &Metadata) {
    for (name, value) in metadata {
        put(response, &format!("x-{kind}-meta-{name}"), value);
    }
}

/// Sets a header; one that cannot be written is left out.
pub fn put<B>(response: &mut Response<B>, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_bytes(value.as_bytes()),
    ) {
        response.headers_mut().insert(name, value);
    }
}

/// Seconds with five decimals.
pub fn timestamp(time: Timestamp) -> String {
    let micros = time.as_micros().max(0);
    format!("{:010}.{:05}", micros / 1_000_000, micros % 1_000_000 / 10)
}

/// A time as HTTP writes it.
pub fn http_date(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + since)
}

/// Reads a time as HTTP writes it; nonsense counts as nothing.
fn read_date(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_secs(i64::try_from(since.as_secs()).ok()?))
}

/// The conditions of a request.
pub fn conditions(headers: &HeaderMap) -> Conditions {
    let tags = |name: &str| {
        text(headers, name)
            .map(Conditions::etags)
            .unwrap_or_default()
    };
    let date = |name: &str| text(headers, name).and_then(read_date);
    Conditions {
        if_match: tags("if-match"),
        if_none_match: tags("if-none-match"),
        if_modified_since: date("if-modified-since"),
        if_unmodified_since: date("if-unmodified-since"),
    }
}

/// Whether `If-Range` lets a range be served.
pub fn if_range_holds(headers: &HeaderMap, etag: &str, last_modified: i64) -> bool {
    match text(headers, header::IF_RANGE.as_str()) {
        None => true,
        Some(text) => match read_date(text) {
            Some(time) => time.as_secs() == last_modified,
            None => text.trim().trim_matches('"') == etag,
        },
    }
}

/// What a PUT, POST or COPY says about an object. `now` is for `X-Delete-After`.
pub fn put_headers(headers: &HeaderMap, now: Timestamp) -> Result<PutHeaders, Fault> {
    let mut kept = Metadata::new();
    for name in KEPT {
        if let Some(value) = text(headers, name) {
            if value.len() > KEPT_BYTES {
                return Err(Fault::invalid(format!("The header {name} is too long.")));
            }
            kept.insert(name.to_owned(), value.to_owned());
        }
    }
    let content_type = match text(headers, header::CONTENT_TYPE.as_str()) {
        Some(value) if value.len() > CONTENT_TYPE_BYTES => {
            return Err(Fault::invalid("The header Content-Type is too long."));
        }
        Some("") | None => None,
        Some(value) => Some(value.to_owned()),
    };
    let number = |name: &str| -> Result<Option<i64>, Fault> {
        match text(headers, name) {
            None | Some("") => Ok(None),
            Some(value) => value
                .parse::<i64>()
                .ok()
                .filter(|number| (0..=99_999_999_999).contains(number))
                .map(Some)
                .ok_or_else(|| Fault::invalid(format!("Non-integer {name}"))),
        }
    };
    let delete_at = match (number("x-delete-at")?, number("x-delete-after")?) {
        (_, Some(after)) => Some(now.as_secs().saturating_add(after)),
        (at, None) => at,
    };
    Ok(PutHeaders {
        content_type,
        headers: kept,
        metadata: metadata(headers, "object")?,
        etag: text(headers, header::ETAG.as_str())
            .map(|tag| tag.trim().trim_matches('"').to_ascii_lowercase())
            .filter(|tag| !tag.is_empty()),
        delete_at,
        conditions: conditions(headers),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_swift_does() {
        let time = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(timestamp(time), "1700000000.12345");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(
            read_date("Thu, 01 Jan 1970 00:00:07 GMT"),
            Some(Timestamp::from_secs(7))
        );
        assert_eq!(read_date("tomorrow"), None);
    }

    #[test]
    fn metadata_is_set_and_removed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-container-meta-color", "blue".parse().unwrap());
        headers.insert("x-remove-container-meta-shape", "x".parse().unwrap());
        headers.insert("x-object-meta-other", "x".parse().unwrap());
        let found = metadata(&headers, "container").unwrap();
        assert_eq!(
            found,
            Metadata::from([("color".into(), "blue".into()), ("shape".into(), "".into())])
        );
    }
}

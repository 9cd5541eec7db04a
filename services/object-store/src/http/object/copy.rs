//! `COPY /v1/{account}/{container}/{object}`, and `PUT` with `X-Copy-From`.

use axum::http::HeaderMap;
use axum::response::Response;
use yakumo_http::HttpResult;
use yakumo_types::Fault;

use super::stored;
use crate::app::conditions::Conditions;
use crate::app::{Caller, Copied, ObjectStore, names};
use crate::http::headers::{conditions, http_date, put, put_headers};
use crate::http::{Call, decode, text};

/// `COPY`: the path is the source, `Destination` says where to. 201.
pub async fn to_destination(call: Call, container: &str, name: &str) -> HttpResult<Response> {
    let (to_container, to_name) = place(&call, "destination")?;
    let writer = caller_of(&call, "destination-account")?;
    let from = (&call.caller, container, name);
    let to = (&writer, to_container.as_str(), to_name.as_str());
    copy(&call.store, &call.headers, from, to).await
}

/// `PUT`: the path is the destination, `X-Copy-From` says where from. 201.
pub async fn from_header(call: Call, container: &str, name: &str) -> HttpResult<Response> {
    if text(&call.headers, "content-length").is_some_and(|length| length != "0") {
        return Err(Fault::invalid("Copy requests require a zero byte body.").into());
    }
    let (from_container, from_name) = place(&call, "x-copy-from")?;
    let reader = caller_of(&call, "x-copy-from-account")?;
    let to = (&call.caller, container, name);
    let from = (&reader, from_container.as_str(), from_name.as_str());
    copy(&call.store, &call.headers, from, to).await
}

async fn copy(
    store: &ObjectStore,
    given: &HeaderMap,
    from: (&Caller, &str, &str),
    to: (&Caller, &str, &str),
) -> HttpResult<Response> {
    let mut headers = put_headers(given, store.now())?;
    // The conditions of a copy are about its source.
    headers.conditions = Conditions::default();
    headers.etag = None;
    let conditions = conditions(given);
    let fresh =
        text(given, "x-fresh-metadata").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Copied { object, source } = store
        .copy_object(from, to, &conditions, headers, fresh)
        .await?;
    let mut response = stored(&object);
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let place = format!("{}/{}", encode(from.1), encode(from.2));
    put(&mut response, "x-copied-from", &place);
    let account = format!("{}{}", names::ACCOUNT_PREFIX, from.0.account.simple());
    put(&mut response, "x-copied-from-account", &account);
    let date = http_date(crate::app::conditions::last_modified(&source));
    put(&mut response, "x-copied-from-last-modified", &date);
    Ok(response)
}

/// `container/object` of a header, percent-encoded.
fn place(call: &Call, header: &str) -> Result<(String, String), Fault> {
    let wrong = || {
        Fault::precondition_failed(format!(
            "The header {header} must be of the form <container name>/<object name>."
        ))
    };
    let text = decode(text(&call.headers, header).ok_or_else(wrong)?)?;
    let text = text.strip_prefix('/').unwrap_or(&text);
    match text.split_once('/') {
        Some((container, object)) if !container.is_empty() && !object.is_empty() => {
            Ok((container.to_owned(), object.to_owned()))
        }
        _ => Err(wrong()),
    }
}

/// The caller, looking at the account of a header.
fn caller_of(call: &Call, header: &str) -> Result<Caller, Fault> {
    let Some(account) = text(&call.headers, header) else {
        return Ok(call.caller.clone());
    };
    let account = names::account(&decode(account)?)
        .ok_or_else(|| Fault::forbidden("Access was denied to this resource."))?;
    Ok(Caller {
        account,
        ..call.caller.clone()
    })
}

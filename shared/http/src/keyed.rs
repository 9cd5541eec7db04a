//! `Idempotency-Key`: bodies of requests that clients may send again.
//!
//! A handler that makes something takes its body as [`KeyedJson`] and hands the
//! key on to the rules, which keep it in the transaction that makes the thing.
//! While the handler runs, the same key is answered with 409 by this process;
//! where another process or a lost connection is concerned, the database says
//! the same. A handler whose answer holds a secret takes [`NoKey`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use yakumo_types::{Fault, IdempotencyKey, RequestContext};

use crate::auth::Auth;
use crate::fault::HttpFault;
use crate::json::read_json;
use crate::strict::from_value;

const HEADER: &str = "idempotency-key";

/// The longest key that is taken, in characters.
const MAX_KEY: usize = 255;

/// A JSON body as [`crate::StrictJson`] reads it, and the key that the request
/// came with. The router needs a verifier of tokens, as for [`Auth`].
///
/// 400 for a key that is none, 409 with `Retry-After` while another request of
/// the same caller with the same key for the same path is being handled.
#[derive(Debug)]
pub struct KeyedJson<T>(pub T, pub Key);

/// The key of a request, if it has one, held until this is dropped.
#[derive(Debug, Default)]
pub struct Key(Option<Held>);

impl Key {
    /// The key, if the client gave one.
    pub fn get(&self) -> Option<&IdempotencyKey> {
        self.0.as_ref().map(|held| &held.key)
    }

    /// The client's key, or one that stands for this request alone: also a
    /// message on the bus may come again, when whoever handled it died before
    /// saying so. No client's key has a blank in it.
    pub fn or_own(&self, ctx: &RequestContext) -> IdempotencyKey {
        self.get().cloned().unwrap_or_else(|| {
            let own = format!("request {}", ctx.request_id);
            IdempotencyKey {
                digest: own.clone(),
                key: own,
            }
        })
    }

    /// 400 if the client gave a key: the answer will hold a secret.
    pub fn refuse(&self) -> Result<(), Fault> {
        match self.0 {
            Some(_) => Err(IdempotencyKey::refused()),
            None => Ok(()),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequest<S> for KeyedJson<T> {
    type Rejection = HttpFault;

    async fn from_request(request: Request, state: &S) -> Result<Self, HttpFault> {
        let Some(key) = key_of(request.headers())? else {
            let body = read_json(request).await?;
            return Ok(Self(from_value(body)?, Key::default()));
        };
        let (mut parts, body) = request.into_parts();
        let Auth(ctx) = Auth::from_request_parts(&mut parts, state).await?;
        let begun: InFlight = parts.extensions.get().cloned().unwrap_or_default();
        let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
        let body = read_json(Request::from_parts(parts, body)).await?;
        let key = IdempotencyKey {
            digest: digest(&key, &method, &path, &body),
            key,
        };
        let held = begun.hold(&ctx, path, key)?;
        Ok(Self(from_value(body)?, Key(Some(held))))
    }
}

/// 400 for every request with a key: the answer holds a secret, which is kept
/// nowhere and can be given only once.
#[derive(Debug, Clone, Copy)]
pub struct NoKey;

impl<S: Send + Sync> FromRequestParts<S> for NoKey {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        match parts.headers.contains_key(HEADER) {
            true => Err(IdempotencyKey::refused().into()),
            false => Ok(Self),
        }
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let visible = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
    let bytes = value.as_bytes();
    if values.next().is_some() || bytes.is_empty() || bytes.len() > MAX_KEY || !visible(bytes) {
        return Err(Fault::invalid(format!(
            "Idempotency-Key must be one text of 1 to {MAX_KEY} visible ASCII characters."
        )));
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

/// What a request asks for, under its key. The path is the one within the
/// version of the API, so that `/v2.1/{project}/servers` is `/v2.1/servers`; it
/// does not matter how the body is laid out.
fn digest(key: &str, method: &str, path: &str, body: &Value) -> String {
    // None of the first three holds a line's end.
    let mut text = format!("{key}\n{method}\n{path}\n");
    write_sorted(&mut text, body);
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// JSON without blanks and with the names of objects in order.
fn write_sorted(out: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            out.push('{');
            for name in names {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_sorted(out, fields.get(name).unwrap_or(&Value::Null));
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(out, item);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// The keys whose requests are being handled, of one surface; an extension of
/// its requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<Place>>>);

/// Whose key, for what.
type Place = (RequestedBy, String, String);
type RequestedBy = (
    yakumo_types::UserId,
    Option<yakumo_types::ProjectId>,
    Option<yakumo_types::DomainId>,
);

impl InFlight {
    fn hold(&self, ctx: &RequestContext, path: String, key: IdempotencyKey) -> Result<Held, Fault> {
        let caller = (ctx.user_id, ctx.project_id, ctx.domain_id);
        let place = (caller, path, key.key.clone());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(place.clone()) {
            return Err(IdempotencyKey::in_flight());
        }
        drop(held);
        Ok(Held {
            key,
            place,
            begun: self.clone(),
        })
    }
}

/// A key, and its place among those in flight.
#[derive(Debug)]
struct Held {
    key: IdempotencyKey,
    place: Place,
    begun: InFlight,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.begun.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde_json::json;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        values
            .iter()
            .map(|value| {
                let name = axum::http::HeaderName::from_static(HEADER);
                (name, HeaderValue::from_bytes(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_key_is_one_text_of_visible_characters() {
        assert_eq!(key_of(&headers(&[])).unwrap(), None);
        let longest = "x".repeat(255);
        for good in [
            "8e03978e-40d5-43dd-bc93-6894a57f9324",
            "\"quoted\"",
            &longest,
        ] {
            let key = key_of(&headers(&[good.as_bytes()])).unwrap();
            assert_eq!(key.as_deref(), Some(good));
        }
        let long = "x".repeat(256);
        for bad in [&b""[..], b"a b", b"\xc3\xa4", b"a\tb", long.as_bytes()] {
            assert!(key_of(&headers(&[bad])).is_err(), "{bad:?}");
        }
        assert!(key_of(&headers(&[b"a", b"a"])).is_err());
    }

    #[test]
    fn a_digest_is_of_what_is_asked_and_not_of_how_it_is_written() {
        let of = |text: &str| {
            let body: Value = serde_json::from_str(text).unwrap();
            digest("key", "POST", "/things", &body)
        };
        let one = of(r#"{"a": {"b": 1, "c": [1, 2]}, "d": "x"}"#);
        assert_eq!(one.len(), 64);
        assert_eq!(one, of(r#"{"d":"x","a":{"c":[1,2],"b":1}}"#));
        for other in [
            r#"{"a": {"b": 1, "c": [2, 1]}, "d": "x"}"#,
            r#"{"a": {"b": 1, "c": [1, 2], "d": "x"}}"#,
            r#"{"a": {"b": "1", "c": [1, 2]}, "d": "x"}"#,
            r#"{"a": {"b": 1, "c": [[1], 2]}, "d": "x"}"#,
        ] {
            assert_ne!(one, of(other), "{other}");
        }
        let body = json!({"a": 1});
        let base = digest("key", "POST", "/things", &body);
        assert_ne!(base, digest("yek", "POST", "/things", &body));
        assert_ne!(base, digest("key", "POST", "/other", &body));
    }

    #[test]
    fn a_key_is_free_again_when_its_request_is_done() {
        let begun = InFlight::default();
        let caller = RequestContext::host(yakumo_types::RequestId::from_uuid(Default::default()));
        let other = RequestContext {
            project_id: Some(yakumo_types::ProjectId::from_uuid(Default::default())),
            ..caller.clone()
        };
        let key = || IdempotencyKey {
            key: "a".into(),
            digest: String::new(),
        };
        let hold = |ctx, path: &str| begun.hold(ctx, path.into(), key());
        let first = hold(&caller, "/things").unwrap();
        let fault = hold(&caller, "/things").unwrap_err();
        assert_eq!(fault.retry_after, Some(1));
        hold(&caller, "/others").unwrap();
        hold(&other, "/things").unwrap();
        drop(first);
        hold(&caller, "/things").unwrap();
    }
}

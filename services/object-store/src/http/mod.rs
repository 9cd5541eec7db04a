//! The REST API, Swift v1. A path is an account, a container or an object, and
//! an object's name may hold anything, slashes too: so paths are taken apart
//! here and not by the router. Folders follow the URL, files the verb.

mod account;
mod container;
mod headers;
mod info;
mod listing;
mod object;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Extension, Router};
use percent_encoding::percent_decode_str;
use yakumo_auth::TokenVerifier;
use yakumo_http::{HttpResult, MaybeAuth, QueryPairs, Surface, SurfaceOptions, empty, surface};
use yakumo_types::{Env, Fault, FaultCode};

use crate::app::{Caller, ObjectStore, names};

/// The whole API.
pub fn router(store: ObjectStore, verifier: TokenVerifier, env: Env) -> Router {
    let options = SurfaceOptions::new(env, &store.config().identity_url).streaming();
    let routes = Router::new()
        .route("/info", get(info::show))
        .route("/healthcheck", get(|| async { "OK" }))
        .route("/v1/{*path}", any(dispatch))
        .layer(Extension(verifier))
        .with_state(store);
    surface(routes, Surface::ObjectStore, options)
}

/// A request whose path is understood.
struct Call {
    store: ObjectStore,
    caller: Caller,
    headers: HeaderMap,
    query: QueryPairs,
    body: Body,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    account: String,
    container: Option<String>,
    object: Option<String>,
}

impl Target {
    /// Takes `/v1/account/container/object` apart; 412 for what is not UTF-8.
    fn parse(path: &str) -> Result<Self, Fault> {
        let path = path.strip_prefix("/v1/").unwrap_or(path);
        let mut steps = path.splitn(3, '/');
        let mut step = || -> Result<Option<String>, Fault> {
            match steps.next() {
                None | Some("") => Ok(None),
                Some(text) => decode(text).map(Some),
            }
        };
        let account = step()?.unwrap_or_default();
        let container = step()?;
        let object = step()?;
        if container.is_none() && object.is_some() {
            return Err(Fault::not_found("The resource could not be found."));
        }
        Ok(Self {
            account,
            container,
            object,
        })
    }
}

fn decode(text: &str) -> Result<String, Fault> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Fault::precondition_failed("Invalid UTF8 or contains NULL"))
}

async fn dispatch(
    State(store): State<ObjectStore>,
    MaybeAuth(context): MaybeAuth,
    query: QueryPairs,
    request: Request,
) -> HttpResult<Response> {
    let (parts, body) = request.into_parts();
    let target = Target::parse(parts.uri.path())?;
    let Some(account) = names::account(&target.account) else {
        // As for an account of somebody else: nothing is told.
        let fault = match context {
            Some(_) => Fault::forbidden("Access was denied to this resource."),
            None => Fault::unauthorized("This account needs a token."),
        };
        return Err(fault.into());
    };
    let referrer = text(&parts.headers, header::REFERER.as_str()).map(str::to_owned);
    let call = Call {
        store,
        caller: Caller {
            context,
            account,
            referrer,
        },
        headers: parts.headers,
        query,
        body,
    };
    match (target.container, target.object) {
        (None, _) => account::handle(call, &parts.method).await,
        (Some(container), None) => container::handle(call, &parts.method, &container).await,
        (Some(container), Some(object)) => {
            object::handle(call, &parts.method, &container, &object).await
        }
    }
}

fn not_allowed(method: &Method) -> Fault {
    Fault::new(
        FaultCode::MethodNotAllowed,
        format!("The method {method} is not allowed for this resource."),
    )
}

/// A header's text; nothing where it is not there or not plain text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> (String, Option<String>, Option<String>) {
        let target = Target::parse(path).unwrap();
        (target.account, target.container, target.object)
    }

    #[test]
    fn a_path_is_an_account_a_container_or_an_object() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(target("/v1/a"), ("a".into(), None, None));
        assert_eq!(target("/v1/a/"), ("a".into(), None, None));
        assert_eq!(target("/v1/a/c/"), ("a".into(), some("c"), None));
        assert_eq!(target("/v1/a/c/o"), ("a".into(), some("c"), some("o")));
        assert_eq!(
            target("/v1/a/c%2Fd//o%20p//"),
            ("a".into(), some("c/d"), some("/o p//"))
        );
        assert_eq!(target("/v1/a/c/.."), ("a".into(), some("c"), some("..")));
        assert!(Target::parse("/v1/a/c/%ff").is_err());
        assert!(Target::parse("/v1/a//o").is_err());
    }
}

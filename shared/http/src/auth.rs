//! Who asks: the token of a request as a request context.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use yakumo_auth::TokenVerifier;
use yakumo_types::{Fault, RequestContext};

use crate::fault::HttpFault;
use crate::surface::RequestIds;

/// The caller, from `X-Auth-Token`; 401 without a token that holds, 503 if
/// tokens cannot be verified. The verifier must be an `Extension` of the router.
#[derive(Debug, Clone)]
pub struct Auth(pub RequestContext);

/// The caller, if a token was given at all. A token that does not hold is
/// still refused.
#[derive(Debug, Clone)]
pub struct MaybeAuth(pub Option<RequestContext>);

fn token(parts: &Parts) -> Option<&str> {
    ["x-auth-token", "x-storage-token"]
        .iter()
        .find_map(|name| parts.headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .filter(|token| !token.is_empty())
}

async fn verify(parts: &Parts, token: &str) -> Result<RequestContext, Fault> {
    let verifier = parts.extensions.get::<TokenVerifier>().ok_or_else(|| {
        tracing::error!("a route asks for a token and its router has no verifier");
        Fault::internal("Tokens cannot be verified here.")
    })?;
    let mut context = verifier.verify(token).await?;
    if let Some(ids) = parts.extensions.get::<RequestIds>() {
        context.request_id = ids.request;
    }
    let span = tracing::Span::current();
    span.record("user", tracing::field::display(&context.user_id));
    if let Some(project) = &context.project_id {
        span.record("project", tracing::field::display(project));
    }
    Ok(context)
}

impl<S: Send + Sync> FromRequestParts<S> for Auth {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        let token = token(parts).ok_or_else(|| {
            Fault::unauthorized("The request you have made requires authentication.")
        })?;
        Ok(Self(verify(parts, token).await?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MaybeAuth {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        Ok(Self(match token(parts) {
            Some(token) => Some(verify(parts, token).await?),
            None => None,
        }))
    }
}

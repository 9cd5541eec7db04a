//! The layer around every router: what all of our REST APIs do alike.
//!
//! Around the routes, from outside in: request ids, the span with the trace
//! that the client began, metrics; a path without its final slash; a bound on
//! time; panics caught; and at the end faults rendered as the API writes them.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tower::{ServiceExt, service_fn};
use tracing::{Instrument, Span, error, info, info_span, warn};
use yakumo_types::{Env, Fault, FaultCode, RequestId};

use crate::fault::{HttpFault, Surface, render};
use crate::keyed::InFlight;
use crate::trace;

/// What differs between surfaces.
#[derive(Debug, Clone)]
pub struct SurfaceOptions {
    /// Clock and chance.
    pub env: Env,
    /// Where clients log in, for `WWW-Authenticate`; without `/v3`.
    pub identity_url: String,
    /// Bytes that a body may have where a handler reads it whole. Handlers
    /// that stream set their own bound.
    pub max_body: usize,
    /// How long a handler may take until it begins to answer. None for
    /// surfaces that take uploads.
    pub timeout: Option<Duration>,
    /// Whether `/v3/users/` is `/v3/users`. Not in the object store, where it
    /// would be another name.
    pub trailing_slash: TrailingSlash,
}

/// What a final slash of a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailingSlash {
    /// Nothing.
    Ignored,
    /// Part of a name.
    Kept,
}

impl SurfaceOptions {
    /// The usual: 1 MiB, one minute, final slashes ignored.
    pub fn new(env: Env, identity_url: &str) -> Self {
        Self {
            env,
            identity_url: identity_url.trim_end_matches('/').to_owned(),
            max_body: 1024 * 1024,
            timeout: Some(Duration::from_secs(60)),
            trailing_slash: TrailingSlash::Ignored,
        }
    }

    /// For surfaces that stream: no bound on time, final slashes kept.
    #[must_use]
    pub fn streaming(mut self) -> Self {
        self.timeout = None;
        self.trailing_slash = TrailingSlash::Kept;
        self
    }
}

/// The ids of a request; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct RequestIds {
    /// Ours, written `req-<uuid>`.
    pub request: RequestId,
    /// The one that a calling service gave, if it gave one.
    pub global: Option<RequestId>,
}

/// The bound on bodies that are read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxBody(pub usize);

impl Default for MaxBody {
    fn default() -> Self {
        Self(1024 * 1024)
    }
}

/// The route that took a request; an extension of answers, for metrics.
#[derive(Clone)]
struct Route(MatchedPath);

async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(Route(route));
    }
    response
}

/// Wraps an API's routes. See the module for what that gives them.
pub fn surface(router: Router, surface: Surface, options: SurfaceOptions) -> Router {
    let routes = router
        .route_layer(from_fn(note_route))
        .fallback(|| async { HttpFault(Fault::not_found("The resource could not be found.")) })
        .method_not_allowed_fallback(|| async {
            HttpFault(Fault::new(
                FaultCode::MethodNotAllowed,
                "The method is not allowed for this resource.",
            ))
        })
        .layer(DefaultBodyLimit::max(options.max_body));
    let in_flight = InFlight::default();
    let service = service_fn(move |mut request: Request| {
        request.extensions_mut().insert(in_flight.clone());
        let (routes, options) = (routes.clone(), options.clone());
        async move { Ok::<_, Infallible>(handle(request, routes, surface, &options).await) }
    });
    Router::new().fallback_service(service)
}

async fn handle(
    mut request: Request,
    routes: Router,
    surface: Surface,
    options: &SurfaceOptions,
) -> Response {
    let began = options.env.clock.monotonic();
    let ids = RequestIds {
        request: options.env.id(),
        global: global_request_id(request.headers()),
    };
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = info_span!(
        "request",
        api = surface.name(),
        method = %method,
        path = %path,
        request_id = format_args!("req-{}", ids.request),
        global_request_id = tracing::field::Empty,
        trace_id = tracing::field::Empty,
        user = tracing::field::Empty,
        project = tracing::field::Empty,
        otel.kind = "server",
    );
    if let Some(global) = ids.global {
        span.record("global_request_id", format_args!("req-{global}"));
    }
    trace::accept(&span, request.headers());
    if let Some(trace_id) = trace::trace_id(&span) {
        span.record("trace_id", trace_id);
    }

    let accept = request.headers().get(header::ACCEPT).cloned();
    request.extensions_mut().insert(ids);
    request.extensions_mut().insert(MaxBody(options.max_body));
    if options.trailing_slash == TrailingSlash::Ignored {
        trim_final_slash(&mut request);
    }

    let mut response = run(request, routes, options).instrument(span.clone()).await;
    let route = response.extensions_mut().remove::<Route>();
    if let Some(HttpFault(fault)) = response.extensions_mut().remove::<HttpFault>() {
        let entered = span.enter();
        let mut rendered = render(&fault, surface, &options.identity_url, accept.as_ref());
        if rendered.status().is_server_error() {
            error!(code = ?fault.code, message = %fault.message, "the request failed");
        }
        // What layers below added (Allow, Vary, versions) stays.
        for (name, value) in response.headers() {
            if *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE {
                rendered.headers_mut().append(name.clone(), value.clone());
            }
        }
        if method == Method::HEAD {
            *rendered.body_mut() = Body::empty();
        }
        response = rendered;
        drop(entered);
    }
    stamp(&mut response, surface, ids, &span, options);
    let took = options.env.clock.monotonic().saturating_sub(began);
    count(surface, &method, route, &response, took);
    let status = response.status().as_u16();
    let _entered = span.enter();
    info!(status, took_ms = took.as_secs_f64() * 1_000.0, "answered");
    response
}

async fn run(request: Request, routes: Router, options: &SurfaceOptions) -> Response {
    let work = AssertUnwindSafe(routes.oneshot(request)).catch_unwind();
    let outcome = match options.timeout {
        Some(bound) => tokio::time::timeout(bound, work).await,
        None => Ok(work.await),
    };
    match outcome {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(panic)) => {
            let reason = panic
                .downcast_ref::<&'static str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("unknown");
            error!(reason, "a handler panicked");
            metrics::counter!("yakumo_http_panics_total").increment(1);
            HttpFault(Fault::internal("The server made a mistake.")).into_response()
        }
        Err(_) => {
            warn!("a handler took too long");
            HttpFault(Fault::timeout("The request took too long.")).into_response()
        }
    }
}

fn global_request_id(headers: &HeaderMap) -> Option<RequestId> {
    headers
        .get("x-openstack-request-id")
        .or_else(|| headers.get("x-openstack-global-request-id"))
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("req-"))
        .and_then(|text| text.parse().ok())
}

fn trim_final_slash(request: &mut Request) {
    let path = request.uri().path();
    if path.len() <= 1 || !path.ends_with('/') {
        return;
    }
    let trimmed = path.trim_end_matches('/');
    let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
    let text = match request.uri().query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    if let Ok(path_and_query) = text.parse::<PathAndQuery>() {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

fn stamp(
    response: &mut Response,
    surface: Surface,
    ids: RequestIds,
    span: &Span,
    options: &SurfaceOptions,
) {
    let headers = response.headers_mut();
    let id = format!("req-{}", ids.request);
    if let Ok(value) = HeaderValue::from_str(&id) {
        match surface {
            Surface::Compute => headers.insert("x-compute-request-id", value.clone()),
            _ => None,
        };
        headers.insert("x-openstack-request-id", value);
    }
    match surface {
        Surface::ObjectStore => {
            let id = format!(
                "tx{}-{:010x}",
                ids.request.simple().get(..21).unwrap_or_default(),
                options.env.now().as_secs()
            );
            if let Ok(value) = HeaderValue::from_str(&id) {
                headers.insert("x-trans-id", value);
            }
        }
        Surface::Identity => {
            headers.append(header::VARY, HeaderValue::from_static("X-Auth-Token"));
        }
        _ => {}
    }
    trace::inject(span, headers);
}

fn count(
    surface: Surface,
    method: &Method,
    route: Option<Route>,
    response: &Response,
    took: Duration,
) {
    // Labels must be few: unknown paths and methods are one each.
    let route = route.map_or_else(
        || "none".to_owned(),
        |Route(matched)| matched.as_str().to_owned(),
    );
    let method = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    metrics::counter!(
        "yakumo_http_requests_total",
        "api" => surface.name(),
        "method" => method,
        "route" => route.clone(),
        "status" => response.status().as_u16().to_string(),
    )
    .increment(1);
    metrics::histogram!(
        "yakumo_http_request_seconds",
        "api" => surface.name(),
        "method" => method,
        "route" => route,
    )
    .record(took.as_secs_f64());
}

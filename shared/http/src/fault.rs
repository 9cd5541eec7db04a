//! Faults as HTTP answers, in the shape of each API.
//!
//! A handler returns a bare [`Fault`]; it travels in the answer's extensions
//! up to the surface layer, which alone knows what the API's errors look like.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use yakumo_types::{Fault, FaultCode};

/// The API that a router serves; decides how faults look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// Compute v2.1.
    Compute,
    /// Identity v3.
    Identity,
    /// Image v2.
    Image,
    /// Network v2.0.
    Network,
    /// Volume v3.
    Volume,
    /// Object storage v1.
    ObjectStore,
    /// The metadata service for guests.
    Metadata,
}

impl Surface {
    /// For metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Identity => "identity",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::ObjectStore => "object-store",
            Self::Metadata => "metadata",
        }
    }
}

/// A fault on its way out.
#[derive(Debug, Clone)]
pub struct HttpFault(pub Fault);

/// What handlers return.
pub type HttpResult<T> = Result<T, HttpFault>;

impl<E: Into<Fault>> From<E> for HttpFault {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for HttpFault {
    fn into_response(self) -> Response {
        // The surface replaces this by the API's own status and body.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status_of(&self.0, Surface::Identity);
        response.extensions_mut().insert(self);
        response
    }
}

/// The status that an API gives for a fault.
pub fn status_of(fault: &Fault, surface: Surface) -> StatusCode {
    match fault.code {
        FaultCode::Invalid => StatusCode::BAD_REQUEST,
        FaultCode::Unauthorized => StatusCode::UNAUTHORIZED,
        FaultCode::Forbidden => StatusCode::FORBIDDEN,
        FaultCode::NotFound => StatusCode::NOT_FOUND,
        FaultCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        FaultCode::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        FaultCode::Conflict | FaultCode::Stale | FaultCode::NoValidHost => StatusCode::CONFLICT,
        FaultCode::Gone => StatusCode::GONE,
        FaultCode::LengthRequired => StatusCode::LENGTH_REQUIRED,
        FaultCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        FaultCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FaultCode::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        FaultCode::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        FaultCode::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        FaultCode::OverQuota => match surface {
            Surface::Network => StatusCode::CONFLICT,
            Surface::Volume | Surface::Image | Surface::ObjectStore => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Surface::Compute | Surface::Identity | Surface::Metadata => StatusCode::FORBIDDEN,
        },
        FaultCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        FaultCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        FaultCode::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        FaultCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FaultCode::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The whole answer for a fault, as the surface's API writes it; `accept` is
/// the request's header.
pub(crate) fn render(
    fault: &Fault,
    surface: Surface,
    identity_url: &str,
    accept: Option<&HeaderValue>,
) -> Response {
    let status = status_of(fault, surface);
    let (content_type, body) = body(fault, status, surface, accept);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = match surface {
            Surface::ObjectStore => "Swift realm=\"unknown\", Keystone uri=",
            _ => "Keystone uri=",
        };
        let text = format!("{challenge}\"{identity_url}\"");
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
    }
    let retry_after = fault.retry_after.or_else(|| {
        // Clients of these look for the header on both statuses.
        matches!(
            status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS
        )
        .then_some(0)
    });
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";

fn body(
    fault: &Fault,
    status: StatusCode,
    surface: Surface,
    accept: Option<&HeaderValue>,
) -> (&'static str, String) {
    let code = status.as_u16();
    let title = status.canonical_reason().unwrap_or("Error");
    let message = &fault.message;
    // The token middleware of every OpenStack service answers alike.
    let identity_shape =
        || json!({"error": {"code": code, "title": title, "message": message}}).to_string();
    match surface {
        Surface::Identity => (JSON, identity_shape()),
        Surface::Compute | Surface::Volume | Surface::Network
            if status == StatusCode::UNAUTHORIZED =>
        {
            (JSON, identity_shape())
        }
        Surface::Compute | Surface::Volume => {
            let mut inner = json!({"code": code, "message": message});
            if let (Some(object), Some(seconds)) = (inner.as_object_mut(), fault.retry_after) {
                object.insert("retryAfter".into(), seconds.to_string().into());
            }
            (JSON, json!({ compute_name(status): inner }).to_string())
        }
        Surface::Network => {
            let kind = fault
                .type_name()
                .unwrap_or_else(|| network_type(fault, status));
            let body = json!({"NeutronError": {"type": kind, "message": message, "detail": ""}});
            (JSON, body.to_string())
        }
        Surface::Image => {
            if prefers_html(accept) {
                let text = escape(message);
                let page = format!(
                    "<html>\n <head>\n  <title>{code} {title}</title>\n </head>\n <body>\n  <h1>{code} {title}</h1>\n  {text}<br /><br />\n </body>\n</html>"
                );
                (HTML, page)
            } else {
                let body =
                    json!({"message": message, "code": format!("{code} {title}"), "title": title});
                (JSON, body.to_string())
            }
        }
        Surface::ObjectStore => {
            let text = escape(message);
            (HTML, format!("<html><h1>{title}</h1><p>{text}</p></html>"))
        }
        Surface::Metadata => (
            "text/plain; charset=UTF-8",
            format!("{code} {title}\n\n{message}\n"),
        ),
    }
}

fn compute_name(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

fn network_type(fault: &Fault, status: StatusCode) -> &'static str {
    match (fault.code, status.as_u16()) {
        (FaultCode::OverQuota, _) => "OverQuota",
        (_, 400) => "HTTPBadRequest",
        (_, 403) => "PolicyNotAuthorized",
        (_, 404) => "HTTPNotFound",
        (_, 405) => "HTTPMethodNotAllowed",
        (_, 409) => "Conflict",
        (_, 413) => "HTTPRequestEntityTooLarge",
        (_, 415) => "HTTPUnsupportedMediaType",
        (_, 422) => "HTTPUnprocessableEntity",
        (_, 501) => "HTTPNotImplemented",
        (_, 503) => "ServiceUnavailable",
        (_, 504) => "HTTPGatewayTimeout",
        _ => "HTTPInternalServerError",
    }
}

fn prefers_html(accept: Option<&HeaderValue>) -> bool {
    accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html") && !accept.contains("application/json"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;
    use http_body_util::BodyExt;
    use serde_json::Value;

    async fn shown(fault: Fault, surface: Surface) -> (u16, HeaderMap, String) {
        let response = render(&fault, surface, "http://127.0.0.1:5000", None);
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        (parts.status.as_u16(), parts.headers, text)
    }

    fn json_of(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn each_api_writes_errors_in_its_own_way() {
        let fault = || Fault::not_found("No such thing.");
        let (status, _, body) = shown(fault(), Surface::Compute).await;
        assert_eq!(status, 404);
        assert_eq!(
            json_of(&body),
            json!({"itemNotFound": {"code": 404, "message": "No such thing."}})
        );
        let (_, _, body) = shown(fault(), Surface::Identity).await;
        assert_eq!(
            json_of(&body),
            json!({"error": {"code": 404, "message": "No such thing.", "title": "Not Found"}})
        );
        let (_, _, body) = shown(fault().with_type("NetworkNotFound"), Surface::Network).await;
        assert_eq!(
            json_of(&body),
            json!({"NeutronError": {"type": "NetworkNotFound", "message": "No such thing.", "detail": ""}})
        );
        let (_, _, body) = shown(fault(), Surface::Image).await;
        assert_eq!(
            json_of(&body),
            json!({"message": "No such thing.", "code": "404 Not Found", "title": "Not Found"})
        );
        let (_, _, body) = shown(Fault::not_found("<b>"), Surface::ObjectStore).await;
        assert_eq!(body, "<html><h1>Not Found</h1><p>&lt;b&gt;</p></html>");
    }

    #[tokio::test]
    async fn over_quota_has_four_faces() {
        for (surface, status) in [
            (Surface::Compute, 403),
            (Surface::Network, 409),
            (Surface::Volume, 413),
            (Surface::Image, 413),
        ] {
            assert_eq!(shown(Fault::over_quota("full"), surface).await.0, status);
        }
        let (_, headers, _) = shown(Fault::over_quota("full"), Surface::Volume).await;
        assert_eq!(headers[header::RETRY_AFTER], "0");
    }

    #[tokio::test]
    async fn whoever_is_unknown_is_told_where_to_log_in() {
        for surface in [
            Surface::Compute,
            Surface::Network,
            Surface::Volume,
            Surface::Identity,
        ] {
            let (status, headers, body) = shown(Fault::unauthorized("Who?"), surface).await;
            assert_eq!(status, 401);
            assert_eq!(
                headers[header::WWW_AUTHENTICATE],
                "Keystone uri=\"http://127.0.0.1:5000\""
            );
            assert_eq!(json_of(&body)["error"]["code"], 401);
        }
    }
}

//! Under which address the client reached us: links in answers must lead back
//! the same way, through proxies too.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};

/// `http://host:port`, without a final slash; from `X-Forwarded-Proto`,
/// `X-Forwarded-Host` and `X-Forwarded-Prefix`, or from `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(pub String);

impl BaseUrl {
    /// From a request's head.
    pub fn of(headers: &HeaderMap, uri: &Uri) -> Self {
        let forwarded = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                // Each proxy appends; the first is what the client used.
                .and_then(|value| value.split(',').next())
                .map(str::trim)
        };
        let scheme = match forwarded("x-forwarded-proto") {
            Some("https") => "https",
            Some("http") => "http",
            _ => match uri.scheme_str() {
                Some("https") => "https",
                _ => "http",
            },
        };
        let host = forwarded("x-forwarded-host")
            .filter(|host| is_authority(host))
            .or_else(|| {
                headers
                    .get(header::HOST)
                    .and_then(|value| value.to_str().ok())
                    .filter(|host| is_authority(host))
            })
            .or_else(|| uri.authority().map(|authority| authority.as_str()))
            .unwrap_or("localhost");
        let prefix = forwarded("x-forwarded-prefix")
            .filter(|prefix| prefix.starts_with('/') && is_path(prefix))
            .unwrap_or("")
            .trim_end_matches('/');
        Self(format!("{scheme}://{host}{prefix}"))
    }

    /// An absolute link; `path` begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

fn is_authority(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 255
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

fn is_path(path: &str) -> bool {
    path.len() <= 255
        && path
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/.-_~".contains(&byte))
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for BaseUrl {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, &parts.uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        BaseUrl::of(&headers, &Uri::from_static("/v3")).0
    }

    #[test]
    fn links_lead_back_the_way_the_client_came() {
        assert_eq!(of(&[("host", "127.0.0.1:5000")]), "http://127.0.0.1:5000");
        assert_eq!(of(&[("host", "[::1]:5000")]), "http://[::1]:5000");
        assert_eq!(
            of(&[
                ("host", "10.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "cloud.example, proxy"),
                ("x-forwarded-prefix", "/identity/"),
            ]),
            "https://cloud.example/identity"
        );
        assert_eq!(of(&[("host", "a\"><script>")]), "http://localhost");
        assert_eq!(of(&[]), "http://localhost");
    }
}

//! Microversions: a request names the minor version of the API that it was
//! written for, the answer repeats it.
//!
//! `OpenStack-API-Version: compute 2.1`, or the older header of one service.
//! Without one the lowest version holds; `latest` is the highest. Above the
//! range is 406, malformed 400. Answers list the headers in `Vary`.

use std::fmt;
use std::str::FromStr;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use yakumo_types::{Fault, FaultCode};

use crate::fault::HttpFault;

const COMMON: HeaderName = HeaderName::from_static("openstack-api-version");

/// A version of an API, for example 2.1; an extension of requests that pass
/// [`microversions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion {
    /// Before the dot.
    pub major: u16,
    /// After the dot.
    pub minor: u16,
}

impl fmt::Display for Microversion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Microversion {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let padded = part.len() > 1 && part.starts_with('0');
            (digits && !padded)
                .then(|| part.parse::<u16>().ok())
                .flatten()
        };
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: number(major)?,
                    minor: number(minor)?,
                })
            })
            .ok_or_else(|| Fault::invalid("The API version must look like 2.1, or be latest."))
    }
}

/// The versions that a service offers.
#[derive(Debug, Clone, Copy)]
pub struct MicroversionRange {
    /// The word before the version in the common header: `compute`, `volume`.
    pub service: &'static str,
    /// The service's own older header, in lower case, if it has one:
    /// `x-openstack-nova-api-version`.
    pub legacy_header: Option<&'static str>,
    /// Lowest.
    pub min: Microversion,
    /// Highest.
    pub max: Microversion,
}

impl MicroversionRange {
    /// The version that a request asks for.
    pub fn negotiate(&self, headers: &HeaderMap) -> Result<Microversion, Fault> {
        let Some(wanted) = self.wanted(headers)? else {
            return Ok(self.min);
        };
        if wanted == "latest" {
            return Ok(self.max);
        }
        let version: Microversion = wanted.parse()?;
        if version < self.min || version > self.max {
            return Err(Fault::new(
                FaultCode::NotAcceptable,
                format!(
                    "Version {version} is not offered by this API; it goes from {} to {}.",
                    self.min, self.max
                ),
            ));
        }
        Ok(version)
    }

    fn wanted(&self, headers: &HeaderMap) -> Result<Option<String>, Fault> {
        let malformed = || Fault::invalid("The API version header is malformed.");
        for value in headers.get_all(COMMON) {
            let text = value.to_str().map_err(|_| malformed())?;
            // One header may name versions of several services.
            for part in text.split(',') {
                let mut words = part.split_whitespace();
                if words.next() == Some(self.service) {
                    let version = words.next().ok_or_else(malformed)?;
                    if words.next().is_some() {
                        return Err(malformed());
                    }
                    return Ok(Some(version.to_owned()));
                }
            }
        }
        match self.legacy_header.and_then(|name| headers.get(name)) {
            Some(value) => {
                let text = value.to_str().map_err(|_| malformed())?;
                Ok(Some(text.trim().to_owned()))
            }
            None => Ok(None),
        }
    }

    /// Writes the version that was used into an answer.
    pub fn stamp(&self, version: Microversion, headers: &mut HeaderMap) {
        let common = format!("{} {version}", self.service);
        if let Ok(value) = HeaderValue::from_str(&common) {
            headers.insert(COMMON, value);
        }
        headers.append(
            header::VARY,
            HeaderValue::from_static("OpenStack-API-Version"),
        );
        if let Some(name) = self.legacy_header {
            if let Ok(value) = HeaderValue::from_str(&version.to_string()) {
                headers.insert(HeaderName::from_static(name), value);
            }
            if let Ok(value) = HeaderValue::from_str(name) {
                headers.append(header::VARY, value);
            }
        }
    }
}

/// Negotiates the version of every request to `router`.
pub fn microversions(router: Router, range: MicroversionRange) -> Router {
    router.layer(from_fn(
        move |mut request: Request, next: Next| async move {
            let (version, mut response): (Microversion, Response) =
                match range.negotiate(request.headers()) {
                    Ok(version) => {
                        request.extensions_mut().insert(version);
                        (version, next.run(request).await)
                    }
                    Err(fault) => (range.min, HttpFault(fault).into_response()),
                };
            range.stamp(version, response.headers_mut());
            response
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: MicroversionRange = MicroversionRange {
        service: "compute",
        legacy_header: Some("x-openstack-nova-api-version"),
        min: Microversion { major: 2, minor: 1 },
        max: Microversion { major: 2, minor: 5 },
    };

    fn negotiate(name: &'static str, value: &str) -> Result<String, FaultCode> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        RANGE
            .negotiate(&headers)
            .map(|version| version.to_string())
            .map_err(|fault| fault.code)
    }

    #[test]
    fn versions_are_found_and_bounded() {
        let common = "openstack-api-version";
        assert_eq!(negotiate(common, "compute 2.3").unwrap(), "2.3");
        assert_eq!(negotiate(common, "volume 3.9, compute 2.4").unwrap(), "2.4");
        assert_eq!(negotiate(common, "volume 3.9").unwrap(), "2.1");
        assert_eq!(negotiate(common, "compute latest").unwrap(), "2.5");
        assert_eq!(
            negotiate("x-openstack-nova-api-version", "2.2").unwrap(),
            "2.2"
        );
        assert_eq!(
            negotiate(common, "compute 2.96"),
            Err(FaultCode::NotAcceptable)
        );
        for bad in [
            "compute",
            "compute two",
            "compute 2",
            "compute 2.01",
            "compute 2.1 x",
            "compute 2.99999",
        ] {
            assert_eq!(negotiate(common, bad), Err(FaultCode::Invalid), "{bad}");
        }
    }
}

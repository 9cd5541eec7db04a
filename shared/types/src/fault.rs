//! The one error that crosses boundaries: what went wrong, in words that a
//! client may read. Each API renders it in its own shape at the edge; causes
//! that only an operator should see are logged where they happen.

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer, Serialize};

/// What kind of thing went wrong. The HTTP status in parentheses is the usual
/// one; an API may choose another (over quota is 403, 409 or 413).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The request makes no sense (400).
    Invalid,
    /// Nobody is logged in, or the token is no good (401).
    Unauthorized,
    /// Known, and not allowed (403).
    Forbidden,
    /// No such thing, or none that the caller may see (404).
    NotFound,
    /// No such method on this path (405).
    MethodNotAllowed,
    /// The client accepts nothing that can be given (406).
    NotAcceptable,
    /// The thing is in a state that does not allow this, or it is there already (409).
    Conflict,
    /// It was there once (410).
    Gone,
    /// A length must be given (411).
    LengthRequired,
    /// A condition of the request does not hold (412).
    PreconditionFailed,
    /// The body is too large (413).
    TooLarge,
    /// The body is of a type that is not taken (415).
    UnsupportedMedia,
    /// The wanted range does not exist (416).
    RangeNotSatisfiable,
    /// Well-formed and still impossible, such as a wrong checksum (422).
    Unprocessable,
    /// A quota does not allow it.
    OverQuota,
    /// Too many requests (429).
    TooManyRequests,
    /// A defect of ours (500).
    Internal,
    /// Known to the API, and not offered here (501).
    NotImplemented,
    /// Something needed is away; try again (503).
    Unavailable,
    /// It took longer than it may (504).
    Timeout,
    /// The sender was overtaken: its epoch or generation is an old one (409).
    Stale,
    /// No host can take the server (409).
    NoValidHost,
    /// There is no room left to store it (507; RFC 4918, 11.5).
    InsufficientStorage,
}

impl FaultCode {
    /// Whether the same request may succeed later without being changed.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Timeout | Self::TooManyRequests | Self::Internal
        )
    }
}

/// An error that may be shown to the client that caused it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind; one that only a later release knows is read as internal.
    #[serde(deserialize_with = "known_code")]
    pub code: FaultCode,
    /// A sentence for a person, without internals.
    pub message: String,
    /// Machine-readable particulars, for example `{"type": "NetworkInUse"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// Seconds after which trying again makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

fn known_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FaultCode, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known: Result<_, serde::de::value::Error> =
        FaultCode::deserialize(name.as_str().into_deserializer());
    Ok(known.unwrap_or(FaultCode::Internal))
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(FaultCode::$code, message)
        }
    )*};
}

impl Fault {
    /// A fault without particulars.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            retry_after: None,
        }
    }

    constructors! {
        /// 400.
        invalid => Invalid;
        /// 401.
        unauthorized => Unauthorized;
        /// 403.
        forbidden => Forbidden;
        /// 404.
        not_found => NotFound;
        /// 409.
        conflict => Conflict;
        /// 413.
        too_large => TooLarge;
        /// 415.
        unsupported_media => UnsupportedMedia;
        /// 422.
        unprocessable => Unprocessable;
        /// Over quota.
        over_quota => OverQuota;
        /// 500; the message must not name internals.
        internal => Internal;
        /// 501.
        not_implemented => NotImplemented;
        /// 504.
        timeout => Timeout;
        /// An old epoch or generation.
        stale => Stale;
        /// Nowhere to put a server.
        no_valid_host => NoValidHost;
        /// 412.
        precondition_failed => PreconditionFailed;
    }

    /// 503, with the advice to come back in a few seconds.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(5),
            ..Self::new(FaultCode::Unavailable, message)
        }
    }

    /// Adds machine-readable particulars.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Names the kind of error in the words of the API, where the API has
    /// such words (Neutron's `NeutronError.type`).
    #[must_use]
    pub fn with_type(self, name: &str) -> Self {
        self.with_details(serde_json::json!({ "type": name }))
    }

    /// The name given by [`Fault::with_type`].
    pub fn type_name(&self) -> Option<&str> {
        self.details.as_ref()?.get("type")?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_later_release_is_still_a_fault() {
        let known = Fault::conflict("No.").with_type("NetworkInUse");
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), known);
        let later = r#"{"code": "out_of_patience", "message": "Enough.", "since": 7}"#;
        let read: Fault = serde_json::from_str(later).unwrap();
        assert_eq!(read, Fault::internal("Enough."));
    }
}

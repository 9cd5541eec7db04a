//! Requests that may be sent again without being done again.

use std::fmt;

use crate::fault::Fault;

/// What a client called a request that makes something, and what it asked for
/// under that name: the header `Idempotency-Key` of
/// draft-ietf-httpapi-idempotency-key-header, with a digest of the request.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters, chosen by the client.
    pub key: String,
    /// SHA-256 of the key, the method, the path and the body, in 64
    /// hexadecimal digits.
    pub digest: String,
}

impl IdempotencyKey {
    /// 409 with `Retry-After`: the first request with this key is not done yet.
    pub fn in_flight() -> Fault {
        Fault {
            retry_after: Some(1),
            ..Fault::conflict(
                "Another request with this Idempotency-Key is still being handled. Try again.",
            )
            .with_type("IdempotencyKeyInFlight")
        }
    }

    /// 422: the key stands for another request.
    pub fn reused() -> Fault {
        Fault::unprocessable(
            "This Idempotency-Key was used for another request; use a new key for a new one.",
        )
        .with_type("IdempotencyKeyReused")
    }

    /// 409: what the key made has been deleted. It is not made again.
    pub fn gone() -> Fault {
        Fault::conflict(
            "What this Idempotency-Key made is not there any more; use a new key to make another.",
        )
        .with_type("IdempotencyKeyGone")
    }

    /// 400: the answer holds a secret, which is not to be had by repeating.
    pub fn refused() -> Fault {
        Fault::invalid(
            "The answer to this request holds a secret; it does not take an Idempotency-Key.",
        )
        .with_type("IdempotencyKeyRefused")
    }
}

/// Keys are as good as they are unknown: they stand in no log.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("IdempotencyKey(..)")
    }
}

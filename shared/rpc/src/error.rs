//! What can go wrong between a caller and the one that it speaks to.

use yakumo_types::{Fault, FaultCode};

/// Why a message was not delivered, or what its receiver answered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// No reply within the deadline; the method may still have run.
    #[error("no reply within the deadline")]
    Timeout,
    /// Nobody serves the topic; the method did not run.
    #[error("nobody serves {0}")]
    Unroutable(String),
    /// The broker is away or blocked, and stayed so for the patience that the
    /// message had.
    #[error("the message broker is not available")]
    BrokerUnavailable,
    /// The receiver's queue is full; the message was not taken.
    #[error("the queue of {0} is full")]
    Full(String),
    /// The receiver is of another version and would misunderstand.
    #[error("versions do not match: {0}")]
    BadVersion(String),
    /// What came back cannot be read.
    #[error("unreadable message: {0}")]
    Malformed(String),
    /// Payload or reply beyond [`crate::MAX_PAYLOAD`].
    #[error("a message of {0} bytes is too large for the bus")]
    TooLarge(usize),
    /// The broker's configuration forbids this to this process.
    #[error("refused by the broker: {0}")]
    Refused(String),
    /// A host's topic has one server, and another process is it.
    #[error("another process serves {0}")]
    InUse(String),
    /// The receiver's own answer.
    #[error("refused by the receiver: {0}")]
    Remote(Fault),
}

impl From<RpcError> for Fault {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Timeout => Self::timeout("A service of this cloud did not answer in time."),
            RpcError::Unroutable(topic) => Self::unavailable(match topic.strip_prefix("host.") {
                Some(host) => format!("The host {host} is not connected."),
                None => format!("The {topic} service is not available."),
            }),
            RpcError::BrokerUnavailable => {
                Self::unavailable("The message broker is not available.")
            }
            RpcError::Full(topic) => {
                Self::unavailable(format!("Too many messages are waiting for {topic}."))
            }
            RpcError::BadVersion(_) => Self::unavailable(
                "A service of this cloud is of an older release, and is about to be replaced.",
            ),
            RpcError::Malformed(_) | RpcError::Refused(_) => {
                Self::internal("A message between services could not be exchanged.")
            }
            RpcError::InUse(topic) => {
                Self::conflict(format!("Another process serves {topic} already."))
            }
            RpcError::TooLarge(_) => Self::new(
                FaultCode::TooLarge,
                "The request is too large to be passed between services.",
            ),
            RpcError::Remote(fault) => fault,
        }
    }
}

//! Messages that could not be handled, kept for an operator.

use uuid::Uuid;
use yakumo_types::Timestamp;

/// A message that was set aside, because nobody here can read it or because
/// handling it kept failing.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ParkedMessage {
    /// Names it for [`crate::Bus::parked_replay`]; the message's own id where
    /// that could be read.
    pub id: Uuid,
    /// The topic that it was meant for; empty where it could not be read.
    pub target: String,
    /// Contract and method, `service/method`; empty where it could not be read.
    pub method: String,
    /// Who sent it: `control` or `host.<name>`.
    pub sender: String,
    /// Why it was set aside.
    pub reason: String,
    /// When.
    pub parked_at: Option<Timestamp>,
    /// Bytes of the whole message.
    pub size: usize,
}

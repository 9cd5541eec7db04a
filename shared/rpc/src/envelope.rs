//! What travels: an envelope around every payload, and the reply to a call.
//!
//! The envelope's own version is apart from the payload's: a receiver that
//! does not know the envelope cannot even tell what the payload is, and parks
//! the message. Fields may be added; numbers are never used again.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;
use yakumo_types::Fault;

use crate::address::{Kind, Version};
use crate::error::RpcError;

/// The most bytes that a payload or a reply may have (1 MiB).
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The most bytes that anything encoded may have: a payload and what is around it.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + (64 << 10);

/// Raised when a receiver of the old envelope would misread the new one.
pub(crate) const ENVELOPE_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Envelope {
    #[prost(uint32, tag = "1")]
    pub envelope_version: u32,
    /// Sixteen bytes; the same in every copy of one message.
    #[prost(bytes = "bytes", tag = "2")]
    pub message_id: Bytes,
    /// 1 call, 2 cast, 3 fanout.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    #[prost(string, tag = "4")]
    pub service: String,
    #[prost(string, tag = "5")]
    pub method: String,
    #[prost(uint32, tag = "6")]
    pub major: u32,
    #[prost(uint32, tag = "7")]
    pub minor: u32,
    /// The request's context as sealed text, without the request's id; empty
    /// from a host.
    #[prost(string, tag = "9")]
    pub sealed_context: String,
    /// Sixteen bytes; what the request is called, by the sender's word.
    #[prost(bytes = "bytes", tag = "10")]
    pub request_id: Bytes,
    #[prost(string, tag = "11")]
    pub traceparent: String,
    #[prost(string, tag = "12")]
    pub tracestate: String,
    /// The sending process, for people who read logs.
    #[prost(string, tag = "13")]
    pub source: String,
    /// The topic that this was meant for; it is worthless anywhere else.
    #[prost(string, tag = "14")]
    pub target: String,
    /// The host that a control process speaks for, with that host's rights
    /// only; empty otherwise.
    #[prost(string, tag = "15")]
    pub on_behalf_of: String,
    #[prost(bytes = "bytes", tag = "16")]
    pub payload: Bytes,
    /// For how long the sender waits, in microseconds; 0 if it does not. No point
    /// in time (number 8 was one), which two clocks would have to agree on.
    #[prost(uint64, tag = "17")]
    pub lifetime: u64,
}

impl Envelope {
    pub fn id(&self) -> Option<Uuid> {
        Uuid::from_slice(&self.message_id).ok()
    }

    pub fn kind(&self) -> Option<Kind> {
        match self.kind {
            1 => Some(Kind::Call),
            2 => Some(Kind::Cast),
            3 => Some(Kind::Fanout),
            _ => None,
        }
    }

    /// The request that it was sent for, by the sender's word, as logs write it.
    pub fn request_name(&self) -> String {
        let id = Uuid::from_slice(&self.request_id).unwrap_or_default();
        format!("req-{id}")
    }

    pub fn version(&self) -> Version {
        Version {
            major: self.major,
            minor: self.minor,
        }
    }

    pub fn lifetime(&self) -> Option<Duration> {
        (self.lifetime != 0).then(|| Duration::from_micros(self.lifetime))
    }

    /// Reads an envelope, or says what is wrong with it.
    pub fn read(bytes: Bytes) -> Result<Self, String> {
        if bytes.len() > MAX_MESSAGE {
            return Err(format!("{} bytes are too many", bytes.len()));
        }
        let envelope = Self::decode(bytes).map_err(|error| error.to_string())?;
        if envelope.envelope_version != ENVELOPE_VERSION {
            return Err(format!(
                "envelope version {} is not known here",
                envelope.envelope_version
            ));
        }
        if envelope.id().is_none() {
            return Err("it has no message id".into());
        }
        if envelope.kind().is_none() {
            return Err(format!("kind {} is not known here", envelope.kind));
        }
        Ok(envelope)
    }
}

pub(crate) const fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Call => 1,
        Kind::Cast => 2,
        Kind::Fanout => 3,
    }
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    #[prost(uint32, tag = "1")]
    pub envelope_version: u32,
    /// The message id of the call.
    #[prost(bytes = "bytes", tag = "2")]
    pub message_id: Bytes,
    /// 1 payload, 2 fault as JSON, 3 wrong version.
    #[prost(uint32, tag = "3")]
    pub outcome: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
}

const OUTCOME_OK: u32 = 1;
const OUTCOME_FAULT: u32 = 2;
const OUTCOME_BAD_VERSION: u32 = 3;

impl Reply {
    fn new(message_id: Bytes, outcome: u32, payload: Bytes) -> Self {
        Self {
            envelope_version: ENVELOPE_VERSION,
            message_id,
            outcome,
            payload,
        }
    }

    pub fn ok(message_id: Bytes, payload: Vec<u8>) -> Self {
        if payload.len() > MAX_PAYLOAD {
            return Self::fault(
                message_id,
                &Fault::too_large("The answer is too large to be passed between services."),
            );
        }
        Self::new(message_id, OUTCOME_OK, payload.into())
    }

    pub fn fault(message_id: Bytes, fault: &Fault) -> Self {
        // A fault is text and JSON values: it always has a JSON form.
        let text = serde_json::to_vec(fault).unwrap_or_default();
        Self::new(message_id, OUTCOME_FAULT, text.into())
    }

    pub fn bad_version(message_id: Bytes, why: String) -> Self {
        Self::new(message_id, OUTCOME_BAD_VERSION, why.into())
    }

    pub fn read(bytes: Bytes) -> Result<Self, String> {
        if bytes.len() > MAX_MESSAGE {
            return Err(format!("{} bytes are too many", bytes.len()));
        }
        Self::decode(bytes).map_err(|error| error.to_string())
    }

    pub fn id(&self) -> Option<Uuid> {
        Uuid::from_slice(&self.message_id).ok()
    }

    /// The caller learns at once that it was answered in a way that it does not
    /// understand.
    pub fn into_result(self) -> Result<Vec<u8>, RpcError> {
        if self.envelope_version != ENVELOPE_VERSION {
            let version = self.envelope_version;
            return Err(RpcError::Malformed(format!("envelope version {version}")));
        }
        match self.outcome {
            OUTCOME_OK => Ok(self.payload.into()),
            OUTCOME_FAULT => match serde_json::from_slice(&self.payload) {
                Ok(fault) => Err(RpcError::Remote(fault)),
                Err(error) => Err(RpcError::Malformed(error.to_string())),
            },
            OUTCOME_BAD_VERSION => Err(RpcError::BadVersion(
                String::from_utf8_lossy(&self.payload).into_owned(),
            )),
            other => Err(RpcError::Malformed(format!("outcome {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            envelope_version: ENVELOPE_VERSION,
            message_id: Bytes::copy_from_slice(Uuid::from_u128(7).as_bytes()),
            kind: 2,
            service: "network.v1.Network".into(),
            method: "Nudge".into(),
            major: 1,
            payload: Bytes::from_static(b"hello"),
            ..Envelope::default()
        }
    }

    #[test]
    fn an_envelope_comes_back_as_it_was() {
        let bytes = Bytes::from(envelope().encode_to_vec());
        assert_eq!(Envelope::read(bytes).unwrap(), envelope());
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_the_reason() {
        let check = |change: fn(&mut Envelope), reason: &str| {
            let mut envelope = envelope();
            change(&mut envelope);
            let refusal = Envelope::read(envelope.encode_to_vec().into()).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        };
        check(|e| e.envelope_version = 2, "envelope version 2");
        check(|e| e.message_id = Bytes::new(), "no message id");
        check(|e| e.kind = 9, "kind 9");
        check(|e| e.payload = vec![0; MAX_MESSAGE].into(), "too many");
        assert!(Envelope::read(Bytes::from_static(b"\xff\xff\xff")).is_err());
    }

    #[test]
    fn an_answer_that_is_not_understood_is_told_so() {
        let mut newer = Reply::ok(Bytes::new(), b"hello".to_vec());
        newer.envelope_version = 2;
        let mut other = Reply::ok(Bytes::new(), b"hello".to_vec());
        other.outcome = 9;
        for reply in [newer, other] {
            let read = Reply::read(reply.encode_to_vec().into()).unwrap();
            let error = read.into_result().unwrap_err();
            assert!(matches!(error, RpcError::Malformed(_)), "{error:?}");
        }
    }

    #[test]
    fn a_fault_travels_whole() {
        let fault = Fault::conflict("It is there.").with_type("InUse");
        let reply = Reply::fault(Bytes::new(), &fault).encode_to_vec();
        let error = Reply::read(reply.into())
            .unwrap()
            .into_result()
            .unwrap_err();
        assert!(matches!(error, RpcError::Remote(back) if back == fault));
    }
}

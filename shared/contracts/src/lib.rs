//! What the services say to each other: one module per service, generated
//! from `proto/`. A caller cannot misspell a method, a server cannot forget
//! one, and every contract carries its version.
//!
//! A method that returns `Cast` or `Fanout` is handed over and not waited
//! for; every other one is a call with a deadline.
//!
//! Hosts may use only what says so: a comment line `callers: hosts` above a
//! method, or above the service for all of its methods. Everything else
//! refuses them (403) before a handler sees the message.
//!
//! A caller asks for the version in which its method came to be: a comment line
//! `since: MAJOR.MINOR` above a method that was added later. So a newer caller
//! is understood by an older receiver, but for what that does not have.

// The generator writes whole paths and no blank lines between items.
#![allow(clippy::all)]

use yakumo_types::Fault;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

pub(crate) fn decode_request<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload).map_err(|error| {
        Fault::invalid(format!("The message could not be read: {error}."))
            .with_type(yakumo_rpc::NOT_UNDERSTOOD)
    })
}

pub(crate) fn decode_reply<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload)
        .map_err(|error| Fault::internal(format!("The reply could not be read: {error}.")))
}

pub(crate) fn unknown_method(service: &str, method: &str) -> Fault {
    Fault::not_implemented(format!("{service} has no method {method}."))
        .with_type(yakumo_rpc::NOT_UNDERSTOOD)
}

impl From<yakumo_types::IdempotencyKey> for common::IdempotencyKey {
    fn from(key: yakumo_types::IdempotencyKey) -> Self {
        Self {
            key: key.key,
            digest: key.digest,
        }
    }
}

impl From<common::IdempotencyKey> for yakumo_types::IdempotencyKey {
    fn from(key: common::IdempotencyKey) -> Self {
        Self {
            key: key.key,
            digest: key.digest,
        }
    }
}

/// The compiled description of every contract, for fingerprints and tools.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.fds"));

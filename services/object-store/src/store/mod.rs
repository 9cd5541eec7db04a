//! The index: accounts, containers, objects, and data that is to be removed.
//!
//! Names are bytes, so that every database orders them as the API does.
//! A change of an object begins by updating its container's row, so that
//! changes in one container follow each other and its counters are always
//! right; an account's counters are the sums over its containers.

pub mod accounts;
pub mod containers;
mod entity;
pub mod garbage;
pub mod migration;
pub mod objects;

pub use migration::Migrator;

use std::collections::BTreeMap;

use yakumo_db::DbError;

/// Names and values that a client keeps with a thing.
pub type Metadata = BTreeMap<String, String>;

fn to_json(metadata: &Metadata) -> Result<String, DbError> {
    Ok(serde_json::to_string(metadata)?)
}

fn from_json(text: &str) -> Result<Metadata, DbError> {
    Ok(serde_json::from_str(text)?)
}

fn from_bytes(name: Vec<u8>) -> Result<String, DbError> {
    String::from_utf8(name).map_err(DbError::other)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

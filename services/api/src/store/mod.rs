//! The tables of the api service, and every query on them. One file for each
//! resource; names begin with the resource.

pub mod actions;
pub mod entity;
pub mod flavors;
pub mod host_tokens;
pub mod hosts;
pub mod key_pairs;
pub mod likeness;
pub mod migration;
pub mod quotas;
pub mod server_changes;
pub mod servers;
pub mod volumes;

use sea_orm::DbBackend;

pub use sea_orm::DatabaseTransaction;

/// What an integer is cast to: sums are of other types in each database.
fn integer_type(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::MySql => "SIGNED",
        _ => "BIGINT",
    }
}

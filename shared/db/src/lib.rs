//! The databases: one schema per service, on SQLite, PostgreSQL or
//! MariaDB/MySQL, behaving alike.
//!
//! * **Reading** goes through [`Db::read`], a pool of plain connections.
//! * **Writing** goes through [`Db::write`], one transaction per call, run
//!   again where the database says that it lost a race. On SQLite all writes
//!   of a process meet in one task that runs everything waiting under one
//!   fsync ([`Db::write`] says what that means to callers).
//! * **Errors** are [`DbError`]; constraint violations carry the same name on
//!   every database, and `From<DbError> for Fault` is the one place where they
//!   become answers.
//! * **What is stored alike**: ids as text, times as microseconds, JSON as
//!   text, text compared byte by byte ([`columns`], [`Db::migrate`]).
//!
//! Nobody opens a table of another service, and `sea_orm` is used here, in the
//! workflow engine and in the services' `store` folders only.

mod backend;
mod clock;
pub mod columns;
mod config;
mod connect;
mod error;
mod hooks;
pub mod idempotency;
mod migrate;
mod paging;
pub mod revisions;
mod rows;
pub mod simulated;
mod source;
mod sqlite;
mod write;

pub use backend::Backend;
pub use clock::{database_now, now_expr};
pub use config::{DatabaseUrl, DbConfig};
pub use error::DbError;
pub use hooks::after_commit;
pub use migrate::{MigrationState, migration};
pub use paging::{Direction, keyset};
pub use rows::{ExpectOne, attempt, compare_and_swap, skip_locked};
pub use write::Db;

pub use futures::future::BoxFuture;
pub use sea_orm::{DatabaseConnection, DatabaseTransaction};
pub use sea_orm_migration::MigratorTrait;

//! The volume service on an in-process bus, its rules on every database, with
//! real files and real exports.

// Futures of tests hold those of a whole cloud, several deep.
#![recursion_limit = "256"]
// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attachments;
mod cloud;
mod exports;
mod files;
mod full;
mod hosts;
mod repeats;
mod volumes;

/// Makes each of these functions a test on every database.
#[macro_export]
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(yakumo_db::Backend::Sqlite).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(yakumo_db::Backend::Postgres).await })*
        }
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(yakumo_db::Backend::Mysql).await })*
        }
    };
}

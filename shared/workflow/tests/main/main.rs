//! The workflow engine, each promise on all three databases.

// The helpers nest futures deeply, and each world adds its own.
#![recursion_limit = "256"]
// A failed expectation of a test is a panic, with the place where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod fences;
mod lazy;
mod lingering;
mod outage;
mod proofs;
mod put_back;
mod sharing;
mod submitting;
mod trail;
mod world;

/// Makes each of these functions a test on every database.
#[macro_export]
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(yakumo_db::Backend::Sqlite).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(yakumo_db::Backend::Postgres).await })*
        }
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(yakumo_db::Backend::Mysql).await })*
        }
    };
}

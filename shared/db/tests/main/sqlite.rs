//! SQLite's one writer.

use std::time::Duration;

use futures::future::join_all;
use sea_orm::ConnectionTrait;
use yakumo_db::{Backend, Db, DbConfig, DbError};
use yakumo_testing::databases::fresh;

use crate::things::{Migrator, add, count, database, insert, thing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_fails_takes_nobody_with_it() {
    let database = database(Backend::Sqlite).await;
    let results = join_all((0..300).map(|number| {
        database.db.write(move |txn| {
            Box::pin(async move {
                insert(txn, thing(&number.to_string(), &number.to_string())).await?;
                match number % 3 {
                    0 => Err(DbError::Stale),
                    // Fails in the database itself.
                    1 => insert(txn, thing(&number.to_string(), "again")).await,
                    _ => Ok(()),
                }
            })
        })
    }))
    .await;
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), number % 3 == 2, "{number}: {result:?}");
    }
    assert_eq!(count(&database).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_never_ends_is_given_up() {
    let database = fresh(Backend::Sqlite).await.unwrap();
    database.db.migrate::<Migrator>().await.unwrap();
    let config = DbConfig {
        statement_timeout: Duration::from_millis(200),
        ..database.config.clone()
    };
    let db = Db::connect(&config).await.unwrap();
    let stuck = db.write(|txn| {
        Box::pin(async move {
            insert(txn, thing("stuck", "stuck")).await?;
            std::future::pending::<Result<(), DbError>>().await
        })
    });
    assert!(matches!(stuck.await, Err(DbError::Unavailable)));
    db.write(|txn| Box::pin(async move { insert(txn, thing("1", "one")).await }))
        .await
        .unwrap();
    assert_eq!(count(&database).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_is_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = DbConfig::sqlite(&folder.path().join("with space & more.db"));
    let db = Db::connect(&config).await.unwrap();
    let expected = [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
    ];
    for (name, value) in expected {
        let written = db
            .write(move |txn| Box::pin(async move { read_pragma(txn, name).await }))
            .await
            .unwrap();
        assert_eq!(written, value, "{name} of the writer");
        // All readers at once, so that each connection is asked.
        for read in join_all((0..8).map(|_| read_pragma(db.read(), name))).await {
            assert_eq!(read.unwrap(), value, "{name} of a reader");
        }
    }
    let refused = db.read().execute_unprepared("CREATE TABLE x (y INT)").await;
    assert!(refused.is_err(), "readers must not write");
}

async fn read_pragma<C: ConnectionTrait>(connection: &C, name: &str) -> Result<String, DbError> {
    let statement = sea_orm::Statement::from_string(
        sea_orm::DbBackend::Sqlite,
        format!("SELECT CAST({name} AS TEXT) AS v FROM pragma_{name}"),
    );
    let row = connection.query_one_raw(statement).await?.unwrap();
    Ok(row.try_get("", "v")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_may_share_a_file() {
    let database = database(Backend::Sqlite).await;
    let other = Db::connect(&database.config).await.unwrap();
    let mine = join_all((0..100).map(|number| {
        add(
            &database,
            thing(&format!("a{number}"), &format!("a{number}")),
        )
    }));
    let theirs = join_all((0..100).map(|number| {
        other.write(move |txn| {
            Box::pin(async move {
                insert(txn, thing(&format!("b{number}"), &format!("b{number}"))).await
            })
        })
    }));
    let (mine, theirs) = futures::join!(mine, theirs);
    assert!(mine.iter().chain(&theirs).all(Result::is_ok));
    assert_eq!(count(&database).await, 200);
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    let error = Db::connect(&DbConfig::with_url("sqlite::memory:")).await;
    assert!(matches!(error, Err(DbError::Configuration(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_closing_everything_fails_and_nothing_hangs() {
    let database = database(Backend::Sqlite).await;
    database.db.close().await;
    let error = add(&database, thing("1", "one")).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable));
    assert!(database.db.ping().await.is_err());
}

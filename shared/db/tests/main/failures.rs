//! A server that goes away and comes back.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use yakumo_db::{Backend, Db, DbConfig, DbError};
use yakumo_testing::databases::{DatabaseServer, fresh};
use yakumo_types::{Fault, FaultCode};

use crate::things::{Migrator, insert, thing};

async fn a_lost_server_is_unavailable_and_comes_back_by_itself(backend: Backend) {
    let server = DatabaseServer::start(backend).await.unwrap();
    let config = DbConfig {
        acquire_timeout: Duration::from_secs(1),
        ..DbConfig::with_url(server.create().await.unwrap())
    };
    let db = Db::connect(&config).await.unwrap();
    db.migrate::<Migrator>().await.unwrap();
    let add = |id: &'static str| {
        db.write(move |txn| Box::pin(async move { insert(txn, thing(id, id)).await }))
    };
    add("before").await.unwrap();

    server.kill().await.unwrap();
    for id in ["while1", "while2"] {
        let error = tokio::time::timeout(Duration::from_secs(10), add(id))
            .await
            .expect("an answer within a bound")
            .unwrap_err();
        assert!(matches!(error, DbError::Unavailable), "{error:?}");
        let fault = Fault::from(error);
        assert_eq!(fault.code, FaultCode::Unavailable);
        assert!(fault.retry_after.is_some());
    }
    assert!(db.ping().await.is_err());
    let error = Db::connect(&config).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable), "{error:?}");

    server.resume().await.unwrap();
    add("after").await.unwrap();
    db.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_postgres_comes_back() {
    a_lost_server_is_unavailable_and_comes_back_by_itself(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_mariadb_comes_back() {
    a_lost_server_is_unavailable_and_comes_back_by_itself(Backend::Mysql).await;
}

async fn the_health_of_a_process_turns_with_its_database(backend: Backend) {
    let server = DatabaseServer::start(backend).await.unwrap();
    let config = DbConfig {
        acquire_timeout: Duration::from_secs(1),
        ..DbConfig::with_url(server.create().await.unwrap())
    };
    let db = Db::connect(&config).await.unwrap();
    let process = yakumo_service::Process::new("test", yakumo_service::system_env());
    yakumo_service::probe(&process, "database test", db.pinger());
    let turns = async |wanted: &str| {
        let wait = async {
            while process.health.report().status != wanted {
                process.env.clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let turned = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(turned.is_ok(), "{wanted}: {:?}", process.health.report());
    };
    turns("up").await;
    server.kill().await.unwrap();
    turns("down").await;
    assert!(!process.health.report().serves());
    server.resume().await.unwrap();
    turns("up").await;
    assert!(process.drain(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_turns_with_postgres() {
    the_health_of_a_process_turns_with_its_database(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_turns_with_mariadb() {
    the_health_of_a_process_turns_with_its_database(Backend::Mysql).await;
}

async fn a_lock_that_is_never_released_ends_in_a_fault(backend: Backend) {
    let database = fresh(backend).await.unwrap();
    database.db.migrate::<Migrator>().await.unwrap();
    let config = DbConfig {
        statement_timeout: Duration::from_secs(3),
        ..database.config.clone()
    };
    let db = Db::connect(&config).await.unwrap();
    let (locked, wait) = tokio::sync::oneshot::channel::<()>();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (locked, released) = (
        std::sync::Mutex::new(Some(locked)),
        std::sync::Mutex::new(Some(released)),
    );
    let holder = database.db.clone();
    let holder = tokio::spawn(async move {
        let parts = std::sync::Arc::new((locked, released));
        holder
            .write(move |txn| {
                let parts = std::sync::Arc::clone(&parts);
                Box::pin(async move {
                    insert(txn, thing("1", "one")).await?;
                    let locked = parts.0.lock().unwrap().take().unwrap();
                    locked.send(()).unwrap();
                    let released = parts.1.lock().unwrap().take().unwrap();
                    let _ = released.await;
                    Ok(())
                })
            })
            .await
    });
    wait.await.unwrap();
    // Waits for the other transaction's fate, because the key is the same.
    let blocked = db.write(|txn| Box::pin(async move { insert(txn, thing("1", "other")).await }));
    let error = tokio::time::timeout(Duration::from_secs(10), blocked)
        .await
        .expect("an answer within a bound")
        .unwrap_err();
    assert!(
        matches!(error, DbError::Unavailable | DbError::Contended),
        "{error:?}"
    );
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_in_postgres_is_not_waited_for_forever() {
    a_lock_that_is_never_released_ends_in_a_fault(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_in_mariadb_is_not_waited_for_forever() {
    a_lock_that_is_never_released_ends_in_a_fault(Backend::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_isolate_as_agreed() {
    for (backend, sql, wanted) in [
        (
            Backend::Postgres,
            "SELECT current_setting('transaction_isolation') AS v",
            "read committed",
        ),
        (
            Backend::Mysql,
            "SELECT CAST(@@tx_isolation AS CHAR) AS v",
            "READ-COMMITTED",
        ),
    ] {
        let database = fresh(backend).await.unwrap();
        let read = database.db.read();
        let statement = sea_orm::Statement::from_string(read.get_database_backend(), sql);
        let row = read.query_one_raw(statement).await.unwrap().unwrap();
        let found: String = row.try_get("", "v").unwrap();
        assert_eq!(found, wanted);
    }
}

//! Servers that answer and still do not do what they are asked: read-only
//! ones, those that refuse at the commit, and those that are slow.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use yakumo_db::{Backend, Db, DbConfig, DbError};
use yakumo_service::{ComponentHealth, Process, probe, system_env};
use yakumo_testing::databases::{DatabaseServer, TestDatabase};
use yakumo_testing::disks::FaultyDisk;
use yakumo_types::{Fault, FaultCode};

use crate::things::{Migrator, add, count, database, insert, thing};

const BOUND: Duration = Duration::from_secs(60);

/// What a client is told, whatever is the matter with the database.
fn is_told_to_come_back(error: DbError) {
    let shown = format!("{error:?}");
    let fault = Fault::from(error);
    assert_eq!(fault.code, FaultCode::Unavailable, "{shown}");
    assert!(fault.retry_after.is_some(), "{shown}");
}

async fn health_becomes(process: &Process, wanted: &str) {
    let wait = async {
        while process.health.report().status != wanted {
            process.env.clock.sleep(Duration::from_millis(20)).await;
        }
    };
    let turned = tokio::time::timeout(BOUND, wait).await;
    assert!(turned.is_ok(), "{wanted}: {:?}", process.health.report());
}

async fn run(db: &Db, sql: &str) {
    db.read().execute_unprepared(sql).await.unwrap();
}

async fn change(db: &Db, id: &'static str) -> Result<(), DbError> {
    db.write(move |txn| Box::pin(async move { insert(txn, thing(id, id)).await }))
        .await
}

/// While it is read-only it is read, changes are refused and nothing else, and
/// the health says why; `turn` turns it one way and back.
async fn a_read_only_server(db: Db, turn: impl AsyncFn(bool)) {
    let process = what_is_read_only_is_read(&db, async || turn(true).await).await;
    turn(false).await;
    health_becomes(&process, "up").await;
    change(&db, "while").await.unwrap();
    assert!(process.drain(Duration::from_secs(10)).await);
}

/// The half of it in which it is read-only, from then on; returns the process
/// whose health it is.
async fn what_is_read_only_is_read(db: &Db, turn: impl AsyncFnOnce()) -> Process {
    db.migrate::<Migrator>().await.unwrap();
    change(db, "before").await.unwrap();
    let process = Process::new("test", system_env());
    probe(&process, "database test", db.pinger());
    health_becomes(&process, "up").await;

    turn().await;
    let refused = async {
        loop {
            // A connection from before may have been cut off in between.
            match change(db, "while").await {
                Err(DbError::ReadOnly) => return,
                Err(DbError::Unavailable) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(BOUND, refused).await.unwrap();
    is_told_to_come_back(change(db, "while").await.unwrap_err());
    health_becomes(&process, "degraded").await;
    // Not only at the first look.
    process.env.clock.sleep(Duration::from_secs(2)).await;
    let report = process.health.report();
    assert!(report.serves(), "{report:?}");
    let ComponentHealth::Degraded(why) = &report.components["database test"] else {
        panic!("{report:?}");
    };
    assert!(why.contains("read-only"), "{why}");
    db.read()
        .query_one_raw(sea_orm::Statement::from_string(
            db.read().get_database_backend(),
            "SELECT id FROM things",
        ))
        .await
        .unwrap()
        .unwrap();
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_on_a_damaged_disk_is_read_and_says_so() {
    let disk = FaultyDisk::new(32).unwrap();
    let config = DbConfig::sqlite(&disk.path().join("test.db"));
    let db = Db::connect(&config).await.unwrap();
    let damage = async || disk.damage().unwrap();
    let process = what_is_read_only_is_read(&db, damage).await;
    assert!(process.drain(Duration::from_secs(10)).await);
    db.close().await;

    disk.repair().unwrap();
    let db = Db::connect(&config).await.unwrap();
    let again = change(&db, "before").await.unwrap_err();
    assert!(matches!(again, DbError::Conflict { .. }), "{again:?}");
    change(&db, "while").await.unwrap();
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_postgres_is_read_and_says_so() {
    let TestDatabase { db, config, .. } = database(Backend::Postgres).await;
    let admin = Db::connect(&config).await.unwrap();
    // As after a switch to a standby: what was connected is cut off.
    a_read_only_server(db, async |read_only| {
        let setting = if read_only { "on" } else { "off" };
        run(
            &admin,
            &format!(
                // The administrator's own transactions are read-only by then, too.
                "BEGIN READ WRITE; DO $$ BEGIN EXECUTE format( \
                   'ALTER DATABASE %I SET default_transaction_read_only = {setting}', \
                   current_database()); END $$; COMMIT"
            ),
        )
        .await;
        run(
            &admin,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_mariadb_is_read_and_says_so() {
    // A setting of the whole server, so it has one of its own; and it does not
    // hold for those who may do everything.
    let server = DatabaseServer::start(Backend::Mysql).await.unwrap();
    let url = server.create().await.unwrap();
    let admin = Db::connect(&DbConfig::with_url(url.clone())).await.unwrap();
    run(&admin, "CREATE USER yakumo@localhost").await;
    run(&admin, "GRANT ALL ON `test\\_%`.* TO yakumo@localhost").await;
    let config = DbConfig::with_url(url.replace("root@", "yakumo@"));
    let db = Db::connect(&config).await.unwrap();
    a_read_only_server(db, async |read_only| {
        let setting = if read_only { "ON" } else { "OFF" };
        run(&admin, &format!("SET GLOBAL read_only = {setting}")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_server_refuses_changes_nothing() {
    let database = database(Backend::Postgres).await;
    run(
        &database.db,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'not today'; END $$",
    )
    .await;
    run(
        &database.db,
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON things \
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    for id in ["1", "2"] {
        is_told_to_come_back(add(&database, thing(id, id)).await.unwrap_err());
    }
    assert_eq!(count(&database).await, 0);
    run(&database.db, "DROP TRIGGER refuse ON things").await;
    add(&database, thing("1", "1")).await.unwrap();
}

/// A server that takes a minute for a statement that may take three seconds.
async fn a_slow_server_is_given_up(backend: Backend, slow: &[&str], fast: &str) {
    let database = database(backend).await;
    for sql in slow {
        run(&database.db, sql).await;
    }
    let config = DbConfig {
        statement_timeout: Duration::from_secs(3),
        ..database.config.clone()
    };
    let db = Db::connect(&config).await.unwrap();
    let change = || db.write(|txn| Box::pin(async move { insert(txn, thing("1", "one")).await }));
    let begun = system_env().clock.monotonic();
    is_told_to_come_back(change().await.unwrap_err());
    let taken = system_env().clock.monotonic() - begun;
    assert!(taken < Duration::from_secs(30), "{taken:?}");
    run(&database.db, fast).await;
    change().await.unwrap();
    assert_eq!(count(&database).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_postgres_is_given_up() {
    a_slow_server_is_given_up(
        Backend::Postgres,
        &[
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$",
            "CREATE TRIGGER dawdle BEFORE INSERT ON things \
             FOR EACH ROW EXECUTE FUNCTION dawdle()",
        ],
        "DROP TRIGGER dawdle ON things",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_mariadb_is_given_up() {
    a_slow_server_is_given_up(
        Backend::Mysql,
        &["CREATE TRIGGER dawdle BEFORE INSERT ON things FOR EACH ROW DO SLEEP(60)"],
        "DROP TRIGGER dawdle",
    )
    .await;
}

//! Pools, each connection of which is set up the same way.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{ConnectOptions, Connection, Database, Pool};
use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector, sqlx,
};

use crate::config::DbConfig;
use crate::error::DbError;

/// A connection that was idle for longer is asked whether it still lives
/// before it is used.
const TRUST_IDLE: Duration = Duration::from_secs(1);

/// How long a connection that is given back may take to answer what its last
/// user did not wait for; after that it is thrown away.
const SETTLE_BOUND: Duration = Duration::from_secs(5);

/// How long SQLite waits for another process that holds the file.
const SQLITE_BUSY: Duration = Duration::from_secs(10);

fn refused(error: sqlx::Error) -> DbError {
    match DbError::from(error) {
        DbError::Other(reason) => {
            DbError::Configuration(format!("cannot use the database: {reason}"))
        }
        error => error,
    }
}

fn sqlite_options(config: &DbConfig) -> Result<SqliteConnectOptions, DbError> {
    let url = config.url.reveal();
    if url.contains(":memory:") || url.contains("mode=memory") {
        // Readers and the writer are connections of their own and would each
        // see another, empty database.
        return Err(DbError::Configuration(
            "SQLite needs a file: a database in memory cannot be shared by its connections".into(),
        ));
    }
    // In the connect options and not by statements later, so that every
    // pooled connection has them.
    Ok(SqliteConnectOptions::from_str(url)
        .map_err(refused)?
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(SQLITE_BUSY)
        .synchronous(if config.sqlite_durable {
            SqliteSynchronous::Full
        } else {
            SqliteSynchronous::Off
        })
        .pragma("temp_store", "memory")
        .statement_cache_capacity(512)
        .disable_statement_logging())
}

/// The one connection that writes. WAL, so that it never waits for readers.
pub(crate) async fn sqlite_writer(config: &DbConfig) -> Result<DatabaseConnection, DbError> {
    let options = sqlite_options(config)?
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("wal_autocheckpoint", "4000")
        // KiB, used as they are needed: what is written often stays at hand.
        .pragma("cache_size", "-16384")
        .pragma("journal_size_limit", "67108864");
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(config.acquire_timeout.max(SQLITE_BUSY))
        .connect_with(options)
        .await
        .map_err(refused)?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

/// The connections that read. They cannot write, so that a write that goes
/// past the writer shows at once.
pub(crate) async fn sqlite_readers(config: &DbConfig) -> Result<DatabaseConnection, DbError> {
    let options = sqlite_options(config)?
        .pragma("query_only", "on")
        .pragma("cache_size", "-4096")
        // Rows cross from the connection's own thread in parts of this size.
        .row_buffer_size(1024);
    let pool = SqlitePoolOptions::new()
        .max_connections(config.max_connections.clamp(1, 8))
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(config.acquire_timeout)
        .connect_with(options)
        .await
        .map_err(refused)?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

fn pool_options<D: Database>(config: &DbConfig) -> sqlx::pool::PoolOptions<D> {
    sqlx::pool::PoolOptions::<D>::new()
        .max_connections(config.max_connections.max(2))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(Duration::from_secs(300))
        .max_lifetime(Duration::from_secs(3600))
        // The default asks before every use, which is a round trip each.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for < TRUST_IDLE {
                    return Ok(true);
                }
                Ok(
                    tokio::time::timeout(Duration::from_secs(2), connection.ping())
                        .await
                        .is_ok_and(|answer| answer.is_ok()),
                )
            })
        })
        // Whoever stopped waiting for an answer leaves it to the pool, which
        // would wait for ever if the other end has vanished. Costs nothing
        // where no answer is missing.
        .after_release(|connection, _| {
            Box::pin(async move {
                tokio::time::timeout(SETTLE_BOUND, connection.flush())
                    .await
                    .unwrap_or_else(|_| Err(std::io::Error::from(ErrorKind::TimedOut).into()))
                    .map(|()| true)
            })
        })
}

async fn connect<D: Database>(
    config: &DbConfig,
    pool: sqlx::pool::PoolOptions<D>,
    options: <D::Connection as Connection>::Options,
) -> Result<Pool<D>, DbError> {
    // A host that does not answer at all must not hold a start for minutes.
    let bound = config.acquire_timeout + Duration::from_secs(1);
    tokio::time::timeout(bound, pool.connect_with(options))
        .await
        .map_err(|_| DbError::Unavailable)?
        .map_err(refused)
}

pub(crate) async fn postgres(config: &DbConfig) -> Result<DatabaseConnection, DbError> {
    let statement = config.statement_timeout.as_millis().to_string();
    let lock = (config.statement_timeout / 3).as_millis().to_string();
    let idle = (config.statement_timeout * 2).as_millis().to_string();
    let options = PgConnectOptions::from_str(config.url.reveal())
        .map_err(refused)?
        .application_name("yakumo")
        .options([
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", statement.as_str()),
            ("lock_timeout", lock.as_str()),
            ("idle_in_transaction_session_timeout", idle.as_str()),
        ])
        .statement_cache_capacity(512)
        .disable_statement_logging();
    let pool: PgPoolOptions = pool_options(config);
    let pool = connect(config, pool, options).await?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}

pub(crate) async fn mysql(config: &DbConfig) -> Result<DatabaseConnection, DbError> {
    let options = MySqlConnectOptions::from_str(config.url.reveal())
        .map_err(refused)?
        .charset("utf8mb4")
        .collation("utf8mb4_bin")
        .statement_cache_capacity(512)
        .disable_statement_logging();
    let seconds = config.statement_timeout.as_secs().max(1);
    let lock_seconds = (seconds / 3).max(1);
    let milliseconds = config.statement_timeout.as_millis();
    let pool: MySqlPoolOptions = pool_options(config);
    let pool = pool.after_connect(move |connection, _| {
        Box::pin(async move {
            use sqlx::Executor;
            // MariaDB and MySQL spell the time limit differently; code in
            // a comment of this form is run by the server that it names.
            let setup = format!(
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                 SET SESSION innodb_lock_wait_timeout = {lock_seconds}; \
                 SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,NO_ZERO_DATE'); \
                 /*M!100108 SET SESSION max_statement_time = {seconds} */"
            );
            connection.execute(sqlx::AssertSqlSafe(setup)).await?;
            let version: String = sqlx::query_scalar("SELECT CAST(VERSION() AS CHAR)")
                .fetch_one(&mut *connection)
                .await?;
            if !version.contains("MariaDB") {
                let limit = format!("SET SESSION max_execution_time = {milliseconds}");
                connection.execute(sqlx::AssertSqlSafe(limit)).await?;
            }
            Ok(())
        })
    });
    let pool = connect(config, pool, options).await?;
    Ok(SqlxMySqlConnector::from_sqlx_mysql_pool(pool))
}

//! Bringing a schema up to date, by any number of processes at once.
//!
//! SQLite and PostgreSQL change their schema inside a transaction: it happens
//! whole or not at all, and a lock keeps others waiting, who then find nothing
//! left to do. MySQL commits every such statement by itself, so there a named
//! lock is held by a connection beside.
//!
//! Afterwards all text is made to compare and order byte by byte, as SQLite
//! does it: `COLLATE "C"` on PostgreSQL, a binary collation without padding on
//! MySQL, where also `TEXT` and `BLOB`, which end at 64 KiB, become `LONGTEXT`
//! and `LONGBLOB`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};
use sea_orm_migration::{
    MigrationName, MigrationStatus, MigrationTrait, MigratorTrait, SchemaManager,
};

use crate::backend::Backend;
use crate::error::DbError;
use crate::sqlite::Writer;

/// A migration may move much data.
const LIMIT: Duration = Duration::from_secs(3600);

/// Any number will do, as long as every release takes the same one.
const POSTGRES_LOCK: i64 = 0x59_61_6b_75_6d_6f;

/// A step of a schema's history: `up` changes the schema. There is no way
/// back down; a release that must go back restores its database.
///
/// Other processes of the last release may be running: add tables and columns,
/// and leave the type of existing columns alone. A column that must change
/// gets a successor under a new name.
///
/// ```text
/// yakumo_db::migration("m20261121_000001_create_volumes", |manager| {
///     Box::pin(async move { manager.create_table(columns::table("volumes")…).await })
/// })
/// ```
pub fn migration(
    name: &'static str,
    up: for<'m> fn(&'m SchemaManager<'_>) -> BoxFuture<'m, Result<(), DbErr>>,
) -> Box<dyn MigrationTrait> {
    Box::new(Migration { name, up })
}

struct Migration {
    name: &'static str,
    up: for<'m> fn(&'m SchemaManager<'_>) -> BoxFuture<'m, Result<(), DbErr>>,
}

impl MigrationName for Migration {
    fn name(&self) -> &str {
        self.name
    }
}

// The trait elides this lifetime, and then it must be elided here as well.
#[allow(elided_lifetimes_in_paths)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        (self.up)(manager).await
    }
}

/// One migration and whether the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationState {
    /// Its name, `mYYYYMMDD_NNNNNN_what_changes`.
    pub name: String,
    /// Whether it has been applied.
    pub applied: bool,
}

pub(crate) async fn sqlite<M: MigratorTrait>(writer: &Writer) -> Result<(), DbError> {
    writer
        .write_within(Some(LIMIT), |txn| {
            Box::pin(async move { Ok(M::up(txn, None).await?) })
        })
        .await
}

pub(crate) async fn postgres<M: MigratorTrait>(pool: &DatabaseConnection) -> Result<(), DbError> {
    let txn = pool.begin().await?;
    txn.execute_unprepared(&format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; \
         SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"
    ))
    .await?;
    M::up(&txn, None).await?;
    compare_bytes_postgres(&txn).await?;
    Ok(txn.commit().await?)
}

async fn compare_bytes_postgres(txn: &DatabaseTransaction) -> Result<(), DbError> {
    let rows = txn
        .query_all_raw(sea_orm::Statement::from_string(
            Backend::Postgres.sea(),
            "SELECT c.table_name::text AS t, c.column_name::text AS c, \
                    format_type(a.atttypid, a.atttypmod) AS k \
             FROM information_schema.columns c \
             JOIN pg_attribute a ON a.attname = c.column_name \
              AND a.attrelid = (quote_ident(c.table_schema) || '.' || quote_ident(c.table_name))::regclass \
             JOIN information_schema.tables t ON t.table_schema = c.table_schema \
              AND t.table_name = c.table_name AND t.table_type = 'BASE TABLE' \
             WHERE c.table_schema = current_schema() \
               AND c.data_type IN ('text', 'character varying', 'character') \
               AND c.collation_name IS DISTINCT FROM 'C'",
        ))
        .await?;
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let (table, column, kind): (String, String, String) = (
            row.try_get("", "t")?,
            row.try_get("", "c")?,
            row.try_get("", "k")?,
        );
        changes.entry(table).or_default().push(format!(
            "ALTER COLUMN \"{column}\" TYPE {kind} COLLATE \"C\""
        ));
    }
    for (table, columns) in changes {
        txn.execute_unprepared(&format!("ALTER TABLE \"{table}\" {}", columns.join(", ")))
            .await?;
    }
    Ok(())
}

pub(crate) async fn mysql<M: MigratorTrait>(pool: &DatabaseConnection) -> Result<(), DbError> {
    // Transactions keep their connection: this one holds the lock.
    let holder = pool.begin().await?;
    let base = text(&holder, "SELECT DATABASE() AS v").await?;
    let lock = format!("yakumo_{}", base.chars().take(50).collect::<String>());
    let result = async {
        set_limit(&holder, 0).await?;
        let row = holder
            .query_one_raw(sea_orm::Statement::from_sql_and_values(
                Backend::Mysql.sea(),
                "SELECT GET_LOCK(?, ?) AS v",
                [lock.clone().into(), LIMIT.as_secs().into()],
            ))
            .await?;
        let got: Option<i64> = match row {
            Some(row) => row.try_get("", "v")?,
            None => None,
        };
        if got != Some(1) {
            return Err(DbError::Unavailable);
        }
        let collation = mysql_collation(&holder).await?;
        pool.execute_unprepared(&format!(
            "ALTER DATABASE `{base}` CHARACTER SET utf8mb4 COLLATE {collation}"
        ))
        .await?;
        M::up(pool, None).await?;
        compare_bytes_mysql(pool, collation).await
    }
    .await;
    // The connection goes back to the pool and must not keep the lock.
    let _ = holder
        .query_one_raw(sea_orm::Statement::from_sql_and_values(
            Backend::Mysql.sea(),
            "SELECT RELEASE_LOCK(?) AS v",
            [lock.into()],
        ))
        .await;
    let _ = set_limit(&holder, 30).await;
    let _ = holder.rollback().await;
    result
}

/// Waiting for the lock may take longer than a statement usually may.
async fn set_limit(holder: &DatabaseTransaction, seconds: u32) -> Result<(), DbError> {
    holder
        .execute_unprepared(&format!(
            "/*M!100108 SET SESSION max_statement_time = {seconds} */"
        ))
        .await?;
    Ok(())
}

/// The collation that compares bytes and does not take `"a "` for `"a"`.
async fn mysql_collation(holder: &DatabaseTransaction) -> Result<&'static str, DbError> {
    let version = text(holder, "SELECT CAST(VERSION() AS CHAR) AS v").await?;
    Ok(if version.contains("MariaDB") {
        "utf8mb4_nopad_bin"
    } else {
        "utf8mb4_0900_bin"
    })
}

async fn text<C: ConnectionTrait>(connection: &C, sql: &str) -> Result<String, DbError> {
    let row = connection
        .query_one_raw(sea_orm::Statement::from_string(Backend::Mysql.sea(), sql))
        .await?
        .ok_or_else(|| DbError::other("MySQL does not answer about itself"))?;
    row.try_get::<Option<String>>("", "v")?
        .ok_or_else(|| DbError::Configuration("the database URL names no database".into()))
}

async fn compare_bytes_mysql(pool: &DatabaseConnection, collation: &str) -> Result<(), DbError> {
    let rows = pool
        .query_all_raw(sea_orm::Statement::from_sql_and_values(
            Backend::Mysql.sea(),
            "SELECT c.TABLE_NAME AS t, c.COLUMN_NAME AS c, c.IS_NULLABLE AS n, c.DATA_TYPE AS d, \
                    CAST(c.COLUMN_TYPE AS CHAR) AS k \
             FROM information_schema.COLUMNS c \
             JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA \
              AND t.TABLE_NAME = c.TABLE_NAME AND t.TABLE_TYPE = 'BASE TABLE' \
             WHERE c.TABLE_SCHEMA = DATABASE() AND c.COLUMN_DEFAULT IS NULL AND ( \
                 c.DATA_TYPE IN ('text', 'blob') \
                 OR (c.COLLATION_NAME IS NOT NULL AND c.COLLATION_NAME <> ?))",
            [collation.into()],
        ))
        .await?;
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let table: String = row.try_get("", "t")?;
        let column: String = row.try_get("", "c")?;
        let nullable: String = row.try_get("", "n")?;
        let data: String = row.try_get("", "d")?;
        let kind: String = row.try_get("", "k")?;
        let kind = match data.as_str() {
            "text" => format!("LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation}"),
            "blob" => "LONGBLOB".to_owned(),
            _ => format!("{kind} CHARACTER SET utf8mb4 COLLATE {collation}"),
        };
        let null = if nullable == "YES" {
            "NULL"
        } else {
            "NOT NULL"
        };
        changes
            .entry(table)
            .or_default()
            .push(format!("MODIFY `{column}` {kind} {null}"));
    }
    for (table, columns) in changes {
        pool.execute_unprepared(&format!("ALTER TABLE `{table}` {}", columns.join(", ")))
            .await?;
    }
    Ok(())
}

/// A change that changes nothing, in a table that every schema has; a database
/// that takes none says so. Before the first migration there is nothing to ask.
pub(crate) async fn touch(pool: &DatabaseConnection) -> Result<(), DbError> {
    let change = "UPDATE seaql_migrations SET applied_at = applied_at WHERE version = ''";
    match pool.execute_unprepared(change).await.map_err(DbError::from) {
        Ok(_) | Err(DbError::Other(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) async fn states<M: MigratorTrait>(
    pool: &DatabaseConnection,
) -> Result<Vec<MigrationState>, DbError> {
    let migrations = M::get_migration_with_status_read_only(pool).await?;
    Ok(migrations
        .iter()
        .map(|migration| MigrationState {
            name: migration.name().to_owned(),
            applied: migration.status() == MigrationStatus::Applied,
        })
        .collect())
}

/// Every unique index of a SQLite file, by the columns that an error names.
pub(crate) async fn sqlite_indexes(
    pool: &DatabaseConnection,
) -> Result<Vec<(String, String)>, DbError> {
    let rows = pool
        .query_all_raw(sea_orm::Statement::from_string(
            Backend::Sqlite.sea(),
            "SELECT m.name AS t, i.name AS i, c.name AS c FROM sqlite_master m \
             JOIN pragma_index_list(m.name) i JOIN pragma_index_info(i.name) c \
             WHERE m.type = 'table' AND i.\"unique\" = 1 AND i.origin = 'c' \
             ORDER BY m.name, i.name, c.seqno",
        ))
        .await?;
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let table: String = row.try_get("", "t")?;
        let index: String = row.try_get("", "i")?;
        let column: Option<String> = row.try_get("", "c")?;
        columns
            .entry(index)
            .or_default()
            .push(format!("{table}.{}", column.unwrap_or_default()));
    }
    Ok(columns
        .into_iter()
        .map(|(index, columns)| (columns.join(", "), index))
        .collect())
}

//! The database's own clock, the one that all processes share. Leases and
//! wake-up times are kept by it alone.

use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{ConnectionTrait, Statement};
use yakumo_types::Timestamp;

use crate::backend::Backend;
use crate::error::DbError;

const fn now_sql(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        // Not now(): that one stands still within a transaction.
        Backend::Postgres => {
            "CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000) AS BIGINT)"
        }
        Backend::Mysql => "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    }
}

/// The database's time in microseconds, as an expression for a statement.
pub fn now_expr(backend: Backend) -> SimpleExpr {
    Expr::cust(now_sql(backend))
}

/// The database's time.
pub async fn database_now<C: ConnectionTrait>(connection: &C) -> Result<Timestamp, DbError> {
    let backend = Backend::of(connection);
    let statement = Statement::from_string(
        backend.sea(),
        format!("SELECT {} AS now_micros", now_sql(backend)),
    );
    let row = connection
        .query_one_raw(statement)
        .await?
        .ok_or_else(|| DbError::other("the database does not know the time"))?;
    Ok(Timestamp::from_micros(row.try_get("", "now_micros")?))
}

//! Revisions for logs that others follow.
//!
//! A follower that has seen revision 7 asks for what is newer than 7. With an
//! ordinary sequence it would miss number 6, if that transaction commits after
//! number 7. [`next`] takes the number from a row that stays locked until the
//! transaction ends, so numbers become visible in their own order. Writers of
//! one log wait for each other: call it late in the transaction.

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use sea_orm_migration::prelude::MigrationTrait;

use crate::columns;
use crate::error::DbError;

const TABLE: &str = "revision_counters";

/// The migration that a service with such a log includes in its own list.
pub fn migration() -> Box<dyn MigrationTrait> {
    crate::migration("m20261121_000001_create_revision_counters", |manager| {
        Box::pin(async move {
            manager
                .create_table(
                    columns::table(TABLE)
                        .col(columns::text("name", 64).primary_key())
                        .col(columns::integer("value"))
                        .to_owned(),
                )
                .await
        })
    })
}

/// The next revision of the log `name`; the first one is 1.
pub async fn next(txn: &DatabaseTransaction, name: &str) -> Result<i64, DbError> {
    let mut update = Query::update();
    update
        .table(Alias::new(TABLE))
        .value(
            Alias::new("value"),
            Expr::col(Alias::new("value")).add(1_i64),
        )
        .and_where(Expr::col(Alias::new("name")).eq(name));
    if txn.execute(&update).await?.rows_affected() == 0 {
        let mut insert = Query::insert();
        insert
            .into_table(Alias::new(TABLE))
            .columns([Alias::new("name"), Alias::new("value")])
            .values_panic([name.into(), 1_i64.into()]);
        return match txn.execute(&insert).await.map_err(DbError::from) {
            Ok(_) => Ok(1),
            // Another transaction made the row at the same moment: run again.
            Err(DbError::Conflict { .. }) => Err(DbError::Contended),
            Err(error) => Err(error),
        };
    }
    current(txn, name).await
}

/// Goes on at `beyond` or, if the log is there already, at the next revision:
/// for a database that was restored to a time when followers had seen more.
pub async fn leap(txn: &DatabaseTransaction, name: &str, beyond: i64) -> Result<(), DbError> {
    if next(txn, name).await? >= beyond {
        return Ok(());
    }
    let mut update = Query::update();
    update
        .table(Alias::new(TABLE))
        .value(Alias::new("value"), beyond)
        .and_where(Expr::col(Alias::new("name")).eq(name));
    txn.execute(&update).await?;
    Ok(())
}

/// The newest revision of the log `name`; 0 if it is empty.
pub async fn current<C: ConnectionTrait>(connection: &C, name: &str) -> Result<i64, DbError> {
    let mut select = Query::select();
    select
        .column(Alias::new("value"))
        .from(Alias::new(TABLE))
        .and_where(Expr::col(Alias::new("name")).eq(name));
    match connection.query_one(&select).await? {
        Some(row) => Ok(row.try_get("", "value")?),
        None => Ok(0),
    }
}

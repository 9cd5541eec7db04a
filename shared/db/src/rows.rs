//! Small things that every store needs.

use futures::future::BoxFuture;
use sea_orm::sea_query::{LockBehavior, LockType};
use sea_orm::{
    DatabaseTransaction, DeleteResult, EntityTrait, QuerySelect, Select, TransactionTrait,
    UpdateMany, UpdateResult,
};

use crate::error::DbError;

/// Turns "no row was touched" into an error.
pub trait ExpectOne {
    /// [`DbError::Stale`] if no row was touched.
    fn or_stale(self) -> Result<(), DbError>;
    /// [`DbError::NotFound`] if no row was touched.
    fn or_not_found(self) -> Result<(), DbError>;
}

macro_rules! expect_one {
    ($($type:ty),*) => {$(
        impl ExpectOne for $type {
            fn or_stale(self) -> Result<(), DbError> {
                if self.rows_affected == 0 { Err(DbError::Stale) } else { Ok(()) }
            }
            fn or_not_found(self) -> Result<(), DbError> {
                if self.rows_affected == 0 { Err(DbError::NotFound) } else { Ok(()) }
            }
        }
    )*};
}
expect_one!(UpdateResult, DeleteResult);

/// Changes rows only if they still are as the filter of `update` expects
/// (`task_state`, `epoch`, `updated_at`); [`DbError::Stale`] if none is.
///
/// Rows that match count even if nothing in them changes, on all databases.
pub async fn compare_and_swap<E: EntityTrait>(
    txn: &DatabaseTransaction,
    update: UpdateMany<E>,
) -> Result<(), DbError> {
    update.exec(txn).await?.or_stale()
}

/// Locks the rows that `select` returns and leaves out those that another
/// transaction has locked, so that workers can claim batches side by side. On
/// SQLite, which has one writer, this changes nothing.
pub fn skip_locked<E: EntityTrait>(select: Select<E>) -> Select<E> {
    select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
}

/// Runs a part of a transaction that may fail without spoiling the rest: what
/// it did is rolled back, the transaction goes on.
///
/// Without it, PostgreSQL refuses every further statement after an error.
pub async fn attempt<T, F>(txn: &DatabaseTransaction, part: F) -> Result<T, DbError>
where
    T: Send,
    F: for<'t> FnOnce(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>> + Send,
{
    let savepoint = txn.begin().await?;
    let result = part(&savepoint).await;
    match &result {
        Ok(_) => savepoint.commit().await?,
        // A deadlock has rolled the whole transaction back already.
        Err(DbError::Contended | DbError::Unavailable) => drop(savepoint),
        Err(_) => savepoint.rollback().await?,
    }
    result
}

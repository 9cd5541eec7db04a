//! What operators' commands do to the service's database, whether or not the
//! service runs.

use yakumo_db::{Db, DbError, idempotency};
use yakumo_types::Timestamp;

use crate::store::{keys, revocations};

/// Removes what has run out; how many rows of which table. Safe while the
/// service runs. None of it depends on an age: what has not run out is needed.
///
/// # Errors
/// Those of the database. What was removed until then stays removed.
pub async fn purge(db: &Db, now: Timestamp) -> Result<Vec<(&'static str, u64)>, DbError> {
    let revocations = db
        .write(move |txn| Box::pin(async move { revocations::delete_expired(txn, now).await }))
        .await?;
    let keys = db
        .write(move |txn| Box::pin(async move { keys::delete_expired(txn, now).await }))
        .await?;
    let idempotency = idempotency::forget(db, now).await?;
    Ok(vec![
        ("revocations", revocations),
        ("signing_keys", keys),
        ("idempotency_keys", idempotency),
    ])
}

/// Ends all tokens, in a database that was restored: what was taken back after
/// the back-up is not known any more, and nothing that was may live again.
/// Verifiers that follow the log of revocations go on from beyond what they
/// have seen. Says what was done.
///
/// # Errors
/// Those of the database; nothing is changed then.
pub async fn restored(db: &Db) -> Result<Vec<(&'static str, u64)>, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            let now = yakumo_db::database_now(txn).await?.as_micros();
            revocations::leap(txn, now).await?;
            Ok(vec![(
                "signing keys, with all tokens, ended",
                keys::delete_all(txn).await?,
            )])
        })
    })
    .await
}

//! What operators' commands do to the manager's database, whether or not it runs.

use std::time::Duration;

use yakumo_db::{Db, DbError, database_now, idempotency};
use yakumo_types::Timestamp;

use crate::store;

/// What is kept of a server without ports stays for this long at the least: its
/// fence must outlive all messages.
const SERVERS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Removes what is kept for the records and older than `age`; how many rows of
/// which table. Safe while the service runs.
///
/// # Errors
/// Those of the database. What was removed until then stays removed.
pub async fn purge(
    db: &Db,
    now: Timestamp,
    age: Duration,
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let before = now.minus(age.max(SERVERS_KEPT)).as_micros();
    let servers = db
        .write(move |txn| Box::pin(store::servers::forget(txn, before)))
        .await?;
    let keys = idempotency::forget(db, now).await?;
    Ok(vec![("servers", servers), ("idempotency_keys", keys)])
}

/// Makes a restored database the one that hosts follow: every agent pulls
/// everything, and what listings show is told anew. Says what was done.
///
/// # Errors
/// Those of the database; nothing is changed then.
pub async fn restored(db: &Db) -> Result<Vec<(&'static str, u64)>, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            let now = database_now(txn).await?.as_micros();
            Ok(vec![
                ("hosts told anew", store::hosts::leap(txn, None, now).await?),
                ("groups told anew", store::members::leap(txn, now).await?),
                (
                    "addresses shown anew",
                    store::servers::leap(txn, now).await?,
                ),
            ])
        })
    })
    .await
}

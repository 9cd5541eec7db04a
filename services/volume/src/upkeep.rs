//! What operators' commands do to the manager's database, whether or not it runs.

use std::time::Duration;

use yakumo_db::{Db, DbError, idempotency};
use yakumo_types::Timestamp;
use yakumo_workflow::upkeep;

use crate::store;

/// Rows in one transaction.
const PORTION: u64 = 500;

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
    let before = now.minus(age).as_micros();
    let mut volumes = 0;
    loop {
        let some = db
            .write(move |txn| {
                Box::pin(async move { store::volumes::purge(txn, before, PORTION).await })
            })
            .await?;
        volumes += some;
        if some == 0 {
            break;
        }
    }
    let mut purged = vec![("volumes", volumes)];
    purged.extend(upkeep::purge(db, age).await?);
    purged.push(("idempotency_keys", idempotency::forget(db, now).await?));
    Ok(purged)
}

/// Makes a restored database one that is worked on. What storage hosts have is
/// compared with it as always. Says what was done.
///
/// # Errors
/// Those of the database; nothing is changed then.
pub async fn restored(db: &Db) -> Result<Vec<(&'static str, u64)>, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            Ok(vec![(
                "workers forgotten",
                upkeep::forget_workers(txn).await?,
            )])
        })
    })
    .await
}

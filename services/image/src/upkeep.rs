//! What operators' commands do to the service's database, whether or not the
//! service runs. Deleted images leave no rows.

use yakumo_db::{Db, DbError, idempotency};
use yakumo_types::Timestamp;

/// Removes what has run out; how many rows of which table.
///
/// # Errors
/// Those of the database.
pub async fn purge(db: &Db, now: Timestamp) -> Result<Vec<(&'static str, u64)>, DbError> {
    Ok(vec![(
        "idempotency_keys",
        idempotency::forget(db, now).await?,
    )])
}

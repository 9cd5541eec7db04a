//! The table `ticket_keys`: the secret that all instances of the service sign
//! tickets with.

use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel};
use yakumo_db::{Db, DbError};
use yakumo_types::Timestamp;

use super::entity::ticket_key::{Entity, Model};

const CURRENT: &str = "current";

/// The secret; the first instance that asks makes it `fresh`.
pub async fn secret(db: &Db, fresh: &[u8; 32], now: Timestamp) -> Result<Vec<u8>, DbError> {
    if let Some(found) = find(db).await? {
        return Ok(found);
    }
    let row = Model {
        id: CURRENT.to_owned(),
        secret: hex::encode(fresh),
        created_at: now.as_micros(),
    };
    let made = db
        .write(move |txn| {
            let row = row.clone();
            Box::pin(async move {
                Entity::insert(row.into_active_model().reset_all())
                    .exec_without_returning(txn)
                    .await?;
                Ok(())
            })
        })
        .await;
    match made {
        // Another instance was first.
        Ok(()) | Err(DbError::Conflict { .. }) => find(db).await?.ok_or(DbError::NotFound),
        Err(error) => Err(error),
    }
}

async fn find(db: &Db) -> Result<Option<Vec<u8>>, DbError> {
    match Entity::find_by_id(CURRENT).one(db.read()).await? {
        None => Ok(None),
        Some(row) => hex::decode(&row.secret).map(Some).map_err(DbError::other),
    }
}

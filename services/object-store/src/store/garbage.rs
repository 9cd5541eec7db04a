//! The table `garbage`: data that was an object's. The row is written in the
//! transaction that takes the data from the object, and goes after the data.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use yakumo_db::{Db, DbError};

use super::entity::garbage::{Column, Entity};
use crate::drivers::BlobId;

/// Up to `limit` blobs to be removed.
pub async fn list(db: &Db, limit: u64) -> Result<Vec<BlobId>, DbError> {
    let rows = Entity::find().limit(limit).all(db.read()).await?;
    Ok(rows
        .iter()
        .filter_map(|row| BlobId::parse(&row.blob_id))
        .collect())
}

/// These are removed.
pub async fn forget(db: &Db, blobs: &[BlobId]) -> Result<(), DbError> {
    let names: Vec<String> = blobs.iter().map(ToString::to_string).collect();
    db.write(move |txn| {
        let names = names.clone();
        Box::pin(async move {
            Entity::delete_many()
                .filter(Column::BlobId.is_in(names))
                .exec(txn)
                .await?;
            Ok(())
        })
    })
    .await
}

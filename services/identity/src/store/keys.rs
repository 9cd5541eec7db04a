//! Signing keys.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
};
use yakumo_db::DbError;
use yakumo_types::Timestamp;

use super::entity::signing_key::{ActiveModel, Column, Entity, Model};

/// A new key; `Conflict` if another replica was quicker with this generation.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let row: ActiveModel = row.into();
    Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// All keys, newest generation first.
pub async fn list(db: &impl ConnectionTrait) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .order_by_desc(Column::Generation)
        .all(db)
        .await?)
}

/// Forgets keys whose last token has run out.
pub async fn delete_expired(db: &impl ConnectionTrait, now: Timestamp) -> Result<u64, DbError> {
    let gone = Entity::delete_many()
        .filter(Column::ExpiresAt.lte(now.as_micros()))
        .exec(db)
        .await?;
    Ok(gone.rows_affected)
}

/// Forgets all keys: whatever they signed holds no longer.
pub async fn delete_all(db: &impl ConnectionTrait) -> Result<u64, DbError> {
    Ok(Entity::delete_many().exec(db).await?.rows_affected)
}

//! Single values.

use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, QuerySelect};
use yakumo_db::DbError;

use super::entity::setting::{ActiveModel, Entity, Model};

/// The id of the revocation log; a new one means that verifiers start over.
pub const LOG_ID: &str = "revocation_log_id";

/// A value.
pub async fn get(db: &impl ConnectionTrait, name: &str) -> Result<Option<String>, DbError> {
    Ok(Entity::find_by_id(name.to_owned())
        .one(db)
        .await?
        .map(|row| row.value))
}

/// Keeps others who hold this value waiting until the transaction ends.
pub async fn hold(db: &impl ConnectionTrait, name: &str) -> Result<(), DbError> {
    let query = Entity::find_by_id(name.to_owned()).lock_exclusive();
    query.one(db).await?.ok_or(DbError::NotFound).map(drop)
}

/// A new value.
pub async fn insert(db: &impl ConnectionTrait, name: &str, value: &str) -> Result<(), DbError> {
    let row: ActiveModel = Model {
        name: name.to_owned(),
        value: value.to_owned(),
    }
    .into();
    Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

//! Key pairs belong to users, not to projects.

use sea_orm::{
    ColumnTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use yakumo_db::DbError;
use yakumo_types::UserId;

use super::entity::key_pair;

/// A key pair's row.
pub type KeyPair = key_pair::Model;

/// The key pairs of a user by name, after `marker`.
pub async fn key_pair_list(
    db: &DatabaseConnection,
    user: UserId,
    marker: Option<&str>,
    limit: u64,
) -> Result<Vec<KeyPair>, DbError> {
    let mut query = key_pair::Entity::find().filter(key_pair::Column::UserId.eq(user.to_string()));
    if let Some(marker) = marker {
        query = query.filter(key_pair::Column::Name.gt(marker));
    }
    Ok(query
        .order_by_asc(key_pair::Column::Name)
        .limit(limit)
        .all(db)
        .await?)
}

/// One key pair of a user.
pub async fn key_pair_fetch(
    db: &DatabaseConnection,
    user: UserId,
    name: &str,
) -> Result<Option<KeyPair>, DbError> {
    Ok(
        key_pair::Entity::find_by_id((user.to_string(), name.to_owned()))
            .one(db)
            .await?,
    )
}

/// How many a user has, inside the transaction that adds one.
pub async fn key_pair_count_in(txn: &DatabaseTransaction, user: UserId) -> Result<i64, DbError> {
    let count = key_pair::Entity::find()
        .filter(key_pair::Column::UserId.eq(user.to_string()))
        .count(txn)
        .await?;
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Adds a key pair; `Conflict` when the user has one of that name.
pub async fn key_pair_insert(txn: &DatabaseTransaction, row: KeyPair) -> Result<(), DbError> {
    key_pair::Entity::insert(row.into_active_model())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Removes a key pair; `NotFound` when there is none.
pub async fn key_pair_delete(
    txn: &DatabaseTransaction,
    user: UserId,
    name: &str,
) -> Result<(), DbError> {
    let deleted = key_pair::Entity::delete_by_id((user.to_string(), name.to_owned()))
        .exec(txn)
        .await?;
    if deleted.rows_affected == 0 {
        return Err(DbError::NotFound);
    }
    Ok(())
}

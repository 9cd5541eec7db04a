//! Rights to join as a host.

use sea_orm::ActiveValue::Set;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IntoActiveModel, QueryFilter,
    QuerySelect,
};
use yakumo_db::{DbError, ExpectOne as _};

use super::entity::host_token;

/// A token's row.
pub type HostToken = host_token::Model;

/// Adds a token; `Conflict` if its public part is taken.
pub async fn host_token_insert(txn: &DatabaseTransaction, row: HostToken) -> Result<(), DbError> {
    host_token::Entity::insert(row.into_active_model())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// A token by its public part; others that want it wait until the transaction
/// ends.
pub async fn host_token_lock(
    txn: &DatabaseTransaction,
    id: &str,
) -> Result<Option<HostToken>, DbError> {
    let mut query = host_token::Entity::find_by_id(id.to_owned());
    if txn.get_database_backend() != sea_orm::DbBackend::Sqlite {
        query = query.lock_exclusive();
    }
    Ok(query.one(txn).await?)
}

/// Notes that a token was used, and by which host; `Stale` if it was already.
pub async fn host_token_use(
    txn: &DatabaseTransaction,
    id: &str,
    host_id: &str,
    now: i64,
) -> Result<(), DbError> {
    host_token::Entity::update_many()
        .set(host_token::ActiveModel {
            used_at: Set(now),
            used_by: Set(host_id.to_owned()),
            ..Default::default()
        })
        .filter(host_token::Column::Id.eq(id))
        .filter(host_token::Column::UsedAt.eq(0_i64))
        .exec(txn)
        .await?
        .or_stale()
}

/// Ends the tokens that a host has used: it is there.
pub async fn host_tokens_confirm(
    txn: &DatabaseTransaction,
    host: &str,
    host_id: &str,
    now: i64,
) -> Result<(), DbError> {
    host_token::Entity::update_many()
        .set(host_token::ActiveModel {
            confirmed_at: Set(now),
            ..Default::default()
        })
        .filter(host_token::Column::Host.eq(host))
        .filter(host_token::Column::UsedBy.eq(host_id))
        .filter(host_token::Column::ConfirmedAt.eq(0_i64))
        .exec(txn)
        .await?;
    Ok(())
}

/// Forgets all tokens of a host; how many there were.
pub async fn host_tokens_delete(txn: &DatabaseTransaction, host: &str) -> Result<u64, DbError> {
    let deleted = host_token::Entity::delete_many()
        .filter(host_token::Column::Host.eq(host))
        .exec(txn)
        .await?;
    Ok(deleted.rows_affected)
}

/// Forgets tokens that ran out before `before`; how many.
pub async fn host_tokens_purge(
    txn: &DatabaseTransaction,
    before: i64,
    limit: u64,
) -> Result<u64, DbError> {
    let ids: Vec<String> = host_token::Entity::find()
        .select_only()
        .column(host_token::Column::Id)
        .filter(host_token::Column::ExpiresAt.lt(before))
        .limit(limit)
        .into_tuple()
        .all(txn)
        .await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let deleted = host_token::Entity::delete_many()
        .filter(host_token::Column::Id.is_in(ids))
        .exec(txn)
        .await?;
    Ok(deleted.rows_affected)
}

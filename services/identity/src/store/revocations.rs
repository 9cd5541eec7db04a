//! The revocation log. Verifiers follow it by revision, so entries must become
//! visible in their own order: see [`yakumo_db::revisions`].

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use yakumo_auth::RevocationKind;
use yakumo_contracts::identity::Revocation;
use yakumo_db::{DbError, revisions};
use yakumo_types::Timestamp;

use super::entity::revocation::{ActiveModel, Column, Entity, Model};

const LOG: &str = "revocations";

/// Appends entries; to be called late in a transaction, because writers of the
/// log wait for each other from here on.
pub async fn append(
    txn: &DatabaseTransaction,
    kinds: &[RevocationKind],
    expires_at: Timestamp,
) -> Result<(), DbError> {
    for kind in kinds {
        let revision = revisions::next(txn, LOG).await?;
        let entry = kind.to_message(u64::try_from(revision).unwrap_or_default(), expires_at);
        let row: ActiveModel = Model {
            revision,
            entry: serde_json::to_string(&entry)?,
            expires_at: expires_at.as_micros(),
        }
        .into();
        Entity::insert(row.reset_all())
            .exec_without_returning(txn)
            .await?;
    }
    Ok(())
}

/// The newest revision.
pub async fn current(db: &impl ConnectionTrait) -> Result<u64, DbError> {
    Ok(u64::try_from(revisions::current(db, LOG).await?).unwrap_or_default())
}

/// Entries after a revision, oldest first.
pub async fn since(
    db: &impl ConnectionTrait,
    revision: u64,
    limit: u64,
) -> Result<Vec<Revocation>, DbError> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let rows = Entity::find()
        .filter(Column::Revision.gt(revision))
        .order_by_asc(Column::Revision)
        .limit(limit)
        .all(db)
        .await?;
    rows.iter()
        .map(|row| Ok(serde_json::from_str(&row.entry)?))
        .collect()
}

/// Forgets entries that can hit nothing any more.
pub async fn delete_expired(db: &impl ConnectionTrait, now: Timestamp) -> Result<u64, DbError> {
    let gone = Entity::delete_many()
        .filter(Column::ExpiresAt.lte(now.as_micros()))
        .exec(db)
        .await?;
    Ok(gone.rows_affected)
}

/// Puts the log beyond what anybody may have seen of it.
pub async fn leap(txn: &DatabaseTransaction, database_now: i64) -> Result<(), DbError> {
    revisions::leap(txn, LOG, database_now).await
}

//! Limits of projects that differ from the defaults.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    EntityTrait, QueryFilter,
};
use yakumo_db::DbError;

use super::entity::quota;

/// A project's own limits by resource.
pub async fn quota_list(
    db: &DatabaseConnection,
    project: &str,
) -> Result<BTreeMap<String, i64>, DbError> {
    list(db, project).await
}

/// The same, inside the transaction that takes something.
pub async fn quota_list_in(
    txn: &DatabaseTransaction,
    project: &str,
) -> Result<BTreeMap<String, i64>, DbError> {
    list(txn, project).await
}

async fn list(db: &impl ConnectionTrait, project: &str) -> Result<BTreeMap<String, i64>, DbError> {
    Ok(quota::Entity::find()
        .filter(quota::Column::ProjectId.eq(project))
        .all(db)
        .await?
        .into_iter()
        .map(|row| (row.resource, row.hard_limit))
        .collect())
}

/// Sets limits of a project; the others stay.
pub async fn quota_set(
    txn: &DatabaseTransaction,
    project: &str,
    limits: BTreeMap<String, i64>,
) -> Result<(), DbError> {
    if limits.is_empty() {
        return Ok(());
    }
    quota::Entity::delete_many()
        .filter(quota::Column::ProjectId.eq(project))
        .filter(quota::Column::Resource.is_in(limits.keys().cloned()))
        .exec(txn)
        .await?;
    quota::Entity::insert_many(limits.into_iter().map(|(resource, hard_limit)| {
        quota::ActiveModel {
            project_id: Set(project.to_owned()),
            resource: Set(resource),
            hard_limit: Set(hard_limit),
        }
    }))
    .exec_without_returning(txn)
    .await?;
    Ok(())
}

/// Back to the defaults.
pub async fn quota_delete(txn: &DatabaseTransaction, project: &str) -> Result<(), DbError> {
    quota::Entity::delete_many()
        .filter(quota::Column::ProjectId.eq(project))
        .exec(txn)
        .await?;
    Ok(())
}

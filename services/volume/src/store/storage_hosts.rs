//! The table `storage_hosts`.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, QueryOrder};
use yakumo_db::DbError;

use super::storage_host::{ActiveModel, Column, Entity, Model};

/// Notes what a host said of itself.
pub async fn put(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .on_conflict(
            OnConflict::column(Column::Host)
                .update_columns([
                    Column::HostId,
                    Column::AvailabilityZone,
                    Column::FreeGib,
                    Column::TotalGib,
                    Column::HeardAt,
                    Column::ReachableEverywhere,
                ])
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// All storage hosts, the one with the most room first.
pub async fn list(db: &impl ConnectionTrait) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .order_by_desc(Column::FreeGib)
        .order_by_asc(Column::Host)
        .all(db)
        .await?)
}

/// One storage host.
pub async fn find(db: &impl ConnectionTrait, host: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(host).one(db).await?)
}

/// Forgets a storage host; whether it was known.
pub async fn delete(db: &impl ConnectionTrait, host: &str) -> Result<bool, DbError> {
    let deleted = Entity::delete_by_id(host).exec(db).await?;
    Ok(deleted.rows_affected > 0)
}

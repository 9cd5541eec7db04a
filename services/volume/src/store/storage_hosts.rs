//! The table `storage_hosts`.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, QueryOrder};
use yakumo_db::DbError;

use super::storage_host::{ActiveModel, Column, Entity, Model};

/// Hosts in one statement.
const AT_A_TIME: usize = 500;

/// Notes what hosts said of themselves, each of them once.
pub async fn put(db: &impl ConnectionTrait, rows: Vec<Model>) -> Result<(), DbError> {
    for rows in rows.chunks(AT_A_TIME) {
        let rows = rows.iter().map(|row| {
            let row: ActiveModel = row.clone().into();
            row.reset_all()
        });
        Entity::insert_many(rows)
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
    }
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

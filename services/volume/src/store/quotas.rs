//! The table `quotas`: what an administrator set apart from the defaults.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, Set};
use yakumo_db::DbError;

use super::quota::{ActiveModel, Column, Entity, Model};

/// The project's own limits, if it has any.
pub async fn find(db: &impl ConnectionTrait, project: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(project).one(db).await?)
}

/// Makes transactions that count a project's volumes wait for each other: two
/// that count at once would both find room for the last one.
pub async fn lock(db: &impl ConnectionTrait, project: &str) -> Result<(), DbError> {
    let row = ActiveModel {
        project_id: Set(project.to_owned()),
        volumes: Set(None),
        gigabytes: Set(None),
    };
    Entity::insert(row)
        .on_conflict(
            OnConflict::column(Column::ProjectId)
                .update_column(Column::ProjectId)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Stores a project's own limits.
pub async fn put(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .on_conflict(
            OnConflict::column(Column::ProjectId)
                .update_columns([Column::Volumes, Column::Gigabytes])
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Back to the defaults.
pub async fn delete(db: &impl ConnectionTrait, project: &str) -> Result<(), DbError> {
    put(
        db,
        Model {
            project_id: project.to_owned(),
            volumes: None,
            gigabytes: None,
        },
    )
    .await
}

//! The table `quota_locks`: what makes counting mean something.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, EntityTrait, Set};
use yakumo_db::DbError;

use super::entity::quota_lock::{ActiveModel, Column, Entity};

/// Makes transactions that count what a project has wait for each other: two
/// that count at once would both find room for the last one.
pub(super) async fn lock(db: &impl ConnectionTrait, project: &str) -> Result<(), DbError> {
    let row = ActiveModel {
        project_id: Set(project.to_owned()),
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

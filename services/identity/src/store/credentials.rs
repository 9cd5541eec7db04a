//! Stored credentials.

use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::credential::{ActiveModel, Column, Entity, Model};
use super::{Page, paged};

/// A new credential.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let row: ActiveModel = row.into();
    Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Writes every column.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let id = row.id.clone();
    let row: ActiveModel = row.into();
    Entity::update_many()
        .set(row.reset_all())
        .filter(Column::Id.eq(id))
        .exec(db)
        .await?
        .or_not_found()
}

/// By id.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(id.to_owned()).one(db).await?)
}

/// A page, of one user and one type or all.
pub async fn list(
    db: &impl ConnectionTrait,
    user_id: Option<&str>,
    kind: Option<&str>,
    page: &Page,
) -> Result<Vec<Model>, DbError> {
    let mut query = Entity::find();
    if let Some(user) = user_id {
        query = query.filter(Column::UserId.eq(user));
    }
    if let Some(kind) = kind {
        query = query.filter(Column::Kind.eq(kind));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

/// Removes all that are for a project.
pub async fn delete_of_project(db: &impl ConnectionTrait, project_id: &str) -> Result<(), DbError> {
    Entity::delete_many()
        .filter(Column::ProjectId.eq(project_id))
        .exec(db)
        .await?;
    Ok(())
}

//! Roles.

use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::role::{ActiveModel, Column, Entity, Model};
use super::{Page, paged};

/// A new role.
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

/// By name.
pub async fn find_by_name(db: &impl ConnectionTrait, name: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find().filter(Column::Name.eq(name)).one(db).await?)
}

/// A page, of one name or all.
pub async fn list(
    db: &impl ConnectionTrait,
    name: Option<&str>,
    page: &Page,
) -> Result<Vec<Model>, DbError> {
    let mut query = Entity::find();
    if let Some(name) = name {
        query = query.filter(Column::Name.eq(name));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it, with its assignments.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

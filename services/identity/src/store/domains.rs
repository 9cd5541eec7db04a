//! Domains.

use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::domain::{ActiveModel, Column, Entity, Model};
use super::entity::{group, project, user};
use super::{Page, paged, write_changes};

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact name.
    pub name: Option<String>,
    /// Enabled or not.
    pub enabled: Option<bool>,
    /// Only these.
    pub ids: Option<Vec<String>>,
}

/// A new domain.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let row: ActiveModel = row.into();
    Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Writes what differs from `old`; returns the row as it is then.
pub async fn update(db: &impl ConnectionTrait, old: &Model, new: Model) -> Result<Model, DbError> {
    let id = (Column::Id, old.id.as_str());
    write_changes::<Entity, ActiveModel>(db, old, new, id).await
}

/// By id.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(id.to_owned()).one(db).await?)
}

/// By name.
pub async fn find_by_name(db: &impl ConnectionTrait, name: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find().filter(Column::Name.eq(name)).one(db).await?)
}

/// A page.
pub async fn list(
    db: &impl ConnectionTrait,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<Model>, DbError> {
    let mut query = Entity::find();
    if let Some(name) = &filter.name {
        query = query.filter(Column::Name.eq(name));
    }
    if let Some(enabled) = filter.enabled {
        query = query.filter(Column::Enabled.eq(enabled));
    }
    if let Some(ids) = &filter.ids {
        query = query.filter(Column::Id.is_in(ids));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it; what lives in it must be gone.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

/// Removes it with its users, groups and projects. Role assignments are for
/// the caller to remove.
pub async fn delete_with_contents(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    project::Entity::update_many()
        .col_expr(project::Column::ParentId, Expr::value(None::<String>))
        .filter(project::Column::DomainId.eq(id))
        .exec(db)
        .await?;
    project::Entity::delete_many()
        .filter(project::Column::DomainId.eq(id))
        .exec(db)
        .await?;
    user::Entity::delete_many()
        .filter(user::Column::DomainId.eq(id))
        .exec(db)
        .await?;
    group::Entity::delete_many()
        .filter(group::Column::DomainId.eq(id))
        .exec(db)
        .await?;
    delete(db, id).await
}

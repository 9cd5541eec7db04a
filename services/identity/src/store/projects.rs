//! Projects.

use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::project::{ActiveModel, Column, Entity, Model};
use super::{Page, paged, write_changes};

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact name.
    pub name: Option<String>,
    /// Of one domain.
    pub domain_id: Option<String>,
    /// Directly below one project.
    pub parent_id: Option<String>,
    /// Directly below the domain.
    pub top: bool,
    /// Enabled or not.
    pub enabled: Option<bool>,
    /// Only these.
    pub ids: Option<Vec<String>>,
}

/// A new project.
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

/// By name, within a domain.
pub async fn find_by_name(
    db: &impl ConnectionTrait,
    domain_id: &str,
    name: &str,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::DomainId.eq(domain_id))
        .filter(Column::Name.eq(name))
        .one(db)
        .await?)
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
    if let Some(domain) = &filter.domain_id {
        query = query.filter(Column::DomainId.eq(domain));
    }
    if let Some(parent) = &filter.parent_id {
        query = query.filter(Column::ParentId.eq(parent.as_str()));
    }
    if filter.top {
        query = query.filter(Column::ParentId.is_null());
    }
    if let Some(enabled) = filter.enabled {
        query = query.filter(Column::Enabled.eq(enabled));
    }
    if let Some(ids) = &filter.ids {
        query = query.filter(Column::Id.is_in(ids));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it; a foreign-key error if there are projects below it.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

//! Users.

use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::user::{ActiveModel, Column, Entity, Model};
use super::{Page, paged, write_changes};

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact name.
    pub name: Option<String>,
    /// Of one domain.
    pub domain_id: Option<String>,
    /// Enabled or not.
    pub enabled: Option<bool>,
    /// Only these.
    pub ids: Option<Vec<String>>,
}

/// A new user.
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

/// Gives a user that is enabled and still has the password `old` another one;
/// `Stale` otherwise.
pub async fn change_password(
    db: &impl ConnectionTrait,
    id: &str,
    old: &str,
    new: &str,
    at: i64,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::PasswordHash, Expr::value(new))
        .col_expr(Column::PasswordCreatedAt, Expr::value(at))
        .filter(Column::Id.eq(id))
        .filter(Column::Enabled.eq(true))
        .filter(Column::PasswordHash.eq(old))
        .exec(db)
        .await?
        .or_stale()
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
    if let Some(enabled) = filter.enabled {
        query = query.filter(Column::Enabled.eq(enabled));
    }
    if let Some(ids) = &filter.ids {
        query = query.filter(Column::Id.is_in(ids));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it, with its credentials and memberships.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

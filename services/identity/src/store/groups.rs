//! Groups and who is in them.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect,
};
use yakumo_db::{DbError, ExpectOne};

use super::entity::group::{ActiveModel, Column, Entity, Model};
use super::entity::group_member;
use super::{Page, paged, write_changes};

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact name.
    pub name: Option<String>,
    /// Of one domain.
    pub domain_id: Option<String>,
    /// Only these.
    pub ids: Option<Vec<String>>,
}

/// A new group.
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
    if let Some(ids) = &filter.ids {
        query = query.filter(Column::Id.is_in(ids));
    }
    paged(db, query, Column::Id, page).await
}

/// Removes it, with its memberships.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

/// Puts a user in; nothing changes if it is in already.
pub async fn add_member(
    db: &impl ConnectionTrait,
    group_id: &str,
    user_id: &str,
) -> Result<(), DbError> {
    if is_member(db, group_id, user_id).await? {
        return Ok(());
    }
    let row: group_member::ActiveModel = group_member::Model {
        group_id: group_id.to_owned(),
        user_id: user_id.to_owned(),
    }
    .into();
    group_member::Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Takes a user out.
pub async fn remove_member(
    db: &impl ConnectionTrait,
    group_id: &str,
    user_id: &str,
) -> Result<(), DbError> {
    group_member::Entity::delete_many()
        .filter(group_member::Column::GroupId.eq(group_id))
        .filter(group_member::Column::UserId.eq(user_id))
        .exec(db)
        .await?
        .or_not_found()
}

/// Whether a user is in.
pub async fn is_member(
    db: &impl ConnectionTrait,
    group_id: &str,
    user_id: &str,
) -> Result<bool, DbError> {
    let row = group_member::Entity::find()
        .filter(group_member::Column::GroupId.eq(group_id))
        .filter(group_member::Column::UserId.eq(user_id))
        .one(db)
        .await?;
    Ok(row.is_some())
}

/// The ids of the groups that a user is in.
pub async fn of_user(db: &impl ConnectionTrait, user_id: &str) -> Result<Vec<String>, DbError> {
    Ok(group_member::Entity::find()
        .select_only()
        .column(group_member::Column::GroupId)
        .filter(group_member::Column::UserId.eq(user_id))
        .into_tuple()
        .all(db)
        .await?)
}

/// The ids of the users in some groups, with the group.
pub async fn members(
    db: &impl ConnectionTrait,
    group_ids: &[String],
) -> Result<Vec<group_member::Model>, DbError> {
    if group_ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(group_member::Entity::find()
        .filter(group_member::Column::GroupId.is_in(group_ids))
        .all(db)
        .await?)
}

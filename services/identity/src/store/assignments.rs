//! Who has which role on what.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
};
use yakumo_db::{DbError, ExpectOne};

use super::entity::assignment::{ActiveModel, Column, Entity, Model};

/// The target id of assignments on the system.
pub const SYSTEM: &str = "all";

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of these users and groups.
    pub actors: Option<Vec<String>>,
    /// `project`, `domain` or `system`.
    pub target_kind: Option<&'static str>,
    /// On these projects or domains.
    pub targets: Option<Vec<String>>,
    /// Of one role.
    pub role_id: Option<String>,
}

/// Assigns; nothing changes if it is so already.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    if exists(db, &row).await? {
        return Ok(());
    }
    let row: ActiveModel = row.into();
    Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

fn this(row: &Model) -> Condition {
    Condition::all()
        .add(Column::ActorId.eq(&row.actor_id))
        .add(Column::ActorKind.eq(&row.actor_kind))
        .add(Column::TargetKind.eq(&row.target_kind))
        .add(Column::TargetId.eq(&row.target_id))
        .add(Column::RoleId.eq(&row.role_id))
}

/// Whether it is assigned.
pub async fn exists(db: &impl ConnectionTrait, row: &Model) -> Result<bool, DbError> {
    Ok(Entity::find().filter(this(row)).one(db).await?.is_some())
}

/// Takes it back; `NotFound` if it was not assigned.
pub async fn delete(db: &impl ConnectionTrait, row: &Model) -> Result<(), DbError> {
    Entity::delete_many()
        .filter(this(row))
        .exec(db)
        .await?
        .or_not_found()
}

/// Forgets all assignments of a user or group.
pub async fn delete_of_actor(db: &impl ConnectionTrait, actor_id: &str) -> Result<(), DbError> {
    Entity::delete_many()
        .filter(Column::ActorId.eq(actor_id))
        .exec(db)
        .await?;
    Ok(())
}

/// Forgets all assignments on a project or domain.
pub async fn delete_on_target(
    db: &impl ConnectionTrait,
    kind: &str,
    target_id: &str,
) -> Result<(), DbError> {
    Entity::delete_many()
        .filter(Column::TargetKind.eq(kind))
        .filter(Column::TargetId.eq(target_id))
        .exec(db)
        .await?;
    Ok(())
}

/// Those that fit, in a stable order.
pub async fn list(db: &impl ConnectionTrait, filter: &Filter) -> Result<Vec<Model>, DbError> {
    let mut query = Entity::find();
    if let Some(actors) = &filter.actors {
        query = query.filter(Column::ActorId.is_in(actors));
    }
    if let Some(kind) = filter.target_kind {
        query = query.filter(Column::TargetKind.eq(kind));
    }
    if let Some(targets) = &filter.targets {
        query = query.filter(Column::TargetId.is_in(targets));
    }
    if let Some(role) = &filter.role_id {
        query = query.filter(Column::RoleId.eq(role));
    }
    Ok(query
        .order_by_asc(Column::TargetKind)
        .order_by_asc(Column::TargetId)
        .order_by_asc(Column::ActorId)
        .order_by_asc(Column::RoleId)
        .all(db)
        .await?)
}

//! The table `networks`.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::DbError;

use super::Walls;
use super::listing::{self, Field, Kind};
use super::network::{ActiveModel, Column, Entity, Model};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("name", Column::Name, Kind::Text),
    ("description", Column::Description, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("admin_state_up", Column::AdminStateUp, Kind::Bool),
    ("shared", Column::Shared, Kind::Bool),
    ("router:external", Column::External, Kind::Bool),
    ("mtu", Column::Mtu, Kind::Number),
    ("is_default", Column::IsDefault, Kind::Bool),
    ("port_security_enabled", Column::PortSecurity, Kind::Bool),
    ("provider:network_type", Column::NetworkType, Kind::Text),
    (
        "provider:physical_network",
        Column::PhysicalNetwork,
        Kind::Text,
    ),
    ("created_at", Column::CreatedAt, Kind::Number),
    ("updated_at", Column::UpdatedAt, Kind::Number),
    ("revision_number", Column::Revision, Kind::Number),
];

/// A project sees its own networks, shared ones, and external ones.
fn visible(walls: &Walls) -> Condition {
    match walls {
        Walls::All => Condition::all(),
        Walls::Project(project) => Condition::any()
            .add(Column::ProjectId.eq(project))
            .add(Column::Shared.eq(true))
            .add(Column::External.eq(true)),
    }
}

/// One page.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    let select = Entity::find().filter(visible(walls));
    listing::page(db, select, FIELDS, Column::Id, request, faults::no_network).await
}

/// A network that the caller may see.
pub async fn find(
    db: &impl ConnectionTrait,
    walls: &Walls,
    id: &str,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(id)
        .filter(visible(walls))
        .one(db)
        .await?)
}

/// Several networks, whoever may see them.
pub async fn by_ids(db: &impl ConnectionTrait, ids: &[String]) -> Result<Vec<Model>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// The networks that a project's servers may be put on unasked.
pub async fn usable(db: &impl ConnectionTrait, project: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::External.eq(false))
        .filter(
            Condition::any()
                .add(Column::ProjectId.eq(project))
                .add(Column::Shared.eq(true)),
        )
        .all(db)
        .await?)
}

/// Whether a physical network carries a flat network other than `id`. What it
/// carries does not change until the transaction ends.
pub async fn is_taken(
    db: &impl ConnectionTrait,
    physical: &str,
    id: &str,
) -> Result<bool, DbError> {
    super::quotas::lock(db, "all physical networks").await?;
    let found = Entity::find()
        .filter(Column::PhysicalNetwork.eq(physical))
        .filter(Column::NetworkType.eq("flat"))
        .filter(Column::External.eq(false))
        .filter(Column::Id.ne(id))
        .one(db)
        .await?;
    Ok(found.is_some())
}

/// Inserts a network.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Puts a changed network back.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    Ok(())
}

/// Removes a network; `ForeignKey` while something is on it.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}

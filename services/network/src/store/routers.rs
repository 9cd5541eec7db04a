//! The tables `routers` and `router_interfaces`.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, Set,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::DbError;

use super::listing::{self, Field, Kind};
use super::router::{ActiveModel, Column, Entity, Model};
use super::{Walls, router_interface};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("name", Column::Name, Kind::Text),
    ("description", Column::Description, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("admin_state_up", Column::AdminStateUp, Kind::Bool),
    ("created_at", Column::CreatedAt, Kind::Number),
    ("updated_at", Column::UpdatedAt, Kind::Number),
    ("revision_number", Column::Revision, Kind::Number),
];

fn visible(walls: &Walls) -> Condition {
    match walls {
        Walls::All => Condition::all(),
        Walls::Project(project) => Condition::all().add(Column::ProjectId.eq(project)),
    }
}

/// One page.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    let select = Entity::find().filter(visible(walls));
    listing::page(db, select, FIELDS, Column::Id, request, faults::no_router).await
}

/// A router that the caller may see.
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

/// Several routers, whoever may see them.
pub async fn by_ids(db: &impl ConnectionTrait, ids: &[String]) -> Result<Vec<Model>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// Inserts a router.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Puts a changed router back.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    Ok(())
}

/// Removes a router.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}

/// How many routers have their gateway on a network.
pub async fn count_gateways(db: &impl ConnectionTrait, network: &str) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::GatewayNetworkId.eq(network))
        .count(db)
        .await?)
}

/// The interfaces of a router.
pub async fn interfaces(
    db: &impl ConnectionTrait,
    router: &str,
) -> Result<Vec<router_interface::Model>, DbError> {
    Ok(router_interface::Entity::find()
        .filter(router_interface::Column::RouterId.eq(router))
        .order_by_asc(router_interface::Column::SubnetId)
        .all(db)
        .await?)
}

/// The interfaces on these networks.
pub async fn interfaces_on(
    db: &impl ConnectionTrait,
    networks: &[String],
) -> Result<Vec<router_interface::Model>, DbError> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    Ok(router_interface::Entity::find()
        .filter(router_interface::Column::NetworkId.is_in(networks))
        .order_by_asc(router_interface::Column::SubnetId)
        .all(db)
        .await?)
}

/// The interface of a subnet, if it is on a router.
pub async fn interface_of(
    db: &impl ConnectionTrait,
    subnet: &str,
) -> Result<Option<router_interface::Model>, DbError> {
    Ok(router_interface::Entity::find_by_id(subnet).one(db).await?)
}

/// Puts a subnet on a router.
pub async fn add_interface(
    db: &impl ConnectionTrait,
    row: router_interface::Model,
) -> Result<(), DbError> {
    let active = router_interface::ActiveModel {
        subnet_id: Set(row.subnet_id),
        router_id: Set(row.router_id),
        network_id: Set(row.network_id),
        port_id: Set(row.port_id),
    };
    router_interface::Entity::insert(active)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Takes a subnet off its router.
pub async fn remove_interface(db: &impl ConnectionTrait, subnet: &str) -> Result<(), DbError> {
    router_interface::Entity::delete_by_id(subnet)
        .exec(db)
        .await?;
    Ok(())
}

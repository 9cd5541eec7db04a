//! The table `floating_ips`.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::DbError;

use super::Walls;
use super::floating_ip::{ActiveModel, Column, Entity, Model};
use super::listing::{self, Field, Kind};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("description", Column::Description, Kind::Text),
    ("floating_network_id", Column::NetworkId, Kind::Text),
    ("floating_ip_address", Column::Address, Kind::Text),
    ("port_id", Column::PortId, Kind::Text),
    ("fixed_ip_address", Column::FixedAddress, Kind::Text),
    ("router_id", Column::RouterId, Kind::Text),
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

/// One page; `status` can be filtered by as well.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    let mut select = Entity::find().filter(visible(walls));
    if let Some(states) = listing::filter(request, "status") {
        let wanted = |state: &str| {
            states
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(state))
        };
        let mut any = Condition::any().add(Column::Id.eq(""));
        if wanted("ACTIVE") {
            any = any.add(Column::PortId.ne(""));
        }
        if wanted("DOWN") {
            any = any.add(Column::PortId.eq(""));
        }
        select = select.filter(any);
    }
    listing::page(
        db,
        select,
        FIELDS,
        Column::Id,
        request,
        faults::no_floating_ip,
    )
    .await
}

/// A floating IP that the caller may see.
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

/// The floating IPs of these ports.
pub async fn of_ports(db: &impl ConnectionTrait, ports: &[String]) -> Result<Vec<Model>, DbError> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::PortId.is_in(ports))
        .order_by_asc(Column::Address)
        .all(db)
        .await?)
}

/// Those of all ports that a host should have.
pub async fn on_host(db: &impl ConnectionTrait, host: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::PortId.in_subquery(super::ports::ids_on_host(host)))
        .order_by_asc(Column::Address)
        .all(db)
        .await?)
}

/// Whether this target has a floating IP.
pub async fn has_target(db: &impl ConnectionTrait, target: &str) -> Result<bool, DbError> {
    Ok(Entity::find()
        .filter(Column::Target.eq(target))
        .count(db)
        .await?
        > 0)
}

/// How many go through a router.
pub async fn count_through(db: &impl ConnectionTrait, router: &str) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::RouterId.eq(router))
        .count(db)
        .await?)
}

/// The ports behind the floating IPs that go through a router.
pub async fn through(db: &impl ConnectionTrait, router: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::RouterId.eq(router))
        .all(db)
        .await?)
}

/// How many an external network has.
pub async fn count_on_network(db: &impl ConnectionTrait, network: &str) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::NetworkId.eq(network))
        .count(db)
        .await?)
}

/// Inserts a floating IP.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Puts a changed floating IP back.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    Ok(())
}

/// Removes a floating IP.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}

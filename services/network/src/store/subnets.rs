//! The table `subnets`.

use sea_orm::sea_query::{Expr, ExprTrait as _, Query};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IdenStatic,
    QueryFilter, QueryOrder,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::DbError;

use super::Walls;
use super::listing::{self, Field, Kind};
use super::subnet::{ActiveModel, Column, Entity, Model};
use super::{network, subnet};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("name", Column::Name, Kind::Text),
    ("description", Column::Description, Kind::Text),
    ("network_id", Column::NetworkId, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("cidr", Column::Cidr, Kind::Text),
    ("gateway_ip", Column::GatewayIp, Kind::Text),
    ("enable_dhcp", Column::EnableDhcp, Kind::Bool),
    ("created_at", Column::CreatedAt, Kind::Number),
    ("updated_at", Column::UpdatedAt, Kind::Number),
    ("revision_number", Column::Revision, Kind::Number),
];

/// A project sees its own subnets and those of shared networks; those of
/// external networks are the administrator's.
fn visible(walls: &Walls) -> Condition {
    match walls {
        Walls::All => Condition::all(),
        Walls::Project(project) => {
            use sea_orm::QuerySelect;
            use sea_orm::QueryTrait;
            let shared = network::Entity::find()
                .select_only()
                .column(network::Column::Id)
                .filter(network::Column::Shared.eq(true))
                .into_query();
            Condition::any()
                .add(Column::ProjectId.eq(project))
                .add(Column::NetworkId.in_subquery(shared))
        }
    }
}

/// One page.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    if let Some(versions) = listing::filter(request, "ip_version")
        && !versions.iter().any(|version| version == "4")
    {
        return Ok((Vec::new(), false));
    }
    let select = Entity::find().filter(visible(walls));
    listing::page(db, select, FIELDS, Column::Id, request, faults::no_subnet).await
}

/// A subnet that the caller may see.
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

/// The subnets of these networks, oldest first.
pub async fn of_networks(
    db: &impl ConnectionTrait,
    networks: &[String],
) -> Result<Vec<Model>, DbError> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::NetworkId.is_in(networks))
        .order_by_asc(Column::CreatedAt)
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}

/// Makes transactions that look for a free range wait for each other: two that
/// looked at once would both find the same one free.
pub async fn lock_ranges(db: &impl ConnectionTrait) -> Result<(), DbError> {
    super::quotas::lock(db, "all ranges").await
}

/// A subnet that shares addresses with this range, if there is one.
pub async fn overlapping(
    db: &impl ConnectionTrait,
    first: i64,
    last: i64,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::First.lte(last))
        .filter(Column::Last.gte(first))
        .one(db)
        .await?)
}

/// Inserts a subnet.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Puts a changed subnet back.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    Ok(())
}

/// The number at which the search for a new address stands, or a later one,
/// which it passes; `None` if there is no such subnet. Whoever else asks waits
/// until the transaction ends. Not on MySQL.
pub async fn next_number(
    db: &impl ConnectionTrait,
    id: &str,
    at_least: i64,
) -> Result<Option<i64>, DbError> {
    let stands = || Expr::col(Column::NextNumber);
    let passed =
        Expr::case(Column::NextNumber.lt(at_least), at_least + 1).finally(stands().add(1_i64));
    let update = Query::update()
        .table(Entity)
        .value(Column::NextNumber, passed)
        .and_where(Column::Id.eq(id))
        .returning(Query::returning().column(Column::NextNumber))
        .to_owned();
    let row = db.query_one(&update).await?;
    let passed: Option<i64> = row
        .map(|row| row.try_get("", Column::NextNumber.as_str()))
        .transpose()?;
    Ok(passed.map(|next| next - 1))
}

/// Moves the place where the search for a new address goes on; `Contended` if
/// another transaction moved it meanwhile.
pub async fn advance(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    next: i64,
) -> Result<(), DbError> {
    let moved = Entity::update_many()
        .col_expr(Column::NextNumber, Expr::value(next))
        .filter(Column::Id.eq(&subnet.id))
        .filter(Column::NextNumber.eq(subnet.next_number))
        .exec(db)
        .await?;
    if moved.rows_affected == 0 {
        return Err(DbError::Contended);
    }
    Ok(())
}

/// Removes a subnet, and its addresses with it.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}

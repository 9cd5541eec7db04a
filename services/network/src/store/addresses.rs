//! The table `addresses`: which addresses of a subnet are, or were, in use.
//!
//! A row stays when its address becomes free, with the time of that: those that
//! were never used are taken first, then the one that has been free longest. An
//! address is unique in its subnet by the table's key, whatever else happens.

use std::net::Ipv4Addr;

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Set,
};
use yakumo_db::{Backend, DbError};

use super::address::{ActiveModel, Column, Entity, Model};
use super::{Walls, subnet, subnets};

/// How many numbers are looked at in one query.
const WINDOW: i64 = 256;

/// An address as a number.
pub fn number_of(address: Ipv4Addr) -> i64 {
    i64::from(u32::from(address))
}

/// A number as an address.
pub fn address_of(number: i64) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or_default())
}

/// Takes one particular address for an owner; false if somebody has it.
pub async fn take(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    number: i64,
    owner: &str,
    ordinal: i64,
) -> Result<bool, DbError> {
    match Entity::find_by_id((subnet.id.clone(), number))
        .one(db)
        .await?
    {
        Some(row) if row.owner == owner => Ok(true),
        Some(row) if !row.owner.is_empty() => Ok(false),
        Some(_) => {
            claim(db, &subnet.id, number, owner, ordinal).await?;
            Ok(true)
        }
        None => {
            insert(db, subnet, number, owner, ordinal).await?;
            Ok(true)
        }
    }
}

/// Takes any address of the pools for an owner; `None` when all are in use. The
/// subnet may be an older reading.
pub async fn take_any(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    pools: &[(i64, i64)],
    owner: &str,
    ordinal: i64,
) -> Result<Option<i64>, DbError> {
    if Backend::of(db) != Backend::Mysql
        && let Some(candidate) = next_in(pools, subnet.next_number)
        && let Some(number) = subnets::next_number(db, &subnet.id, candidate).await?
        && next_in(pools, number) == Some(number)
        && insert_unless_there(db, subnet, number, owner, ordinal).await?
    {
        return Ok(Some(number));
    }
    // The place of the search moves within a transaction too.
    let Some(subnet) = &subnets::find(db, &Walls::All, &subnet.id).await? else {
        return Ok(None);
    };
    if let Some(number) = never_used(db, subnet, pools).await? {
        subnets::advance(db, subnet, number + 1).await?;
        insert(db, subnet, number, owner, ordinal).await?;
        return Ok(Some(number));
    }
    for (start, end) in pools {
        let oldest = Entity::find()
            .filter(Column::SubnetId.eq(&subnet.id))
            .filter(Column::Owner.eq(""))
            .filter(Column::Number.between(*start, *end))
            .order_by_asc(Column::FreedAt)
            .order_by_asc(Column::Number)
            .one(db)
            .await?;
        if let Some(row) = oldest {
            claim(db, &subnet.id, row.number, owner, ordinal).await?;
            return Ok(Some(row.number));
        }
    }
    Ok(None)
}

/// The lowest number of the pools that is no lower than this one.
fn next_in(pools: &[(i64, i64)], number: i64) -> Option<i64> {
    pools
        .iter()
        .map(|(start, end)| (number.max(*start), *end))
        .find(|(candidate, end)| candidate <= end)
        .map(|(candidate, _)| candidate)
}

async fn never_used(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    pools: &[(i64, i64)],
) -> Result<Option<i64>, DbError> {
    for (start, end) in pools {
        let mut candidate = (*start).max(subnet.next_number);
        while candidate <= *end {
            let stop = end.saturating_add(1).min(candidate + WINDOW);
            let used: Vec<i64> = Entity::find()
                .select_only()
                .column(Column::Number)
                .filter(Column::SubnetId.eq(&subnet.id))
                .filter(Column::Number.gte(candidate))
                .filter(Column::Number.lt(stop))
                .order_by_asc(Column::Number)
                .into_tuple()
                .all(db)
                .await?;
            let mut used = used.into_iter().peekable();
            while candidate < stop {
                match used.peek() {
                    Some(number) if *number == candidate => {
                        used.next();
                        candidate += 1;
                    }
                    _ => return Ok(Some(candidate)),
                }
            }
        }
    }
    Ok(None)
}

fn taken(subnet: &subnet::Model, number: i64, owner: &str, ordinal: i64) -> ActiveModel {
    ActiveModel {
        subnet_id: Set(subnet.id.clone()),
        number: Set(number),
        network_id: Set(subnet.network_id.clone()),
        address: Set(address_of(number).to_string()),
        owner: Set(owner.to_owned()),
        ordinal: Set(ordinal),
        freed_at: Set(0),
    }
}

async fn insert(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    number: i64,
    owner: &str,
    ordinal: i64,
) -> Result<(), DbError> {
    match Entity::insert(taken(subnet, number, owner, ordinal))
        .exec_without_returning(db)
        .await
        .map_err(DbError::from)
    {
        // Somebody was quicker: the transaction runs again and sees it.
        Err(DbError::Conflict { .. }) => Err(DbError::Contended),
        other => other.map(drop),
    }
}

/// Whether the address was never used; then it has this owner. Not on MySQL.
async fn insert_unless_there(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    number: i64,
    owner: &str,
    ordinal: i64,
) -> Result<bool, DbError> {
    let inserted = Entity::insert(taken(subnet, number, owner, ordinal))
        .on_conflict(
            OnConflict::columns([Column::SubnetId, Column::Number])
                .do_nothing()
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(inserted > 0)
}

async fn claim(
    db: &impl ConnectionTrait,
    subnet: &str,
    number: i64,
    owner: &str,
    ordinal: i64,
) -> Result<(), DbError> {
    let claimed = Entity::update_many()
        .col_expr(Column::Owner, Expr::value(owner))
        .col_expr(Column::Ordinal, Expr::value(ordinal))
        .filter(Column::SubnetId.eq(subnet))
        .filter(Column::Number.eq(number))
        .filter(Column::Owner.eq(""))
        .exec(db)
        .await?;
    if claimed.rows_affected == 0 {
        return Err(DbError::Contended);
    }
    Ok(())
}

/// Gives back everything of these owners.
pub async fn free(db: &impl ConnectionTrait, owners: &[String], now: i64) -> Result<(), DbError> {
    if owners.is_empty() {
        return Ok(());
    }
    Entity::update_many()
        .col_expr(Column::Owner, Expr::value(""))
        .col_expr(Column::FreedAt, Expr::value(now))
        .filter(Column::Owner.is_in(owners))
        .exec(db)
        .await?;
    Ok(())
}

/// Gives back one address of an owner.
pub async fn free_one(
    db: &impl ConnectionTrait,
    owner: &str,
    subnet: &str,
    number: i64,
    now: i64,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Owner, Expr::value(""))
        .col_expr(Column::FreedAt, Expr::value(now))
        .filter(Column::Owner.eq(owner))
        .filter(Column::SubnetId.eq(subnet))
        .filter(Column::Number.eq(number))
        .exec(db)
        .await?;
    Ok(())
}

/// The addresses of these owners, in their order.
pub async fn of_owners(
    db: &impl ConnectionTrait,
    owners: &[String],
) -> Result<Vec<Model>, DbError> {
    if owners.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::Owner.is_in(owners))
        .order_by_asc(Column::Ordinal)
        .order_by_asc(Column::Number)
        .all(db)
        .await?)
}

/// Those of all ports that a host should have.
pub async fn on_host(db: &impl ConnectionTrait, host: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::Owner.in_subquery(super::ports::ids_on_host(host)))
        .order_by_asc(Column::Ordinal)
        .order_by_asc(Column::Number)
        .all(db)
        .await?)
}

/// The owners of addresses that meet all of these conditions; empty lists mean
/// any.
pub async fn owners(
    db: &impl ConnectionTrait,
    addresses: &[String],
    subnets: &[String],
) -> Result<Vec<String>, DbError> {
    let mut select = Entity::find()
        .select_only()
        .column(Column::Owner)
        .distinct()
        .filter(Column::Owner.ne(""));
    if !addresses.is_empty() {
        select = select.filter(Column::Address.is_in(addresses));
    }
    if !subnets.is_empty() {
        select = select.filter(Column::SubnetId.is_in(subnets));
    }
    Ok(select.limit(10_000).into_tuple().all(db).await?)
}

/// How many addresses of a subnet are in use outside of these owners.
pub async fn in_use(
    db: &impl ConnectionTrait,
    subnet: &str,
    except: &[String],
) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::SubnetId.eq(subnet))
        .filter(Column::Owner.ne(""))
        .filter(Column::Owner.is_not_in(except))
        .count(db)
        .await?)
}

//! The tables: the only place with SQL. Functions take a connection or a
//! transaction, so that the rules above decide what belongs together.

pub mod assignments;
pub mod catalog;
pub mod credentials;
pub mod domains;
pub mod entity;
pub mod groups;
pub mod keys;
mod migration;
pub mod projects;
pub mod revocations;
pub mod roles;
pub mod settings;
pub mod users;

pub use migration::Migrator;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, Iterable,
    ModelTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};
use yakumo_db::{DbError, ExpectOne};
use yakumo_types::Fault;

/// Which page of a listing: rows after the id `marker`, at most `limit`.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The id of the last row of the page before.
    pub marker: Option<String>,
    /// How many rows at most; all of them if nothing.
    pub limit: Option<u64>,
}

/// Orders by id and cuts the page out. `Invalid` if the marker is nothing that
/// `select` would find: a listing that goes on behind it would look complete.
async fn paged<E: EntityTrait>(
    db: &impl ConnectionTrait,
    select: Select<E>,
    id: E::Column,
    page: &Page,
) -> Result<Vec<E::Model>, DbError> {
    let mut select = select;
    if let Some(marker) = &page.marker {
        let there = select
            .clone()
            .filter(id.eq(marker.as_str()))
            .one(db)
            .await?;
        if there.is_none() {
            return Err(Fault::invalid(
                "The query parameter marker names nothing in this listing.",
            )
            .into());
        }
        select = select.filter(id.gt(marker.as_str()));
    }
    if let Some(limit) = page.limit {
        select = select.limit(limit);
    }
    Ok(select.order_by_asc(id).all(db).await?)
}

/// Writes the columns in which `new` differs from `old`, and no others: what
/// somebody else changed since `old` was read stays. Returns the row as it is
/// then; `NotFound` if it is gone.
async fn write_changes<E, A>(
    db: &impl ConnectionTrait,
    old: &E::Model,
    new: E::Model,
    id: (E::Column, &str),
) -> Result<E::Model, DbError>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<A>,
    A: ActiveModelTrait<Entity = E>,
{
    let changed: Vec<E::Column> = E::Column::iter()
        .filter(|column| old.get(*column) != new.get(*column))
        .collect();
    if !changed.is_empty() {
        let mut row: A = new.into_active_model();
        for column in changed {
            row.reset(column);
        }
        E::update_many()
            .set(row)
            .filter(id.0.eq(id.1))
            .exec(db)
            .await?
            .or_not_found()?;
    }
    E::find()
        .filter(id.0.eq(id.1))
        .one(db)
        .await?
        .ok_or(DbError::NotFound)
}

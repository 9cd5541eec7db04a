//! Flavors, and which projects see those that are not public.

use sea_orm::sea_query::Query;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, DatabaseConnection,
    DatabaseTransaction, EntityTrait, IntoActiveModel, ModelTrait, Order, QueryFilter, QueryOrder,
    QuerySelect,
};
use yakumo_db::DbError;
use yakumo_types::ProjectId;

use super::entity::{flavor, flavor_access};
use super::servers::Direction;

/// A flavor's row.
pub type Flavor = flavor::Model;

/// Whose flavors a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlavorScope {
    /// Public ones and those that the project was given.
    Project(ProjectId),
    /// All, or only those that are public, or only those that are not.
    Admin { is_public: Option<bool> },
}

/// A column to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlavorSort {
    Id,
    Name,
    Memory,
    Vcpus,
    Disk,
    CreatedAt,
}

/// One page of flavors.
#[derive(Debug, Clone)]
pub struct FlavorPage {
    pub sort: FlavorSort,
    pub direction: Direction,
    pub after: Option<Flavor>,
    pub limit: u64,
    pub min_memory_mib: Option<i64>,
    pub min_disk_gib: Option<i64>,
}

fn visible(scope: FlavorScope) -> Condition {
    match scope {
        FlavorScope::Project(project) => {
            Condition::any().add(flavor::Column::IsPublic.eq(true)).add(
                flavor::Column::Id.in_subquery(
                    Query::select()
                        .column(flavor_access::Column::FlavorId)
                        .from(flavor_access::Entity)
                        .and_where(flavor_access::Column::ProjectId.eq(project.to_string()))
                        .to_owned(),
                ),
            )
        }
        FlavorScope::Admin { is_public } => {
            Condition::all().add_option(is_public.map(|public| flavor::Column::IsPublic.eq(public)))
        }
    }
}

/// One page of flavors.
pub async fn flavor_list(
    db: &DatabaseConnection,
    scope: FlavorScope,
    page: &FlavorPage,
) -> Result<Vec<Flavor>, DbError> {
    use flavor::Column as C;
    let column = match page.sort {
        FlavorSort::Id => C::Id,
        FlavorSort::Name => C::Name,
        FlavorSort::Memory => C::MemoryMib,
        FlavorSort::Vcpus => C::Vcpus,
        FlavorSort::Disk => C::DiskGib,
        FlavorSort::CreatedAt => C::CreatedAt,
    };
    let order = match page.direction {
        Direction::Ascending => Order::Asc,
        Direction::Descending => Order::Desc,
    };
    let mut query = flavor::Entity::find().filter(visible(scope)).filter(
        Condition::all()
            .add_option(page.min_memory_mib.map(|min| C::MemoryMib.gte(min)))
            .add_option(page.min_disk_gib.map(|min| C::DiskGib.gte(min))),
    );
    if let Some(after) = &page.after {
        let value = after.get(column);
        let (beyond, id_beyond) = match page.direction {
            Direction::Ascending => (column.gt(value.clone()), C::Id.gt(after.id.clone())),
            Direction::Descending => (column.lt(value.clone()), C::Id.lt(after.id.clone())),
        };
        query = query.filter(
            Condition::any()
                .add(beyond)
                .add(Condition::all().add(column.eq(value)).add(id_beyond)),
        );
    }
    Ok(query
        .order_by(column, order.clone())
        .order_by(C::Id, order)
        .limit(page.limit)
        .all(db)
        .await?)
}

/// One flavor that the scope may see.
pub async fn flavor_fetch(
    db: &DatabaseConnection,
    scope: FlavorScope,
    id: &str,
) -> Result<Option<Flavor>, DbError> {
    Ok(flavor::Entity::find_by_id(id.to_owned())
        .filter(visible(scope))
        .one(db)
        .await?)
}

/// Adds a flavor; `Conflict` when id or name are taken.
pub async fn flavor_insert(txn: &DatabaseTransaction, row: Flavor) -> Result<(), DbError> {
    flavor::Entity::insert(row.into_active_model())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Removes a flavor. Servers keep what they were made with.
pub async fn flavor_delete(txn: &DatabaseTransaction, id: &str) -> Result<(), DbError> {
    flavor_access::Entity::delete_many()
        .filter(flavor_access::Column::FlavorId.eq(id))
        .exec(txn)
        .await?;
    let deleted = flavor::Entity::delete_by_id(id.to_owned())
        .exec(txn)
        .await?;
    if deleted.rows_affected == 0 {
        return Err(DbError::NotFound);
    }
    Ok(())
}

/// Replaces a flavor's extra specs as `change` says.
pub async fn flavor_extra_specs(
    txn: &DatabaseTransaction,
    id: &str,
    extra_specs: String,
) -> Result<(), DbError> {
    flavor::ActiveModel {
        id: Set(id.to_owned()),
        extra_specs: Set(extra_specs),
        ..Default::default()
    }
    .update(txn)
    .await?;
    Ok(())
}

/// A flavor inside a transaction, for administrators.
pub async fn flavor_fetch_in(
    txn: &DatabaseTransaction,
    id: &str,
) -> Result<Option<Flavor>, DbError> {
    Ok(flavor::Entity::find_by_id(id.to_owned()).one(txn).await?)
}

/// The projects that were given a flavor.
pub async fn flavor_access_list(db: &DatabaseConnection, id: &str) -> Result<Vec<String>, DbError> {
    Ok(flavor_access::Entity::find()
        .select_only()
        .column(flavor_access::Column::ProjectId)
        .filter(flavor_access::Column::FlavorId.eq(id))
        .order_by_asc(flavor_access::Column::ProjectId)
        .into_tuple()
        .all(db)
        .await?)
}

/// Gives a flavor to a project; `Conflict` when it has it.
pub async fn flavor_access_insert(
    txn: &DatabaseTransaction,
    id: &str,
    project: ProjectId,
) -> Result<(), DbError> {
    flavor_access::Entity::insert(flavor_access::ActiveModel {
        flavor_id: Set(id.to_owned()),
        project_id: Set(project.to_string()),
    })
    .exec_without_returning(txn)
    .await?;
    Ok(())
}

/// Takes a flavor from a project; `NotFound` when it does not have it.
pub async fn flavor_access_delete(
    txn: &DatabaseTransaction,
    id: &str,
    project: ProjectId,
) -> Result<(), DbError> {
    let deleted = flavor_access::Entity::delete_many()
        .filter(flavor_access::Column::FlavorId.eq(id))
        .filter(flavor_access::Column::ProjectId.eq(project.to_string()))
        .exec(txn)
        .await?;
    if deleted.rows_affected == 0 {
        return Err(DbError::NotFound);
    }
    Ok(())
}

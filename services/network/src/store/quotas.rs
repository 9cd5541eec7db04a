//! Limits, and counting what they limit.

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, Set,
};
use yakumo_db::DbError;

use super::entity::quota_lock;
use super::quota::{ActiveModel, Column, Entity, Model};
use super::{floating_ip, network, port, router, rule, security_group, subnet};

/// A project's own limits.
pub async fn of_project(db: &impl ConnectionTrait, project: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::ProjectId.eq(project))
        .all(db)
        .await?)
}

/// A project's own limit for one kind of thing, if it has one.
pub async fn limit(
    db: &impl ConnectionTrait,
    project: &str,
    resource: &str,
) -> Result<Option<i64>, DbError> {
    let row = Entity::find_by_id((project.to_owned(), resource.to_owned()))
        .one(db)
        .await?;
    Ok(row.map(|row| row.value))
}

/// All limits that differ from the defaults.
pub async fn all(db: &impl ConnectionTrait) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .order_by_asc(Column::ProjectId)
        .order_by_asc(Column::Resource)
        .all(db)
        .await?)
}

/// Stores a limit.
pub async fn put(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active = ActiveModel {
        project_id: Set(row.project_id),
        resource: Set(row.resource),
        value: Set(row.value),
    };
    Entity::insert(active)
        .on_conflict(
            OnConflict::columns([Column::ProjectId, Column::Resource])
                .update_column(Column::Value)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Back to the defaults.
pub async fn reset(db: &impl ConnectionTrait, project: &str) -> Result<(), DbError> {
    Entity::delete_many()
        .filter(Column::ProjectId.eq(project))
        .exec(db)
        .await?;
    Ok(())
}

/// Makes transactions that count a project's things wait for each other: two
/// that counted at once would both find room for the last one.
pub async fn lock(db: &impl ConnectionTrait, project: &str) -> Result<(), DbError> {
    let locked = quota_lock::Entity::update_many()
        .col_expr(
            quota_lock::Column::Value,
            Expr::col(quota_lock::Column::Value).add(1_i64),
        )
        .filter(quota_lock::Column::ProjectId.eq(project))
        .exec(db)
        .await?;
    if locked.rows_affected > 0 {
        return Ok(());
    }
    let row = quota_lock::ActiveModel {
        project_id: Set(project.to_owned()),
        value: Set(1),
    };
    match quota_lock::Entity::insert(row)
        .exec_without_returning(db)
        .await
        .map_err(DbError::from)
    {
        Err(DbError::Conflict { .. }) => Err(DbError::Contended),
        other => other.map(drop),
    }
}

/// How many things of a kind a project has.
pub async fn used(
    db: &impl ConnectionTrait,
    project: &str,
    resource: &str,
) -> Result<u64, DbError> {
    macro_rules! count {
        ($table:ident) => {
            $table::Entity::find()
                .filter($table::Column::ProjectId.eq(project))
                .count(db)
                .await?
        };
    }
    Ok(match resource {
        "network" => count!(network),
        "subnet" => count!(subnet),
        "port" => {
            port::Entity::find()
                .filter(port::Column::ProjectId.eq(project))
                .filter(port::Column::ReleasedAt.eq(0_i64))
                .count(db)
                .await?
        }
        "router" => count!(router),
        "floatingip" => count!(floating_ip),
        "security_group" => count!(security_group),
        "security_group_rule" => count!(rule),
        other => return Err(DbError::Other(format!("nothing is counted as {other}"))),
    })
}

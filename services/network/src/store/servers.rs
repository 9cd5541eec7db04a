//! The table `servers`: fences, and the order of what listings are told.

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    Set,
};
use yakumo_db::{Backend, DbError};

use super::port;
use super::server::{ActiveModel, Column, Entity, Model};

/// One page by id.
pub async fn page(
    db: &impl ConnectionTrait,
    after: &str,
    ids: &[String],
    limit: u64,
) -> Result<Vec<Model>, DbError> {
    let mut select = Entity::find().filter(Column::Id.gt(after));
    if !ids.is_empty() {
        select = select.filter(Column::Id.is_in(ids));
    }
    Ok(select.order_by_asc(Column::Id).limit(limit).all(db).await?)
}

/// Lets a message of this order change the server's ports, and raises the
/// revision as [`bump`] does; `Stale` when a later one was here.
pub async fn fence(
    db: &impl ConnectionTrait,
    id: &str,
    project: &str,
    order: i64,
    now: i64,
) -> Result<(), DbError> {
    let raised = || Expr::col((Entity, Column::Revision)).add(1_i64);
    let older = || Expr::col((Entity, Column::Epoch)).lte(order);
    let admitted = if Backend::of(db) == Backend::Mysql {
        // It has no condition for what it does about a row that is there.
        ensure(db, id, project).await?;
        Entity::update_many()
            .col_expr(Column::Epoch, Expr::value(order))
            .col_expr(Column::TouchedAt, Expr::value(now))
            .col_expr(Column::Revision, raised())
            .filter(Column::Id.eq(id))
            .filter(older())
            .exec(db)
            .await?
            .rows_affected
    } else {
        let row = ActiveModel {
            epoch: Set(order),
            revision: Set(1),
            touched_at: Set(now),
            ..empty(id, project)
        };
        Entity::insert(row)
            .on_conflict(
                OnConflict::column(Column::Id)
                    .update_columns([Column::Epoch, Column::TouchedAt])
                    .value(Column::Revision, raised())
                    .action_and_where(older())
                    .to_owned(),
            )
            .exec_without_returning(db)
            .await?
    };
    if admitted == 0 {
        return Err(DbError::Fault(yakumo_types::Fault::stale(
            "A later workflow has changed this server's ports.",
        )));
    }
    Ok(())
}

fn empty(id: &str, project: &str) -> ActiveModel {
    ActiveModel {
        id: Set(id.to_owned()),
        project_id: Set(project.to_owned()),
        epoch: Set(0),
        revision: Set(0),
        touched_at: Set(0),
    }
}

async fn ensure(db: &impl ConnectionTrait, id: &str, project: &str) -> Result<(), DbError> {
    Entity::insert(empty(id, project))
        .on_conflict(
            OnConflict::column(Column::Id)
                .update_column(Column::Id)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Something that listings show of the server changed.
pub async fn bump(db: &impl ConnectionTrait, id: &str, project: &str) -> Result<(), DbError> {
    let raised = Expr::col((Entity, Column::Revision)).add(1_i64);
    let row = ActiveModel {
        revision: Set(1),
        ..empty(id, project)
    };
    Entity::insert(row)
        .on_conflict(
            OnConflict::column(Column::Id)
                .value(Column::Revision, raised)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Forgets servers that no workflow has touched since `before` and that have
/// no port left.
pub async fn forget(db: &impl ConnectionTrait, before: i64) -> Result<u64, DbError> {
    let with_ports = port::Entity::find()
        .select_only()
        .column(port::Column::DeviceId)
        .filter(port::Column::DeviceId.ne(""))
        .into_query();
    let forgotten = Entity::delete_many()
        .filter(Column::TouchedAt.lt(before))
        .filter(Column::Id.not_in_subquery(with_ports))
        .exec(db)
        .await?;
    Ok(forgotten.rows_affected)
}

/// Puts the order of what listings are told beyond what anybody may have heard
/// of. How many servers.
pub async fn leap(db: &impl ConnectionTrait, now: i64) -> Result<u64, DbError> {
    let beyond = Expr::case(Expr::col(Column::Revision).lt(now), now)
        .finally(Expr::col(Column::Revision).add(1_i64));
    let leapt = Entity::update_many()
        .col_expr(Column::Revision, beyond.into())
        .exec(db)
        .await?;
    Ok(leapt.rows_affected)
}

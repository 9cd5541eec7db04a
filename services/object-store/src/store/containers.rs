//! The table `containers`.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use yakumo_db::{Db, DbError, ExpectOne as _};
use yakumo_types::{Fault, ProjectId, Timestamp};

use super::entity::account;
use super::entity::container::{Column, Entity, Model};
use super::{Metadata, from_bytes, from_json, to_json, unsigned};
use crate::app::listing::Bounds;

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// The row's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the client keeps with it.
    pub metadata: Metadata,
    /// Who may read, as the client wrote it.
    pub read_acl: String,
    /// Who may write, as the client wrote it.
    pub write_acl: String,
    /// Objects in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it or what is in it last changed.
    pub updated_at: Timestamp,
}

/// What a client may change of a container.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What the client keeps with it.
    pub metadata: Metadata,
    /// Who may read.
    pub read_acl: String,
    /// Who may write.
    pub write_acl: String,
}

/// The container, if there is one of that name in the account.
pub async fn find(db: &Db, project: ProjectId, name: &str) -> Result<Option<Container>, DbError> {
    let row = Entity::find()
        .filter(Column::AccountId.eq(project.to_string()))
        .filter(Column::Name.eq(name.as_bytes().to_vec()))
        .one(db.read())
        .await?;
    row.map(from_row).transpose()
}

/// One stretch of an account's containers, in the order and within the bounds
/// that are asked for.
pub async fn list(
    db: &Db,
    project: ProjectId,
    bounds: &Bounds,
    limit: u64,
) -> Result<Vec<Container>, DbError> {
    let mut select = Entity::find().filter(Column::AccountId.eq(project.to_string()));
    if let Some((bound, inclusive)) = &bounds.low {
        let bound = bound.clone();
        select = select.filter(match inclusive {
            true => Column::Name.gte(bound),
            false => Column::Name.gt(bound),
        });
    }
    if let Some(bound) = &bounds.high {
        select = select.filter(Column::Name.lt(bound.clone()));
    }
    let select = match bounds.reverse {
        false => select.order_by_asc(Column::Name),
        true => select.order_by_desc(Column::Name),
    };
    let rows = select.limit(limit).all(db.read()).await?;
    rows.into_iter().map(from_row).collect()
}

/// Adds a container to an account that is there. `Conflict` if there is one
/// of that name, `OverQuota` if there are `most` already.
pub async fn insert(
    db: &Db,
    id: String,
    project: ProjectId,
    name: &str,
    settings: &Settings,
    most: u64,
    now: Timestamp,
) -> Result<(), DbError> {
    let row = Model {
        id,
        account_id: project.to_string(),
        name: name.as_bytes().to_vec(),
        metadata: to_json(&settings.metadata)?,
        read_acl: settings.read_acl.clone(),
        write_acl: settings.write_acl.clone(),
        object_count: 0,
        bytes_used: 0,
        created_at: now.as_micros(),
        updated_at: now.as_micros(),
    };
    db.write(move |txn| {
        let row = row.clone();
        Box::pin(async move {
            // Two that count at once would both find room for the last one.
            account::Entity::find_by_id(row.account_id.as_str())
                .lock_exclusive()
                .one(txn)
                .await?
                .ok_or(DbError::NotFound)?;
            let count = Entity::find()
                .filter(Column::AccountId.eq(row.account_id.as_str()))
                .count(txn)
                .await?;
            if count >= most {
                return Err(Fault::over_quota(format!(
                    "The account has {count} containers; it must not have more."
                ))
                .into());
            }
            Entity::insert(row.into_active_model().reset_all())
                .exec_without_returning(txn)
                .await?;
            Ok(())
        })
    })
    .await
}

/// Changes the settings by `change`, in one transaction.
pub async fn update(
    db: &Db,
    id: &str,
    now: Timestamp,
    change: impl Fn(&mut Settings) -> Result<(), DbError> + Clone + Send + Sync + 'static,
) -> Result<(), DbError> {
    let id = id.to_owned();
    db.write(move |txn| {
        let (id, change) = (id.clone(), change.clone());
        Box::pin(async move {
            let row = Entity::find_by_id(&id)
                .lock_exclusive()
                .one(txn)
                .await?
                .ok_or(DbError::NotFound)?;
            let mut settings = Settings {
                metadata: from_json(&row.metadata)?,
                read_acl: row.read_acl,
                write_acl: row.write_acl,
            };
            change(&mut settings)?;
            Entity::update_many()
                .col_expr(Column::Metadata, Expr::value(to_json(&settings.metadata)?))
                .col_expr(Column::ReadAcl, Expr::value(settings.read_acl))
                .col_expr(Column::WriteAcl, Expr::value(settings.write_acl))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .filter(Column::Id.eq(id))
                .exec(txn)
                .await?
                .or_not_found()
        })
    })
    .await
}

/// Removes an empty container; `ForeignKey` if there are objects in it.
pub async fn delete(db: &Db, id: &str) -> Result<(), DbError> {
    let id = id.to_owned();
    db.write(move |txn| {
        let id = id.clone();
        Box::pin(async move { Entity::delete_by_id(id).exec(txn).await?.or_not_found() })
    })
    .await
}

fn from_row(row: Model) -> Result<Container, DbError> {
    Ok(Container {
        name: from_bytes(row.name)?,
        metadata: from_json(&row.metadata)?,
        read_acl: row.read_acl,
        write_acl: row.write_acl,
        objects: unsigned(row.object_count),
        bytes: unsigned(row.bytes_used),
        created_at: Timestamp::from_micros(row.created_at),
        updated_at: Timestamp::from_micros(row.updated_at),
        id: row.id,
    })
}

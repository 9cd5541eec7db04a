//! The table `accounts`.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect,
};
use yakumo_db::{Db, DbError, ExpectOne as _};
use yakumo_types::{ProjectId, Timestamp};

use super::entity::account::{Column, Entity, Model};
use super::entity::container;
use super::{Metadata, from_json, to_json, unsigned};

/// An account with what is in it.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// What the client keeps with it.
    pub metadata: Metadata,
    /// Containers.
    pub containers: u64,
    /// Objects in all of them.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it came to be; zero for one that is not there yet.
    pub created_at: Timestamp,
}

/// The account; an empty one, if the project never stored anything.
pub async fn find(db: &Db, project: ProjectId) -> Result<Account, DbError> {
    let Some(row) = Entity::find_by_id(project.to_string())
        .one(db.read())
        .await?
    else {
        return Ok(Account::default());
    };
    let counters: Vec<(i64, i64)> = container::Entity::find()
        .select_only()
        .column(container::Column::ObjectCount)
        .column(container::Column::BytesUsed)
        .filter(container::Column::AccountId.eq(project.to_string()))
        .into_tuple()
        .all(db.read())
        .await?;
    Ok(Account {
        metadata: from_json(&row.metadata)?,
        containers: counters.len() as u64,
        objects: counters.iter().map(|(count, _)| unsigned(*count)).sum(),
        bytes: counters.iter().map(|(_, bytes)| unsigned(*bytes)).sum(),
        created_at: Timestamp::from_micros(row.created_at),
    })
}

/// Makes the account, if it is not there.
pub async fn ensure(db: &Db, project: ProjectId, now: Timestamp) -> Result<(), DbError> {
    let id = project.to_string();
    if Entity::find_by_id(&id).one(db.read()).await?.is_some() {
        return Ok(());
    }
    let row = Model {
        id,
        metadata: to_json(&Metadata::new())?,
        created_at: now.as_micros(),
    };
    let made = db
        .write(move |txn| {
            let row = row.clone();
            Box::pin(async move {
                Entity::insert(row.into_active_model().reset_all())
                    .exec_without_returning(txn)
                    .await?;
                Ok(())
            })
        })
        .await;
    match made {
        // Somebody was first.
        Err(DbError::Conflict { .. }) => Ok(()),
        other => other,
    }
}

/// Changes the metadata by `change`, in one transaction.
pub async fn update(
    db: &Db,
    project: ProjectId,
    change: impl Fn(&mut Metadata) -> Result<(), DbError> + Clone + Send + Sync + 'static,
) -> Result<(), DbError> {
    db.write(move |txn| {
        let change = change.clone();
        Box::pin(async move {
            let id = project.to_string();
            let row = Entity::find_by_id(&id)
                .lock_exclusive()
                .one(txn)
                .await?
                .ok_or(DbError::NotFound)?;
            let mut metadata = from_json(&row.metadata)?;
            change(&mut metadata)?;
            Entity::update_many()
                .col_expr(Column::Metadata, Expr::value(to_json(&metadata)?))
                .filter(Column::Id.eq(id))
                .exec(txn)
                .await?
                .or_not_found()
        })
    })
    .await
}

//! For receivers with a database: refuses overtaken workers and answers a
//! repetition with the first result.

use std::time::Duration;

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
use sea_orm::{Condition, ConnectionTrait};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use yakumo_db::{BoxFuture, DatabaseTransaction, Db, DbError, database_now, now_expr};
use yakumo_types::Fault;

use crate::claim::locked;
use crate::cx::Fence;

/// Whether a fenced request is to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is new: do it, and [`FenceStore::record`] the result in the same
    /// transaction.
    Fresh,
    /// It has been done: this was the result.
    Replay(Value),
}

/// The highest epoch of each resource, and the results of what was done.
/// Everything happens in the receiver's own transaction.
#[derive(Debug, Clone, Copy, Default)]
pub struct FenceStore;

impl FenceStore {
    /// Does `action` at most once for this workflow, step and resource.
    ///
    /// # Errors
    /// A fault of code `Stale`, if a later claim has been here for this
    /// resource; what `action` returns. Failures are not recorded: the same
    /// step may be tried again.
    pub async fn once<T, F>(
        txn: &DatabaseTransaction,
        resource: &str,
        fence: &Fence,
        action: F,
    ) -> Result<T, DbError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>> + Send,
    {
        match Self::admit(txn, resource, fence).await? {
            Admission::Replay(value) => Ok(serde_json::from_value(value)?),
            Admission::Fresh => {
                let value = action(txn).await?;
                Self::record(txn, resource, fence, &serde_json::to_value(&value)?).await?;
                Ok(value)
            }
        }
    }

    /// Compares the fence with what has been here for `resource` before, and
    /// remembers it. Other fenced requests for it wait until the transaction ends.
    pub async fn admit(
        txn: &DatabaseTransaction,
        resource: &str,
        fence: &Fence,
    ) -> Result<Admission, DbError> {
        let epoch = i64::try_from(fence.epoch).map_err(|_| stale())?;
        let table = Alias::new("workflow_fences");
        let this = || Condition::all().add(Expr::col(Alias::new("resource")).eq(resource));
        let now = now_expr(yakumo_db::Backend::of(txn));
        let highest: Option<i64> = txn
            .query_one(&locked("workflow_fences", "epoch", this()))
            .await?
            .map(|row| row.try_get("", "epoch"))
            .transpose()?;
        match highest {
            Some(highest) if highest > epoch => return Err(stale()),
            Some(highest) if highest == epoch => {}
            Some(_) => {
                let mut update = Query::update();
                update
                    .table(table)
                    .value(Alias::new("epoch"), epoch)
                    .value(Alias::new("workflow_id"), fence.workflow_id.to_string())
                    .value(Alias::new("updated_at"), now)
                    .cond_where(this());
                txn.execute(&update).await?;
            }
            None => {
                let mut insert = Query::insert();
                insert
                    .into_table(table)
                    .columns(["resource", "workflow_id", "epoch", "updated_at"].map(Alias::new))
                    .values([
                        resource.into(),
                        fence.workflow_id.to_string().into(),
                        epoch.into(),
                        now,
                    ])
                    .map_err(DbError::other)?;
                match txn.execute(&insert).await.map_err(DbError::from) {
                    Ok(_) => {}
                    // Another request made the row at the same moment: run again.
                    Err(DbError::Conflict { .. }) => return Err(DbError::Contended),
                    Err(error) => return Err(error),
                }
            }
        }
        let mut select = Query::select();
        select
            .column(Alias::new("result"))
            .from(Alias::new("workflow_fence_results"))
            .and_where(Expr::col(Alias::new("workflow_id")).eq(fence.workflow_id.to_string()))
            .and_where(Expr::col(Alias::new("step")).eq(fence.step.as_str()))
            .and_where(Expr::col(Alias::new("resource")).eq(resource));
        match txn.query_one(&select).await? {
            Some(row) => {
                let text: String = row.try_get("", "result")?;
                Ok(Admission::Replay(serde_json::from_str(&text)?))
            }
            None => Ok(Admission::Fresh),
        }
    }

    /// Puts down what was done.
    pub async fn record(
        txn: &DatabaseTransaction,
        resource: &str,
        fence: &Fence,
        result: &Value,
    ) -> Result<(), DbError> {
        let mut insert = Query::insert();
        insert
            .into_table(Alias::new("workflow_fence_results"))
            .columns(["workflow_id", "step", "resource", "result", "recorded_at"].map(Alias::new))
            .values([
                fence.workflow_id.to_string().into(),
                fence.step.as_str().into(),
                resource.into(),
                serde_json::to_string(result)?.into(),
                now_expr(yakumo_db::Backend::of(txn)),
            ])
            .map_err(DbError::other)?;
        txn.execute(&insert).await?;
        Ok(())
    }

    /// Forgets what has not been touched for `age`, which must be longer than
    /// any workflow lives.
    pub async fn purge(db: &Db, age: Duration) -> Result<(), DbError> {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = database_now(db.read())
            .await?
            .as_micros()
            .saturating_sub(age);
        for (table, column) in [
            ("workflow_fence_results", "recorded_at"),
            ("workflow_fences", "updated_at"),
        ] {
            let old = Expr::col(Alias::new(column)).lt(before);
            let mut select = Query::select();
            select
                .column(Alias::new(column))
                .from(Alias::new(table))
                .and_where(old.clone())
                .limit(1);
            if db.read().query_one(&select).await?.is_none() {
                continue;
            }
            db.write(move |txn| {
                let old = old.clone();
                Box::pin(async move {
                    let mut delete = Query::delete();
                    delete.from_table(Alias::new(table)).and_where(old);
                    txn.execute(&delete).await?;
                    Ok(())
                })
            })
            .await?;
        }
        Ok(())
    }
}

fn stale() -> DbError {
    DbError::Fault(Fault::stale(
        "A later attempt at this has been here already.",
    ))
}

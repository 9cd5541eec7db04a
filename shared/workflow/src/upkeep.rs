//! What operators' commands do to the engine's tables, whether or not an engine
//! runs: removing what is old, and going on after a database was restored.

use std::time::Duration;

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query, SimpleExpr};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use yakumo_db::{Backend, Db, DbError, database_now, now_expr};
use yakumo_types::Fault;

use crate::entity::workflow;
use crate::lease;
use crate::view::WorkflowState;

/// Rows in one transaction.
const PORTION: u64 = 500;

/// Fences are kept for this long at the least: longer than a workflow lives.
const FENCES_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Removes what ended longer ago than `age`, in portions; how many rows of
/// which table.
///
/// # Errors
/// Those of the database. What was removed until then stays removed.
pub async fn purge(db: &Db, age: Duration) -> Result<Vec<(&'static str, u64)>, DbError> {
    let now = database_now(db.read()).await?;
    let before = now.minus(age).as_micros();
    let (mut workflows, mut steps) = (0, 0);
    loop {
        let (some_workflows, some_steps) = db
            .write(move |txn| Box::pin(async move { lease::purge_some(txn, before).await }))
            .await?;
        workflows += some_workflows;
        steps += some_steps;
        if some_workflows == 0 {
            break;
        }
    }
    let before = now.minus(age.max(FENCES_KEPT)).as_micros();
    let mut purged = vec![("workflows", workflows), ("workflow_steps", steps)];
    for (table, key, column) in [
        ("workflow_fence_results", "workflow_id", "recorded_at"),
        ("workflow_fences", "resource", "updated_at"),
    ] {
        purged.push((table, purge_by(db, table, key, column, before).await?));
    }
    Ok(purged)
}

async fn purge_by(
    db: &Db,
    table: &'static str,
    key: &'static str,
    column: &'static str,
    before: i64,
) -> Result<u64, DbError> {
    let old = move || -> SimpleExpr { Expr::col(Alias::new(column)).lt(before) };
    let mut removed = 0;
    loop {
        let mut select = Query::select();
        select
            .distinct()
            .column(Alias::new(key))
            .from(Alias::new(table))
            .and_where(old())
            .limit(PORTION);
        let keys: Vec<String> = db
            .read()
            .query_all(&select)
            .await?
            .iter()
            .map(|row| row.try_get("", key))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Ok(removed);
        }
        removed += db
            .write(move |txn| {
                let mut delete = Query::delete();
                delete
                    .from_table(Alias::new(table))
                    .and_where(Expr::col(Alias::new(key)).is_in(keys.clone()))
                    .and_where(old());
                Box::pin(async move { Ok(txn.execute(&delete).await?.rows_affected()) })
            })
            .await?;
    }
}

/// Takes the leases of all workers away, in a database that was restored: they
/// are those of processes that ended long ago. One that lives after all comes
/// back under another name.
///
/// # Errors
/// Those of the database.
pub async fn forget_workers(txn: &DatabaseTransaction) -> Result<u64, DbError> {
    let mut delete = Query::delete();
    delete.from_table(Alias::new("worker_leases"));
    Ok(txn.execute(&delete).await?.rows_affected())
}

/// Gives all running workflows of these kinds up: once a worker takes them,
/// what they did is undone, and `fault` is the reason. Returns how many.
///
/// # Errors
/// Those of the database.
pub async fn call_off(
    txn: &DatabaseTransaction,
    kinds: &[&str],
    fault: &Fault,
) -> Result<u64, DbError> {
    let mut update = Query::update();
    update
        .table(workflow::Entity)
        .value(workflow::Column::Cancel, serde_json::to_string(fault)?)
        .value(
            workflow::Column::Wakes,
            Expr::col(workflow::Column::Wakes).add(1_i64),
        )
        .value(workflow::Column::WakeAt, now_expr(Backend::of(txn)))
        .and_where(Expr::col(workflow::Column::Kind).is_in(kinds.iter().copied()))
        .and_where(Expr::col(workflow::Column::State).eq(WorkflowState::Running.as_str()));
    Ok(txn.execute(&update).await?.rows_affected())
}

//! Taking workflows over, in batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::{Alias, CaseStatement, Expr, ExprTrait as _, LockType, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use yakumo_db::{DatabaseTransaction, DbError, database_now, now_expr, skip_locked};

use crate::cx::Guard;
use crate::engine::Inner;
use crate::entity::{step, workflow};
use crate::lease::Worker;

/// A workflow that now belongs to this worker.
pub(crate) struct Claimed {
    pub row: workflow::Model,
    /// What its steps returned so far, by name.
    pub results: BTreeMap<String, Value>,
    /// Whether nobody else can have begun it.
    pub untouched: bool,
    /// Time left until its deadline when it was claimed.
    pub remaining: Duration,
    pub worker: Arc<Worker>,
    pub guard: Guard,
}

/// A claim that comes into being together with its workflow: whoever submits
/// it goes on with it, which spares a transaction.
pub(crate) struct Ahead {
    inner: Arc<Inner>,
    worker: Arc<Worker>,
    epoch: i64,
    workflow_id: String,
    /// Taken when the workflow begins; still there if it never does.
    room: Option<OwnedSemaphorePermit>,
}

impl Ahead {
    /// Room, a lease, and the time by the database's clock; nothing where one of
    /// them is missing. Should the lease be taken away before the commit, the
    /// workflow is a stray, which whoever looks next takes over.
    pub(crate) async fn claim(
        inner: &Arc<Inner>,
        txn: &DatabaseTransaction,
        workflow_id: &str,
    ) -> Result<Option<Self>, DbError> {
        let Some((worker, room)) = inner.lease.worker().zip(inner.room()) else {
            return Ok(None);
        };
        if !worker.is_valid(inner) {
            return Ok(None);
        }
        // From before the row can be seen, so that it is never taken for one
        // that this worker does not know of.
        inner.remember(workflow_id);
        let mut ahead = Self {
            inner: Arc::clone(inner),
            worker,
            epoch: 0,
            workflow_id: workflow_id.to_owned(),
            room: Some(room),
        };
        let mut select = Query::select();
        select
            .expr_as(now_expr(inner.db.backend()), Alias::new("now"))
            .from(Alias::new("worker_leases"))
            .and_where(Expr::col(Alias::new("id")).eq(&*ahead.worker.id));
        let Some(row) = txn.query_one(&select).await? else {
            return Ok(None);
        };
        ahead.epoch = row.try_get("", "now")?;
        Ok(Some(ahead))
    }

    pub(crate) fn owner(&self) -> String {
        self.worker.id.to_string()
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// It is committed.
    pub(crate) fn begin(mut self, row: workflow::Model, remaining: Duration) {
        let Some(room) = self.room.take() else { return };
        let claimed = Claimed {
            results: BTreeMap::new(),
            untouched: true,
            remaining,
            guard: Guard {
                workflow_id: row.id.clone(),
                owner: Arc::clone(&self.worker.id),
                epoch: row.epoch,
            },
            worker: Arc::clone(&self.worker),
            row,
        };
        self.inner.begin(claimed, room);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.room.is_some() {
            // Rolled back most likely; but an answer may have been lost.
            self.inner.forget(&self.workflow_id);
            self.inner.doubt();
        }
    }
}

/// Whether anything waits; asks the readers only.
pub(crate) async fn anything(inner: &Inner) -> Result<bool, DbError> {
    let mut select = Query::select();
    select
        .expr_as(Expr::val(1_i64), Alias::new("one"))
        .from(workflow::Entity)
        .and_where(workflow::Column::Owner.eq(""))
        .and_where(Expr::col(workflow::Column::WakeAt).lte(now_expr(inner.db.backend())))
        .limit(1);
    Ok(inner.db.read().query_one(&select).await?.is_some())
}

pub(crate) async fn claim(
    inner: &Inner,
    worker: &Arc<Worker>,
    kinds: Vec<&'static str>,
    limit: usize,
) -> Result<Vec<Claimed>, DbError> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let worker_id = Arc::clone(&worker.id);
    let (rows, steps, now) = inner
        .db
        .write(move |txn| {
            let kinds = kinds.clone();
            let worker_id = Arc::clone(&worker_id);
            Box::pin(async move { claim_rows(txn, &worker_id, kinds, limit).await })
        })
        .await?;
    let mut results: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for step in steps {
        results
            .entry(step.workflow_id)
            .or_default()
            .insert(step.name, read_output(&step.output));
    }
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            results: results.remove(&row.id).unwrap_or_default(),
            untouched: false,
            remaining: Duration::from_micros(
                u64::try_from(row.deadline_at.saturating_sub(now)).unwrap_or(0),
            ),
            guard: Guard {
                workflow_id: row.id.clone(),
                owner: Arc::clone(&worker.id),
                epoch: row.epoch,
            },
            worker: Arc::clone(worker),
            row,
        })
        .collect())
}

/// The claim is committed, so that an unreadable result must not fail it: the
/// step that needs the result will.
fn read_output(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(%error, "the result of a workflow step cannot be read");
        Value::Null
    })
}

/// Frees what this worker owns without knowing it: what was claimed by a commit
/// that went through although its answer was lost. To be called by the only
/// task that claims what is there already.
pub(crate) async fn release_unknown(inner: &Inner, worker: &Worker) -> Result<(), DbError> {
    let mut select = Query::select();
    select
        .column(workflow::Column::Id)
        .from(workflow::Entity)
        .and_where(workflow::Column::Owner.eq(&*worker.id));
    let mut owned: Vec<String> = Vec::new();
    for row in inner.db.read().query_all(&select).await? {
        owned.push(row.try_get("", "id")?);
    }
    // What can be seen is known since before, so this comes after.
    let unknown = inner.unknown_of(owned);
    if unknown.is_empty() {
        return Ok(());
    }
    let worker_id = Arc::clone(&worker.id);
    let freed = inner
        .db
        .write(move |txn| {
            let which = sea_orm::Condition::all()
                .add(workflow::Column::Owner.eq(&*worker_id))
                .add(workflow::Column::Id.is_in(&unknown));
            Box::pin(async move {
                let now = database_now(txn).await?.as_micros();
                crate::lease::free(txn, now, which).await
            })
        })
        .await?;
    if freed > 0 {
        tracing::warn!(freed, "freed workflows that were claimed unknowingly");
    }
    Ok(())
}

type Rows = (Vec<workflow::Model>, Vec<step::Model>, i64);

async fn claim_rows(
    txn: &DatabaseTransaction,
    worker_id: &str,
    kinds: Vec<&'static str>,
    limit: u64,
) -> Result<Rows, DbError> {
    let now = database_now(txn).await?.as_micros();
    let waiting = workflow::Entity::find()
        .filter(workflow::Column::Owner.eq(""))
        .filter(workflow::Column::WakeAt.lte(now))
        .filter(workflow::Column::Kind.is_in(kinds))
        .order_by_asc(workflow::Column::WakeAt)
        .limit(limit);
    let mut rows = skip_locked(waiting).all(txn).await?;
    if rows.is_empty() {
        return Ok((rows, Vec::new(), now));
    }
    // A worker that has been given up must not claim in its old name: nobody
    // would ever look there again.
    if !crate::lease::hold(txn, worker_id).await? {
        return Ok((Vec::new(), Vec::new(), now));
    }
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let next = Expr::col(workflow::Column::Epoch).add(1_i64);
    let mut update = Query::update();
    update
        .table(workflow::Entity)
        .value(workflow::Column::Owner, worker_id)
        .value(
            workflow::Column::Epoch,
            CaseStatement::new()
                .case(next.clone().gt(now), next)
                .finally(now),
        )
        .and_where(workflow::Column::Id.is_in(ids.iter().map(String::as_str)));
    txn.execute(&update).await?;
    for row in &mut rows {
        row.epoch = Ord::max(now, row.epoch.saturating_add(1));
        row.owner = worker_id.to_owned();
    }
    // Fresh ones have no results yet.
    let begun: Vec<&str> = rows
        .iter()
        .filter(|row| row.step > 0 || row.state != crate::WorkflowState::Running.as_str())
        .map(|row| row.id.as_str())
        .collect();
    let steps = if begun.is_empty() {
        Vec::new()
    } else {
        step::Entity::find()
            .filter(step::Column::WorkflowId.is_in(begun))
            .filter(step::Column::Action.eq("do"))
            .all(txn)
            .await?
    };
    Ok((rows, steps, now))
}

/// `SELECT … FOR UPDATE` of one column, for conditions.
pub(crate) fn locked(
    table: &str,
    column: &str,
    condition: sea_orm::Condition,
) -> sea_orm::sea_query::SelectStatement {
    let mut select = Query::select();
    select
        .column(Alias::new(column))
        .from(Alias::new(table))
        .cond_where(condition)
        .lock(LockType::Update);
    select
}

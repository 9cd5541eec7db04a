//! One lease per worker process, by the database's clock alone.
//!
//! A lease that ran out and that nobody has taken away is simply renewed: as
//! long as the row is there, nobody has taken anything over. Once the row is
//! gone, the worker gives up everything that it runs and comes back under a
//! new name.

use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use sea_orm::sea_query::{
    Alias, CaseStatement, Expr, ExprTrait as _, LockBehavior, LockType, Query,
};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use yakumo_db::{DatabaseTransaction, DbError, database_now, now_expr};

use crate::claim::locked;
use crate::engine::{Inner, NEVER};
use crate::entity::workflow;
use crate::fence::FenceStore;
use crate::put_back;

/// This process under one name.
pub(crate) struct Worker {
    pub id: Arc<str>,
    /// The lease was taken away: stop everything.
    pub lost: CancellationToken,
    /// Until when, by this process's own clock, the lease surely holds.
    valid_until: Mutex<Duration>,
    renewed: Notify,
}

/// The current name of this process, once it has one.
#[derive(Default)]
pub(crate) struct Lease(RwLock<Option<Arc<Worker>>>);

impl Lease {
    pub(crate) fn worker(&self) -> Option<Arc<Worker>> {
        self.0.read().ok()?.clone()
    }

    fn set(&self, worker: Option<Arc<Worker>>) {
        if let Ok(mut current) = self.0.write() {
            *current = worker;
        }
    }
}

impl Worker {
    /// Waits until the lease holds; false once it is lost. A worker that was
    /// stopped for longer than its lease does not begin another step before
    /// it knows that it still may.
    pub(crate) async fn may_go_on(&self, inner: &Inner) -> bool {
        loop {
            if self.lost.is_cancelled() {
                return false;
            }
            let renewed = self.renewed.notified();
            if self.is_valid(inner) {
                return true;
            }
            tokio::select! {
                biased;
                () = renewed => {}
                () = self.lost.cancelled() => return false,
                // A renewal may have come between the look and the wait.
                () = inner.env.clock.sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    /// Whether the lease surely holds just now.
    pub(crate) fn is_valid(&self, inner: &Inner) -> bool {
        self.valid_until
            .lock()
            .is_ok_and(|until| *until > inner.env.clock.monotonic())
    }

    fn extend(&self, until: Duration) {
        if let Ok(mut valid_until) = self.valid_until.lock() {
            *valid_until = until;
        }
        self.renewed.notify_waiters();
    }
}

/// Locks the worker's lease row; false if there is none.
pub(crate) async fn hold(txn: &DatabaseTransaction, worker_id: &str) -> Result<bool, DbError> {
    let select = locked(
        "worker_leases",
        "id",
        Condition::all().add(Expr::col(Alias::new("id")).eq(worker_id)),
    );
    Ok(txn.query_one(&select).await?.is_some())
}

/// Keeps the lease, takes over from workers that lost theirs, and purges,
/// until the worker has drained.
pub(crate) async fn keep(inner: Arc<Inner>, drained: CancellationToken) {
    tokio::select! {
        biased;
        () = inner.killed.cancelled() => {}
        () = drained.cancelled() => {}
        () = keep_on(&inner) => {}
    }
    if !inner.draining.is_cancelled() {
        return;
    }
    // Only when no task runs any more, be it that they were cut off.
    drained.cancelled().await;
    if let Some(worker) = inner.lease.worker()
        && let Err(error) = give_back(&inner, &worker.id).await
    {
        warn!(%error, "workflows are given back only when the lease runs out");
    }
}

async fn keep_on(inner: &Arc<Inner>) {
    let mut rounds = 0_u64;
    loop {
        if let Err(error) = inner.in_time(round(inner)).await {
            warn!(%error, "cannot keep the lease of the workflow worker");
            inner.env.clock.sleep(Duration::from_millis(500)).await;
            continue;
        }
        // Once a minute, and not right at the start. What it does not manage in
        // time is left for the next minute.
        rounds += 1;
        if rounds.is_multiple_of(12)
            && let Err(error) = inner.in_time(purge(inner)).await
        {
            warn!(%error, "cannot purge ended workflows");
        }
        inner.env.clock.sleep(inner.config.renew_every).await;
    }
}

async fn round(inner: &Arc<Inner>) -> Result<(), DbError> {
    match inner.lease.worker() {
        None => {
            put_back::follow(inner).await?;
            register(inner).await?;
        }
        Some(worker) => {
            // Before the lease is renewed, by which alone it can be told.
            if put_back::is_noticed(inner, &worker.id).await? {
                put_back::follow(inner).await?;
            }
            if !renew(inner, &worker).await? {
                warn!(
                    worker = &*worker.id,
                    "the lease was taken away: starting anew"
                );
                metrics::counter!("yakumo_workflow_leases_lost_total").increment(1);
                worker.lost.cancel();
                inner.lease.set(None);
                register(inner).await?;
            }
        }
    }
    let taken = take_over(inner).await?;
    if taken > 0 {
        info!(taken, "took workflows over from workers that are gone");
        inner.nudge.notify_one();
    }
    Ok(())
}

pub(crate) fn lease_micros(inner: &Inner) -> i64 {
    i64::try_from(inner.config.lease.as_micros()).unwrap_or(NEVER / 4)
}

async fn register(inner: &Arc<Inner>) -> Result<(), DbError> {
    let id: Arc<str> = inner.env.rng.uuid().to_string().into();
    let lease = lease_micros(inner);
    let backend = inner.db.backend();
    let before = inner.env.clock.monotonic();
    let new_id = Arc::clone(&id);
    inner
        .db
        .write(move |txn| {
            let id = Arc::clone(&new_id);
            Box::pin(async move {
                let mut insert = Query::insert();
                insert
                    .into_table(Alias::new("worker_leases"))
                    .columns(["id", "started_at", "expires_at"].map(Alias::new))
                    .values([
                        (&*id).into(),
                        now_expr(backend),
                        now_expr(backend).add(lease),
                    ])
                    .map_err(DbError::other)?;
                txn.execute(&insert).await?;
                Ok(())
            })
        })
        .await?;
    inner.lease.set(Some(Arc::new(Worker {
        id,
        lost: CancellationToken::new(),
        valid_until: Mutex::new(before + inner.config.lease),
        renewed: Notify::new(),
    })));
    inner.nudge.notify_one();
    Ok(())
}

async fn renew(inner: &Inner, worker: &Worker) -> Result<bool, DbError> {
    let id = Arc::clone(&worker.id);
    let lease = lease_micros(inner);
    let backend = inner.db.backend();
    // Measured from before the statement, so that this side ends first.
    let before = inner.env.clock.monotonic();
    let held = inner
        .db
        .write(move |txn| {
            let id = Arc::clone(&id);
            Box::pin(async move {
                let mut update = Query::update();
                update
                    .table(Alias::new("worker_leases"))
                    .value(Alias::new("expires_at"), now_expr(backend).add(lease))
                    .and_where(Expr::col(Alias::new("id")).eq(&*id));
                Ok(txn.execute(&update).await?.rows_affected() == 1)
            })
        })
        .await?;
    if held {
        worker.extend(before + inner.config.lease);
    }
    Ok(held)
}

/// Frees the workflows of workers whose lease ran out, and of owners that
/// have no lease at all. Returns how many.
async fn take_over(inner: &Inner) -> Result<u64, DbError> {
    // Mostly there is nothing, and then nothing is written. A lease of our own
    // that has just run out is there to be renewed, not to be taken from us.
    let backend = inner.db.backend();
    let own: Arc<str> = match inner.lease.worker() {
        Some(worker) => Arc::clone(&worker.id),
        None => return Ok(0),
    };
    let mut expired = Query::select();
    expired
        .column(Alias::new("id"))
        .from(Alias::new("worker_leases"))
        .and_where(Expr::col(Alias::new("expires_at")).lt(now_expr(backend)))
        .and_where(Expr::col(Alias::new("id")).ne(&*own))
        .limit(1);
    let mut strays = Query::select();
    strays
        .column(workflow::Column::Id)
        .from(workflow::Entity)
        .cond_where(stray())
        .limit(1);
    let read = inner.db.read();
    if read.query_one(&expired).await?.is_none() && read.query_one(&strays).await?.is_none() {
        return Ok(0);
    }
    inner
        .db
        .write(move |txn| {
            let own = Arc::clone(&own);
            Box::pin(async move { take_over_rows(txn, &own).await })
        })
        .await
}

fn stray() -> Condition {
    let mut leases = Query::select();
    leases
        .column(Alias::new("id"))
        .from(Alias::new("worker_leases"));
    Condition::all()
        .add(workflow::Column::Owner.ne(""))
        .add(workflow::Column::Owner.not_in_subquery(leases))
}

async fn take_over_rows(txn: &DatabaseTransaction, own: &str) -> Result<u64, DbError> {
    let now = database_now(txn).await?.as_micros();
    let mut select = Query::select();
    select
        .column(Alias::new("id"))
        .from(Alias::new("worker_leases"))
        .and_where(Expr::col(Alias::new("expires_at")).lt(now))
        .and_where(Expr::col(Alias::new("id")).ne(own))
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    let mut dead: Vec<String> = Vec::new();
    for row in txn.query_all(&select).await? {
        dead.push(row.try_get("", "id")?);
    }
    let mut freed = 0;
    if !dead.is_empty() {
        freed += free(
            txn,
            now,
            Condition::all().add(workflow::Column::Owner.is_in(&dead)),
        )
        .await?;
        let mut delete = Query::delete();
        delete
            .from_table(Alias::new("worker_leases"))
            .and_where(Expr::col(Alias::new("id")).is_in(&dead));
        txn.execute(&delete).await?;
    }
    Ok(freed + free(txn, now, stray()).await?)
}

/// Takes workflows away from their owner and raises the epoch, at or beyond
/// which the next owner begins.
pub(crate) async fn free(
    txn: &DatabaseTransaction,
    now: i64,
    which: Condition,
) -> Result<u64, DbError> {
    let next = Expr::col(workflow::Column::Epoch).add(1_i64);
    let mut update = Query::update();
    update
        .table(workflow::Entity)
        .value(workflow::Column::Owner, "")
        .value(
            workflow::Column::WakeAt,
            CaseStatement::new()
                .case(workflow::Column::FinishedAt.ne(0_i64), NEVER)
                .finally(now),
        )
        .value(
            workflow::Column::Epoch,
            CaseStatement::new()
                .case(next.clone().gt(now), next)
                .finally(now),
        )
        .cond_where(which);
    Ok(txn.execute(&update).await?.rows_affected())
}

/// An orderly end: others need not wait for the lease to run out.
async fn give_back(inner: &Inner, worker_id: &Arc<str>) -> Result<(), DbError> {
    let id = Arc::clone(worker_id);
    inner
        .db
        .write(move |txn| {
            let id = Arc::clone(&id);
            Box::pin(async move {
                let now = database_now(txn).await?.as_micros();
                free(
                    txn,
                    now,
                    Condition::all().add(workflow::Column::Owner.eq(&*id)),
                )
                .await?;
                let mut delete = Query::delete();
                delete
                    .from_table(Alias::new("worker_leases"))
                    .and_where(Expr::col(Alias::new("id")).eq(&*id));
                txn.execute(&delete).await?;
                Ok(())
            })
        })
        .await
}

/// Removes what ended long ago, some at a time.
pub(crate) async fn purge(inner: &Inner) -> Result<(), DbError> {
    let keep = i64::try_from(inner.config.keep_ended.as_micros()).unwrap_or(NEVER / 4);
    let before = database_now(inner.db.read())
        .await?
        .as_micros()
        .saturating_sub(keep);
    // Bounded, so that a first purge after long does not take the day.
    for _ in 0..100 {
        let removed = inner
            .db
            .write(move |txn| Box::pin(async move { purge_some(txn, before).await }))
            .await?;
        if removed.0 == 0 {
            break;
        }
    }
    FenceStore::purge(
        &inner.db,
        inner.config.keep_ended.max(Duration::from_secs(7 * 86_400)),
    )
    .await
}

/// How many workflows that were, and how many of their steps.
pub(crate) async fn purge_some(
    txn: &DatabaseTransaction,
    before: i64,
) -> Result<(u64, u64), DbError> {
    let mut select = Query::select();
    select
        .column(workflow::Column::Id)
        .from(workflow::Entity)
        .and_where(workflow::Column::FinishedAt.gt(0_i64))
        .and_where(workflow::Column::FinishedAt.lt(before))
        .limit(500)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    let mut ids: Vec<String> = Vec::new();
    for row in txn.query_all(&select).await? {
        ids.push(row.try_get("", "id")?);
    }
    if ids.is_empty() {
        return Ok((0, 0));
    }
    let delete = |table: &str, column: &str| {
        let mut delete = Query::delete();
        delete
            .from_table(Alias::new(table))
            .and_where(Expr::col(Alias::new(column)).is_in(&ids));
        delete
    };
    let steps = txn
        .execute(&delete("workflow_steps", "workflow_id"))
        .await?;
    let workflows = txn.execute(&delete("workflows", "id")).await?;
    Ok((workflows.rows_affected(), steps.rows_affected()))
}

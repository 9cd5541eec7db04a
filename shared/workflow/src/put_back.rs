//! The database's clock was put back: by hand, by NTP, or by a move to another
//! machine. What was written before then lies ahead of it: leases of workers
//! that are gone would hold, waits would last and deadlines would be late by as
//! much as the clock lost.
//!
//! A worker notices it by its own lease, which reaches further than it wrote it,
//! and one that starts by what it finds. Everything that is done then can be
//! done again, so that workers need not agree who does it.

use std::time::Duration;

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query, SimpleExpr};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use tracing::warn;
use yakumo_db::{DbError, database_now, now_expr};

use crate::engine::{Inner, NEVER};
use crate::entity::workflow;
use crate::lease::lease_micros;

/// What lies ahead by less than this may have been written by another clock of
/// the same database, or while this was being read.
const SLACK: Duration = Duration::from_secs(30);

fn slack() -> i64 {
    i64::try_from(SLACK.as_micros()).unwrap_or(NEVER / 4)
}

/// Whether this worker's lease lies further ahead than it was ever written.
pub(crate) async fn is_noticed(inner: &Inner, worker: &str) -> Result<bool, DbError> {
    let end = now_expr(inner.db.backend()).add(lease_micros(inner).saturating_add(slack()));
    let mut select = Query::select();
    select
        .column(Alias::new("id"))
        .from(Alias::new("worker_leases"))
        .and_where(Expr::col(Alias::new("id")).eq(worker))
        .and_where(Expr::col(Alias::new("expires_at")).gt(end));
    Ok(inner.db.read().query_one(&select).await?.is_some())
}

/// Brings everything that lies ahead back to the clock.
pub(crate) async fn follow(inner: &Inner) -> Result<(), DbError> {
    let lease = lease_micros(inner);
    let followed = inner
        .db
        .write(move |txn| Box::pin(async move { follow_in(txn, lease).await }))
        .await?;
    if followed {
        warn!("the database's clock was put back; leases, waits and deadlines follow it");
        inner.nudge.notify_one();
    }
    Ok(())
}

async fn follow_in(txn: &DatabaseTransaction, lease: i64) -> Result<bool, DbError> {
    let now = database_now(txn).await?.as_micros();
    // A living worker renews its lease before long, and one that is gone loses
    // it as if it had died just now.
    let end = now.saturating_add(lease);
    let mut leases = Query::update();
    leases
        .table(Alias::new("worker_leases"))
        .value(Alias::new("expires_at"), end)
        .and_where(Expr::col(Alias::new("expires_at")).gt(end.saturating_add(slack())));
    let mut followed = txn.execute(&leases).await?.rows_affected();
    // As much of its time is left as when it was last written.
    let mut deadlines = Query::update();
    deadlines
        .table(workflow::Entity)
        .value(
            workflow::Column::DeadlineAt,
            Expr::col(workflow::Column::DeadlineAt)
                .sub(SimpleExpr::from(Expr::col(workflow::Column::UpdatedAt)).sub(now)),
        )
        .and_where(Expr::col(workflow::Column::FinishedAt).eq(0_i64))
        .and_where(Expr::col(workflow::Column::UpdatedAt).gt(now.saturating_add(slack())));
    followed += txn.execute(&deadlines).await?.rows_affected();
    let mut updates = Query::update();
    updates
        .table(workflow::Entity)
        .value(workflow::Column::UpdatedAt, now)
        .and_where(Expr::col(workflow::Column::FinishedAt).eq(0_i64))
        .and_where(Expr::col(workflow::Column::UpdatedAt).gt(now.saturating_add(slack())));
    txn.execute(&updates).await?;
    if followed == 0 {
        return Ok(false);
    }
    // For how long each was to wait is not known any more. To look too early
    // does no harm.
    let mut waits = Query::update();
    waits
        .table(workflow::Entity)
        .value(workflow::Column::WakeAt, now)
        .and_where(Expr::col(workflow::Column::FinishedAt).eq(0_i64))
        .and_where(Expr::col(workflow::Column::Owner).eq(""))
        .and_where(Expr::col(workflow::Column::WakeAt).gt(now))
        .and_where(Expr::col(workflow::Column::WakeAt).lt(NEVER));
    txn.execute(&waits).await?;
    Ok(true)
}

//! What a run writes: each record is conditional on the workflow still
//! belonging to this worker, in the same transaction.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::{Alias, ExprTrait as _, InsertStatement, Query, UpdateStatement};
use sea_orm::{ColumnTrait, ConnectionTrait};
use serde_json::Value;
use tracing::{info, warn};
use yakumo_db::{DatabaseTransaction, DbError, now_expr};
use yakumo_types::Fault;

use crate::cx::{Guard, Held, is_overtaken, overtaken};
use crate::engine::{Inner, NEVER};
use crate::entity::workflow;
use crate::run::{Next, Run};
use crate::view::WorkflowState;
use crate::workflow::End;

/// Longest text kept about what is waited for.
const NOTE: usize = 1000;

impl Run<'_> {
    /// A conditional change of this workflow's row; nothing but the row.
    fn update(&self) -> UpdateStatement {
        update(self.inner, &self.cx.guard)
    }

    /// Records a step and, with it, that the next one is this worker's.
    /// Returns the reason if the workflow was cancelled meanwhile; then the
    /// step is not recorded.
    pub(crate) async fn record(
        &mut self,
        action: &'static str,
        position: usize,
        name: &'static str,
        output: &Value,
    ) -> Result<Option<Fault>, DbError> {
        let (before, after) = match action {
            "do" => (
                to_i64(position.saturating_sub(self.unrecorded.len())),
                to_i64(position + 1),
            ),
            _ => (to_i64(position + 1), to_i64(position)),
        };
        let mut update = self.update();
        update
            .value(workflow::Column::Step, after)
            .value(workflow::Column::Attempt, 0_i64)
            .value(workflow::Column::WaitingFor, "")
            .and_where(workflow::Column::Step.eq(before));
        // A cancellation shows here at no cost: as a condition of the update.
        if action == "do" {
            update.and_where(workflow::Column::Cancel.eq(""));
        }
        let insert = self.step_rows(action, position, Some((name, output)))?;
        let (guard, along) = (self.cx.guard.clone(), self.along.clone());
        let refused = self
            .inner
            .db
            .write(move |txn| {
                let (update, insert, guard) = (update.clone(), insert.clone(), guard.clone());
                let along = along.clone();
                Box::pin(async move {
                    if txn.execute(&update).await?.rows_affected() == 1 {
                        txn.execute(&insert).await?;
                        if let Some(along) = along {
                            along(txn).await?;
                        }
                        return Ok(None);
                    }
                    let held = guard.check(txn).await?;
                    if held.step == after {
                        // Recorded before, by a commit that was not answered.
                        return Ok(None);
                    }
                    match held.cancel {
                        Some(fault) => Ok(Some(fault)),
                        None => Err(DbError::other("a workflow's row is not as expected")),
                    }
                })
            })
            .await?;
        if refused.is_none() {
            self.unrecorded.clear();
            self.alone = true;
            self.along = None;
        }
        Ok(refused)
    }

    /// The rows of the steps that wait for it, which are those before
    /// `position`, and of `last` at `position`.
    fn step_rows(
        &self,
        action: &str,
        position: usize,
        last: Option<(&str, &Value)>,
    ) -> Result<InsertStatement, DbError> {
        let mut insert = Query::insert();
        insert.into_table(Alias::new("workflow_steps")).columns(
            [
                "workflow_id",
                "action",
                "position",
                "name",
                "output",
                "epoch",
                "recorded_at",
            ]
            .map(Alias::new),
        );
        let waiting = self.unrecorded.iter().map(|(name, value)| (*name, value));
        let first = position.saturating_sub(self.unrecorded.len());
        for (position, (name, output)) in (first..).zip(waiting.chain(last)) {
            insert
                .values([
                    self.cx.guard.workflow_id.as_str().into(),
                    action.into(),
                    to_i64(position).into(),
                    name.into(),
                    serde_json::to_string(output)?.into(),
                    self.cx.guard.epoch.into(),
                    now_expr(self.inner.db.backend()),
                ])
                .map_err(DbError::other)?;
        }
        Ok(insert)
    }

    /// What is to be written of steps that are done and not recorded yet.
    fn unrecorded(&self) -> Result<Option<Unrecorded>, DbError> {
        if self.unrecorded.is_empty() {
            return Ok(None);
        }
        Ok(Some(Unrecorded {
            before: to_i64(self.step.saturating_sub(self.unrecorded.len())),
            after: to_i64(self.step),
            insert: self.step_rows("do", self.step, None)?,
        }))
    }

    /// Leaves the workflow to whoever looks after `wait`, or sooner if it was
    /// woken since it was claimed.
    pub(crate) async fn put_off(
        &mut self,
        wait: Duration,
        note: String,
        attempt: u32,
    ) -> Result<Next, DbError> {
        self.listening.ear.set_deaf(true);
        let wait = match self.state {
            // The deadline must be noticed when it passes.
            WorkflowState::Running => wait.min(self.cx.remaining()),
            _ => wait,
        };
        leave(
            self.inner,
            &self.cx.guard,
            self.unrecorded()?,
            self.wakes,
            wait,
            note,
            attempt,
        )
        .await?;
        Ok(Next::Leave)
    }

    /// How many steps may have happened, the current one included, of which a
    /// half may have. Whoever had the workflow before may have gone on from a
    /// step that is recorded with the next one, and died before that record.
    fn begun(&self) -> usize {
        let steps = self.workflow.steps();
        let unrecorded = steps
            .iter()
            .skip(self.step)
            .take_while(|step| !self.alone && self.workflow.is_lazy(step))
            .count();
        (self.step + unrecorded + 1).min(steps.len())
    }

    /// From here on everything is taken back.
    pub(crate) async fn start_undoing(&mut self, fault: Fault) -> Result<Next, DbError> {
        let left = self.begun();
        info!(
            workflow = %self.cx.workflow_id, kind = self.kind, resource = self.cx.resource,
            reason = fault.message, "undoing a workflow"
        );
        let mut update = self.update();
        update
            .value(workflow::Column::State, WorkflowState::Undoing.as_str())
            .value(workflow::Column::Step, to_i64(left))
            .value(workflow::Column::Attempt, 0_i64)
            .value(workflow::Column::WaitingFor, "")
            .value(workflow::Column::Fault, serde_json::to_string(&fault)?);
        let (guard, unrecorded) = (self.cx.guard.clone(), self.unrecorded()?);
        self.inner
            .db
            .write(move |txn| {
                let (update, guard) = (update.clone(), guard.clone());
                let unrecorded = unrecorded.clone();
                Box::pin(async move {
                    if let Some(rows) = unrecorded {
                        let held = guard.check(txn).await?;
                        rows.write(txn, &held).await?;
                    }
                    must_touch(txn, &update).await
                })
            })
            .await?;
        self.unrecorded.clear();
        self.state = WorkflowState::Undoing;
        self.step = left;
        self.attempt = 0;
        let cx = self.cx_mut();
        cx.fault = Some(fault);
        cx.ends_at = Duration::ZERO;
        Ok(Next::GoOn)
    }

    /// The last row and what the workflow itself writes at its end: one
    /// transaction. The last step's result is for `on_finished` and is not
    /// recorded, as nobody goes on from there.
    pub(crate) async fn finish(
        &mut self,
        last: Option<(&'static str, Value)>,
    ) -> Result<Next, DbError> {
        self.listening.ear.set_deaf(true);
        let (end, state) = match self.state {
            WorkflowState::Undoing => {
                let fault = self.cx.fault.clone();
                let fault = fault.unwrap_or_else(|| Fault::internal("It failed."));
                (End::Failed(fault), WorkflowState::Failed)
            }
            _ => (End::Succeeded, WorkflowState::Succeeded),
        };
        let (action, position, step) = match end {
            End::Succeeded => {
                let count = self.workflow.steps().len();
                ("do", count.saturating_sub(1), count)
            }
            End::Failed(_) => ("undo", 0, 0),
        };
        let mut update = self.update();
        update
            .value(workflow::Column::State, state.as_str())
            .value(workflow::Column::Owner, "")
            .value(workflow::Column::WakeAt, NEVER)
            .value(workflow::Column::WaitingFor, "")
            .value(workflow::Column::Attempt, 0_i64)
            .value(workflow::Column::Step, to_i64(step))
            .value(
                workflow::Column::FinishedAt,
                now_expr(self.inner.db.backend()),
            );
        if end == End::Succeeded {
            update.and_where(workflow::Column::Cancel.eq(""));
        }
        let along = self.along.clone();
        if let Some((name, value)) = &last
            && action == "do"
        {
            // `on_finished` sees all results.
            self.cx_mut()
                .results
                .insert((*name).to_owned(), value.clone());
        }
        let (guard, workflow, cx, ended) = (
            self.cx.guard.clone(),
            Arc::clone(&self.workflow),
            Arc::clone(&self.cx),
            end.clone(),
        );
        let written = self
            .inner
            .db
            .write(move |txn| {
                let (update, guard) = (update.clone(), guard.clone());
                let (workflow, cx, end) = (Arc::clone(&workflow), Arc::clone(&cx), ended.clone());
                let along = along.clone();
                Box::pin(async move {
                    // First, because it holds the row: nothing is lost between
                    // what the workflow writes and the end of its row.
                    if txn.execute(&update).await?.rows_affected() != 1 {
                        return match (guard.check(txn).await?.cancel, &end) {
                            (Some(fault), End::Succeeded) => Ok(Some(fault)),
                            _ => Err(DbError::other("a workflow's row is not as expected")),
                        };
                    }
                    if let Some(along) = along {
                        along(txn).await?;
                    }
                    workflow.on_finished(txn, &cx, &end).await?;
                    Ok(None)
                })
            })
            .await;
        match written {
            Ok(Some(fault)) => {
                self.cancel = Some(fault);
                Ok(Next::GoOn)
            }
            Ok(None) => {
                let result = state.as_str();
                metrics::counter!("yakumo_workflows_ended_total", "kind" => self.kind.clone(), "end" => result)
                    .increment(1);
                Ok(Next::Leave)
            }
            Err(error) if is_overtaken(&error) => Err(error),
            Err(error @ (DbError::Unavailable | DbError::ReadOnly | DbError::Contended)) => {
                Err(error)
            }
            Err(error) => {
                warn!(workflow = %self.cx.workflow_id, kind = self.kind, %error, "a workflow's end was refused");
                // The last step need not run again because of that.
                if let Some((name, value)) = last {
                    if let Some(fault) = self.record(action, position, name, &value).await? {
                        self.cancel = Some(fault);
                        return Ok(Next::GoOn);
                    }
                    if action == "do" {
                        self.done(name, value);
                    } else {
                        self.step = 0;
                    }
                }
                let attempt = self.attempt.saturating_add(1);
                let note = format!("the end to be written down: {error}");
                self.put_off(self.backoff(attempt), note, attempt).await
            }
        }
    }
}

fn update(inner: &Inner, guard: &Guard) -> UpdateStatement {
    let mut update = Query::update();
    update
        .table(workflow::Entity)
        .value(workflow::Column::UpdatedAt, now_expr(inner.db.backend()))
        .cond_where(guard.condition());
    update
}

/// Steps that are done, with the number of recorded steps before and after
/// they are written down.
#[derive(Clone)]
pub(crate) struct Unrecorded {
    before: i64,
    after: i64,
    insert: InsertStatement,
}

impl Unrecorded {
    /// Writes them, unless a commit that was not answered has done so.
    async fn write(&self, txn: &DatabaseTransaction, held: &Held) -> Result<(), DbError> {
        if held.step == self.before {
            txn.execute(&self.insert).await?;
        }
        Ok(())
    }
}

/// Leaves a workflow to whoever looks after `wait`, or sooner if it was woken
/// since it was claimed, when it had been woken `wakes` times.
pub(crate) async fn leave(
    inner: &Inner,
    guard: &Guard,
    unrecorded: Option<Unrecorded>,
    wakes: i64,
    wait: Duration,
    note: String,
    attempt: u32,
) -> Result<(), DbError> {
    let micros = i64::try_from(wait.as_micros()).unwrap_or(NEVER / 4);
    let backend = inner.db.backend();
    let mut update = update(inner, guard);
    update
        .value(workflow::Column::Owner, "")
        .value(workflow::Column::Attempt, i64::from(attempt))
        .value(workflow::Column::WaitingFor, shortened(note));
    if let Some(rows) = &unrecorded {
        update.value(workflow::Column::Step, rows.after);
    }
    let guard = guard.clone();
    let woken = inner
        .db
        .write(move |txn| {
            let (mut update, guard) = (update.clone(), guard.clone());
            let unrecorded = unrecorded.clone();
            Box::pin(async move {
                let held = guard.check(txn).await?;
                if let Some(rows) = unrecorded {
                    rows.write(txn, &held).await?;
                }
                let woken = held.wakes != wakes;
                let wait = if woken { 0 } else { micros };
                update.value(workflow::Column::WakeAt, now_expr(backend).add(wait));
                must_touch(txn, &update).await?;
                Ok(woken)
            })
        })
        .await?;
    if woken || wait.is_zero() {
        inner.nudge.notify_one();
    } else {
        inner.wake_in(wait);
    }
    Ok(())
}

fn to_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn shortened(mut text: String) -> String {
    if text.len() > NOTE {
        let mut end = NOTE;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

async fn must_touch(txn: &DatabaseTransaction, update: &UpdateStatement) -> Result<(), DbError> {
    if txn.execute(update).await?.rows_affected() == 1 {
        Ok(())
    } else {
        Err(overtaken())
    }
}

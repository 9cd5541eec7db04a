//! What a step knows and may do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, LockType, Query};
use serde::de::DeserializeOwned;
use serde_json::Value;
use yakumo_db::{BoxFuture, DatabaseTransaction, Db, DbError};
use yakumo_types::{Env, Fault, RequestContext, WorkflowId};

use crate::workflow::StepError;

/// What a step knows and may do. Handed to every step of one workflow.
pub struct StepCx {
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// What it works on, as given to [`crate::Engine::submit`].
    pub resource: String,
    /// Which claim of this workflow this is; a later claim has a higher one.
    pub epoch: u64,
    /// What the workflow was submitted with.
    pub input: Value,
    /// What the steps before this one returned, by name. While undoing: what
    /// all steps returned that had been recorded.
    pub results: BTreeMap<String, Value>,
    /// How often this step was tried before and asked to be tried again.
    pub attempt: u32,
    /// Why everything is being undone; nothing while running.
    pub fault: Option<Fault>,
    /// The clock and chance.
    pub env: Env,
    /// Who asked for it.
    pub ctx: RequestContext,
    /// The service's database.
    pub db: Db,
    pub(crate) step: String,
    pub(crate) straight: bool,
    pub(crate) guard: Guard,
    pub(crate) ends_at: Duration,
    pub(crate) note: Mutex<String>,
    pub(crate) along: Mutex<Option<Along>>,
}

/// A change that is made with a step's record.
pub(crate) type Along = Arc<
    dyn for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<(), DbError>> + Send + Sync,
>;

impl StepCx {
    /// The input as a type.
    pub fn input_as<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        Ok(T::deserialize(&self.input)?)
    }

    /// What `step` returned, as a type. An error if it has not been done.
    pub fn result<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        match self.result_if_done(step)? {
            Some(value) => Ok(value),
            None => {
                tracing::error!(step, "a step needs the result of one that is not done");
                Err(StepError::Fail(Fault::internal(
                    "An unexpected error has occurred.",
                )))
            }
        }
    }

    /// What `step` returned, if it has been done; for undoing.
    pub fn result_if_done<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, StepError> {
        match self.results.get(step) {
            Some(value) => Ok(Some(T::deserialize(value)?)),
            None => Ok(None),
        }
    }

    /// The step that runs; `undo_<name>` while it is being undone.
    pub fn step(&self) -> &str {
        &self.step
    }

    /// Whether this is the step's first try, right after this worker did the
    /// step before it, and nothing woke the workflow here since it was claimed.
    /// What earlier steps wrote and nobody else may change need not be read
    /// then. Never so while undoing.
    pub fn comes_straight(&self) -> bool {
        self.straight
    }

    /// What every message that changes something must carry, so that the
    /// receiver can refuse an overtaken worker and answer a repetition with
    /// the first result.
    pub fn fence(&self) -> Fence {
        Fence {
            workflow_id: self.workflow_id,
            step: self.step.clone(),
            epoch: self.epoch,
        }
    }

    /// The fence for a step that changes more than one thing at one receiver.
    pub fn fence_for(&self, part: &str) -> Fence {
        Fence {
            step: format!("{}/{part}", self.step),
            ..self.fence()
        }
    }

    /// Says for people what the step is waiting for ("host node-1 to start
    /// the server"): shown while it is parked, and in the fault if the
    /// deadline passes.
    pub fn waiting_for(&self, what: impl Into<String>) {
        if let Ok(mut note) = self.note.lock() {
            *note = what.into();
        }
    }

    /// Time left until the deadline; zero while undoing.
    pub fn remaining(&self) -> Duration {
        self.ends_at.saturating_sub(self.env.clock.monotonic())
    }

    /// A transaction that commits only if this workflow still belongs to this
    /// worker; see [`Db::write`] for what `change` may do.
    ///
    /// # Errors
    /// Those of [`Db::write`], and a fault of code `Stale` if another worker
    /// has taken the workflow over: return it, the other one goes on.
    pub async fn write<T, F>(&self, change: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
            + Send
            + Sync
            + 'static,
    {
        let guard = self.guard.clone();
        let change = Arc::new(change);
        self.db
            .write(move |txn| {
                let guard = guard.clone();
                let change = Arc::clone(&change);
                Box::pin(async move {
                    guard.check(txn).await?;
                    change(txn).await
                })
            })
            .await
    }

    /// Makes `change` in the transaction that records this step as done, if it
    /// is, and not otherwise: for what need not be there before the record is.
    /// Like [`StepCx::write`], and without a commit of its own. If it fails the
    /// step is not recorded, and runs again.
    pub fn along<F>(&self, change: F)
    where
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<(), DbError>>
            + Send
            + Sync
            + 'static,
    {
        if let Ok(mut along) = self.along.lock() {
            *along = Some(Arc::new(change));
        }
    }

    /// A second one with the same content, for where the first is shared.
    pub(crate) fn copy(&self) -> Self {
        Self {
            workflow_id: self.workflow_id,
            resource: self.resource.clone(),
            epoch: self.epoch,
            input: self.input.clone(),
            results: self.results.clone(),
            attempt: self.attempt,
            fault: self.fault.clone(),
            env: self.env.clone(),
            ctx: self.ctx.clone(),
            db: self.db.clone(),
            step: self.step.clone(),
            straight: self.straight,
            guard: self.guard.clone(),
            ends_at: self.ends_at,
            note: Mutex::default(),
            along: Mutex::default(),
        }
    }

    pub(crate) fn take_along(&self) -> Option<Along> {
        self.along.lock().ok()?.take()
    }

    pub(crate) fn take_note(&self) -> String {
        self.note
            .lock()
            .map(|mut note| std::mem::take(&mut *note))
            .unwrap_or_default()
    }
}

impl fmt::Debug for StepCx {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StepCx")
            .field("workflow_id", &self.workflow_id)
            .field("resource", &self.resource)
            .field("step", &self.step)
            .field("epoch", &self.epoch)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Proof of which claim of which workflow, at which step, causes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The step, and the part of it.
    pub step: String,
    /// The claim.
    pub epoch: u64,
}

/// The condition under which this worker may write for this workflow.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub workflow_id: String,
    pub owner: Arc<str>,
    pub epoch: i64,
}

/// What a held row says that may have changed since it was claimed.
pub(crate) struct Held {
    pub step: i64,
    pub wakes: i64,
    pub cancel: Option<Fault>,
}

const OVERTAKEN: &str = "WorkflowOvertaken";

impl Guard {
    /// Holds the workflow's row until the transaction ends, so that nobody
    /// takes it over in between.
    pub(crate) async fn check(&self, txn: &DatabaseTransaction) -> Result<Held, DbError> {
        let mut select = Query::select();
        select
            .columns(["step", "wakes", "cancel"].map(Alias::new))
            .from(Alias::new("workflows"))
            .cond_where(self.condition())
            .lock(LockType::Update);
        let row = txn.query_one(&select).await?.ok_or_else(overtaken)?;
        let cancel: String = row.try_get("", "cancel")?;
        Ok(Held {
            step: row.try_get("", "step")?,
            wakes: row.try_get("", "wakes")?,
            cancel: read_fault(&cancel),
        })
    }

    pub(crate) fn condition(&self) -> sea_orm::Condition {
        sea_orm::Condition::all()
            .add(Expr::col(Alias::new("id")).eq(self.workflow_id.as_str()))
            .add(Expr::col(Alias::new("owner")).eq(&*self.owner))
            .add(Expr::col(Alias::new("epoch")).eq(self.epoch))
    }
}

/// A fault as it was written down; nothing where there is none. One that cannot
/// be read is one all the same.
pub(crate) fn read_fault(text: &str) -> Option<Fault> {
    if text.is_empty() {
        return None;
    }
    Some(serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(%error, "the fault of a workflow cannot be read");
        Fault::internal("It failed, and the reason cannot be read.")
    }))
}

pub(crate) fn overtaken() -> DbError {
    DbError::Fault(
        Fault::stale("Another worker has taken this workflow over.").with_type(OVERTAKEN),
    )
}

pub(crate) fn is_overtaken(error: &DbError) -> bool {
    matches!(error, DbError::Fault(fault) if fault.type_name() == Some(OVERTAKEN))
}

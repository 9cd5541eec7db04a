//! What a workflow is to the engine.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, FaultCode};

use crate::cx::StepCx;

/// A kind of workflow: named steps, each with a way back.
#[async_trait]
pub trait Workflow: Send + Sync + 'static {
    /// The kind's name, unique in the service. Stored: a kind whose steps
    /// change in a way that running ones could not follow gets a new name.
    fn kind(&self) -> &'static str;

    /// The steps in order; imperative (`allocate_ports`).
    fn steps(&self) -> &'static [&'static str];

    /// Does `step`. May run again after it has happened, also after half of it.
    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError>;

    /// Whether `step`, once it is done, may be recorded together with the next
    /// one: a write less, and after a death between the two it is done again
    /// although it was done. No effect on the last step.
    fn is_lazy(&self, step: &str) -> bool {
        let _ = step;
        false
    }

    /// Takes `step` back. May run again, and for a step that never happened,
    /// because undoing starts with the step that failed. Tried until it works.
    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError>;

    /// Writes down the end, in the same transaction as the workflow's own
    /// last row. An error is tried again.
    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        let _ = (txn, cx, end);
        Ok(())
    }
}

/// How a step ended that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done; later steps find the value in [`StepCx::results`].
    Done(Value),
    /// Not yet: look again after `wake_in`, or sooner after
    /// [`crate::Engine::wake`]. Say with [`StepCx::waiting_for`] what for.
    Park {
        /// How long to wait at most.
        wake_in: Duration,
    },
}

impl Outcome {
    /// Done, with nothing to tell.
    pub const fn done() -> Self {
        Self::Done(Value::Null)
    }

    /// Done, with a result for later steps.
    pub fn with(value: &impl Serialize) -> Result<Self, StepError> {
        Ok(Self::Done(serde_json::to_value(value)?))
    }

    /// Look again later.
    pub const fn park(wake_in: Duration) -> Self {
        Self::Park { wake_in }
    }
}

/// How a step failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepError {
    /// It may work later: try again, with growing pauses, until the
    /// workflow's deadline.
    #[error("{0} (will be tried again)")]
    Retry(Fault),
    /// It will not work: undo everything. The fault is what the client sees.
    #[error("{0}")]
    Fail(Fault),
}

impl StepError {
    /// The fault, whatever is to be done about it.
    pub const fn fault(&self) -> &Fault {
        match self {
            Self::Retry(fault) | Self::Fail(fault) => fault,
        }
    }
}

/// Transient faults are tried again, others are final. A stale fence is tried
/// again, too: another workflow of the same resource was claimed later and spoke
/// last, and the next claim of this one is newer again. A worker that was really
/// overtaken cannot try again.
impl From<Fault> for StepError {
    fn from(fault: Fault) -> Self {
        if fault.code.is_transient() || fault.code == FaultCode::Stale {
            Self::Retry(fault)
        } else {
            Self::Fail(fault)
        }
    }
}

/// Like the fault that it becomes; a lost compare-and-swap is tried again.
impl From<DbError> for StepError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Stale => Self::Retry(Fault::from(error)),
            error => Fault::from(error).into(),
        }
    }
}

/// A stored value that cannot be read will not become readable.
impl From<serde_json::Error> for StepError {
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "a workflow's stored value cannot be read");
        Self::Fail(Fault::internal("An unexpected error has occurred."))
    }
}

/// How a workflow ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All steps are done.
    Succeeded,
    /// Everything is undone, because of this.
    Failed(Fault),
}

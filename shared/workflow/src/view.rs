//! Looking at workflows, for people and for tests.

use serde::{Deserialize, Serialize};
use yakumo_db::DbError;
use yakumo_types::{Fault, Timestamp, WorkflowId};

use crate::cx::read_fault;
use crate::entity::workflow;
use crate::workflow::End;

/// Where a workflow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowState {
    /// Steps are being done.
    Running,
    /// A step failed; what was done is being taken back.
    Undoing,
    /// Everything is done.
    Succeeded,
    /// Everything is taken back.
    Failed,
}

impl WorkflowState {
    /// The states that a workflow does not leave.
    pub const ENDED: [Self; 2] = [Self::Succeeded, Self::Failed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, DbError> {
        [Self::Running, Self::Undoing, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| DbError::other(format!("unknown workflow state {text:?}")))
    }
}

/// A workflow as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowView {
    /// Its id.
    pub id: WorkflowId,
    /// Which workflow.
    pub kind: String,
    /// What it works on.
    pub resource: String,
    /// Where it stands.
    pub state: WorkflowState,
    /// Running: how many steps are done. Undoing: how many are left to undo.
    pub step: usize,
    /// How often the current step was tried and put off.
    pub attempt: u32,
    /// What the current step waits for; empty if it does not.
    pub waiting_for: String,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// By the database's clock.
    pub created_at: Timestamp,
    /// By the database's clock.
    pub deadline_at: Timestamp,
    /// By the database's clock; nothing while it runs.
    pub finished_at: Option<Timestamp>,
}

impl WorkflowView {
    /// How it ended, if it has.
    pub fn end(&self) -> Option<End> {
        match self.state {
            WorkflowState::Succeeded => Some(End::Succeeded),
            WorkflowState::Failed => Some(End::Failed(self.fault.clone().unwrap_or_else(|| {
                Fault::internal("The workflow failed and the reason is not known.")
            }))),
            _ => None,
        }
    }
}

impl TryFrom<workflow::Model> for WorkflowView {
    type Error = DbError;

    fn try_from(row: workflow::Model) -> Result<Self, DbError> {
        Ok(Self {
            id: row.id.parse().map_err(DbError::other)?,
            state: WorkflowState::parse(&row.state)?,
            kind: row.kind,
            resource: row.resource,
            step: usize::try_from(row.step).unwrap_or_default(),
            attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX),
            waiting_for: row.waiting_for,
            fault: read_fault(&row.fault),
            created_at: Timestamp::from_micros(row.created_at),
            deadline_at: Timestamp::from_micros(row.deadline_at),
            finished_at: (row.finished_at != 0).then(|| Timestamp::from_micros(row.finished_at)),
        })
    }
}

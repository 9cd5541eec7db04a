//! Finds servers that have said for too long that something is being done to
//! them.
//!
//! Either nothing is: no path is known that leads there, but if one exists, its
//! servers must not hang for ever, and somebody must hear of it. Or what was done
//! has failed and cannot be taken back, which is tried without end: whoever asked
//! for it is told why it failed when its bound is over, and no later.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_service::Reconciler;
use yakumo_types::server_state::{ServerState, VmState};
use yakumo_types::{Fault, ServerId, Timestamp, WorkflowId};
use yakumo_workflow::WorkflowState;

use crate::app::App;
use crate::app::reports::fault_document;
use crate::store::servers::{self as store, Expected, Server, ServerChange, state_of};
use crate::workflows::GRACE;

const PORTION: u64 = 200;

/// What is at work on a busy server.
enum Work {
    Nothing,
    /// It may end by itself.
    Goes,
    /// It failed because of this, its bound is over, and it is not taken back yet.
    Failed(WorkflowId, Fault),
}

pub(crate) struct Stuck {
    app: Arc<App>,
}

impl Stuck {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn work(&self, row: &Server, late: Timestamp) -> anyhow::Result<Work> {
        let Some(id) = &row.workflow_id else {
            return Ok(Work::Nothing);
        };
        let id: WorkflowId = id.parse()?;
        let view = self.app.engine.find(id).await?;
        Ok(match view {
            Some(view) if view.finished_at.is_none() => match view.fault {
                Some(fault) if view.state == WorkflowState::Undoing && view.deadline_at < late => {
                    Work::Failed(id, fault)
                }
                _ => Work::Goes,
            },
            _ => Work::Nothing,
        })
    }

    async fn free(&self, row: &Server) -> anyhow::Result<()> {
        tracing::error!(server = row.id, state = ?state_of(row), "nothing is at work on a busy server");
        metrics::counter!("yakumo_stuck_servers_total").increment(1);
        let fault = Fault::internal("What was being done to the server was lost.");
        let expected = Expected::state(state_of(row));
        let change = ServerChange::at(self.app.env.now()).workflow(None);
        self.end(row, &fault, expected, change).await
    }

    /// Tells why; the workflow stays the server's until everything is taken back.
    async fn tell(&self, row: &Server, workflow: WorkflowId, fault: &Fault) -> anyhow::Result<()> {
        tracing::error!(server = row.id, state = ?state_of(row), %fault, "what failed cannot be taken back yet");
        metrics::counter!("yakumo_stuck_undo_servers_total").increment(1);
        let expected = Expected::state(state_of(row)).workflow(workflow);
        let change = ServerChange::at(self.app.env.now());
        self.end(row, fault, expected, change).await
    }

    async fn end(
        &self,
        row: &Server,
        fault: &Fault,
        expected: Expected,
        change: ServerChange,
    ) -> anyhow::Result<()> {
        let id: ServerId = row.id.parse()?;
        let change = change
            .state(ServerState::resting(VmState::Error))
            .fault(Some(fault_document(fault, self.app.env.now())));
        let freed = self
            .app
            .db
            .write(move |txn| {
                let (expected, change) = (expected.clone(), change.clone());
                Box::pin(async move { store::server_change(txn, id, &expected, change).await })
            })
            .await;
        match freed {
            // It moved after all.
            Ok(()) | Err(yakumo_db::DbError::Stale) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Reconciler for Stuck {
    fn name(&self) -> &'static str {
        "stuck_servers"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let before = self.app.env.now().minus(GRACE);
        let rows = store::servers_busy_since(self.app.db.read(), before, PORTION).await?;
        for row in rows {
            match self.work(&row, before).await? {
                Work::Goes => {}
                Work::Nothing => self.free(&row).await?,
                Work::Failed(workflow, fault) => self.tell(&row, workflow, &fault).await?,
            }
        }
        Ok(())
    }
}

//! Finds servers that say that something is being done to them while nothing
//! is. No path is known that leads there; if one exists, its servers must not
//! hang for ever, and somebody must hear of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use yakumo_service::Reconciler;
use yakumo_types::server_state::{ServerState, VmState};
use yakumo_types::{Fault, ServerId, WorkflowId};

use crate::app::App;
use crate::app::reports::fault_document;
use crate::store::servers::{self as store, Expected, Server, ServerChange, state_of};

/// Younger changes may still be on their way.
const AGE: Duration = Duration::from_secs(120);
const PORTION: u64 = 200;

pub(crate) struct Stuck {
    app: Arc<App>,
}

impl Stuck {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn is_at_work(&self, row: &Server) -> anyhow::Result<bool> {
        let Some(id) = &row.workflow_id else {
            return Ok(false);
        };
        let id: WorkflowId = id.parse()?;
        let view = self.app.engine.find(id).await?;
        Ok(view.is_some_and(|view| view.finished_at.is_none()))
    }

    async fn free(&self, row: &Server) -> anyhow::Result<()> {
        let id: ServerId = row.id.parse()?;
        let now = self.app.env.now();
        let before = state_of(row);
        tracing::error!(server = row.id, state = ?before, "nothing is at work on a busy server");
        metrics::counter!("yakumo_stuck_servers_total").increment(1);
        let fault = Fault::internal("What was being done to the server was lost.");
        let document = fault_document(&fault, now);
        let freed = self
            .app
            .db
            .write(move |txn| {
                let change = ServerChange::at(now)
                    .state(ServerState::resting(VmState::Error))
                    .workflow(None)
                    .fault(Some(document.clone()));
                Box::pin(async move {
                    store::server_change(txn, id, &Expected::state(before), change).await
                })
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
        let before = self.app.env.now().minus(AGE);
        let rows = store::servers_busy_since(self.app.db.read(), before, PORTION).await?;
        for row in rows {
            if !self.is_at_work(&row).await? {
                self.free(&row).await?;
            }
        }
        Ok(())
    }
}

//! Removing a volume: its file first, its row last. A storage host that is down
//! does not hold the row, and the quota that it takes: when the host is back, a
//! reconciler finds the file and no volume to it.

use std::sync::Arc;

use serde_json::Value;
use yakumo_contracts::volume_host::VolumeRequest;
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::{DELETE_VOLUME, fence, is_down, subject};
use crate::app::{App, EXPORT_OWED, is_away};
use crate::store::{self, Walls};

/// See the module.
pub struct DeleteVolume {
    /// The rules.
    pub app: Arc<App>,
}

#[async_trait::async_trait]
impl Workflow for DeleteVolume {
    fn kind(&self) -> &'static str {
        DELETE_VOLUME
    }

    fn steps(&self) -> &'static [&'static str] {
        &["delete_file"]
    }

    async fn run(&self, _step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let id = subject(cx)?;
        let row = store::volumes::find(self.app.db.read(), Walls::All, id).await?;
        if let Some(row) = row.filter(|row| !row.host.is_empty()) {
            let request = VolumeRequest {
                volume_id: row.id,
                fence: Some(fence(cx)),
            };
            match self.app.storage(&row.host)?.delete(&cx.ctx, request).await {
                Ok(_) => {}
                Err(fault) if is_away(&fault) && is_down(&self.app, &row.host).await? => {
                    tracing::warn!(volume = %id, host = row.host, "the storage host is down: the volume goes without it");
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(Outcome::Done(Value::Null))
    }

    async fn undo(&self, _step: &str, _cx: &StepCx) -> Result<Outcome, StepError> {
        // What is deleted stays deleted; the row says `error_deleting` and the
        // deletion can be asked for again.
        Ok(Outcome::Done(Value::Null))
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        let Ok(id) = subject(cx) else { return Ok(()) };
        let now = self.app.env.now();
        match end {
            End::Succeeded => store::volumes::mark_deleted(txn, id, now).await,
            // It is what it was before: exported, and to be available after that.
            End::Failed(_) if store::attachments::is_releasing(txn, id).await? => {
                store::volumes::fail(txn, id, "error", EXPORT_OWED, now).await
            }
            End::Failed(fault) => {
                store::volumes::fail(txn, id, "error_deleting", &fault.message, now).await
            }
        }
    }
}

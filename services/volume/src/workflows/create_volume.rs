//! Making a volume: choose a storage host, then make the file there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use yakumo_contracts::volume_host::{CreateRequest, VolumeRequest};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, VolumeId};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::{CREATE_VOLUME, fence, subject};
use crate::app::{App, was_heard_lately};
use crate::store::{self, Walls};

/// How long a volume waits while no storage host at all is heard: a service
/// that was just started, or was away, hears of all of them within seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct CreateVolume {
    /// The rules.
    pub app: Arc<App>,
}

impl CreateVolume {
    async fn row(&self, id: VolumeId) -> Result<store::volume::Model, StepError> {
        store::volumes::find(self.app.db.read(), Walls::All, id)
            .await?
            .ok_or_else(|| StepError::Fail(Fault::not_found("The volume is gone.")))
    }

    async fn choose_host(&self, cx: &StepCx, id: VolumeId) -> Result<Outcome, StepError> {
        let row = self.row(id).await?;
        if !row.host.is_empty() {
            return Ok(Outcome::Done(json!({ "host": row.host })));
        }
        let size = row.size;
        let now = self.app.env.now();
        let hosts = store::storage_hosts::list(self.app.db.read()).await?;
        let known = hosts.len();
        let fresh: Vec<_> = hosts
            .into_iter()
            .filter(|host| was_heard_lately(host.heard_at, now))
            .collect();
        let heard = fresh.len();
        let young = row.created_at >= now.minus(SILENCE).as_micros();
        if heard == 0 && young {
            return Err(StepError::Retry(Fault::no_valid_host(
                "No storage host was heard yet.",
            )));
        }
        let Some(chosen) = fresh.into_iter().find(|host| host.free_gib > 0) else {
            return Err(StepError::Fail(Fault::no_valid_host(format!(
                "No storage host can take a volume of {size} GiB: {known} known, {heard} heard in the last minute, none of them with room."
            ))));
        };
        let host = chosen.host.clone();
        cx.write(move |txn| {
            let host = host.clone();
            Box::pin(async move { store::volumes::set_host(txn, id, &host).await })
        })
        .await?;
        Ok(Outcome::Done(json!({ "host": chosen.host })))
    }
}

#[async_trait::async_trait]
impl Workflow for CreateVolume {
    fn kind(&self) -> &'static str {
        CREATE_VOLUME
    }

    fn steps(&self) -> &'static [&'static str] {
        &["choose_host", "create_file"]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let id = subject(cx)?;
        if step == "choose_host" {
            return self.choose_host(cx, id).await;
        }
        let row = self.row(id).await?;
        let request = CreateRequest {
            volume_id: row.id,
            size_gib: u64::try_from(row.size).unwrap_or(0),
            fence: Some(fence(cx)),
        };
        self.app
            .storage(&row.host)?
            .create(&cx.ctx, request)
            .await?;
        Ok(Outcome::Done(Value::Null))
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let id = subject(cx)?;
        if step == "create_file" {
            let row = self.row(id).await?;
            if !row.host.is_empty() {
                let request = VolumeRequest {
                    volume_id: row.id,
                    fence: Some(fence(cx)),
                };
                let client = self.app.storage(&row.host)?;
                if let Err(fault) = client.delete(&cx.ctx, request).await {
                    // Whoever asked is not kept waiting for the host to come round.
                    // The row keeps its name: what may be there is removed with the
                    // volume.
                    tracing::warn!(volume = %id, host = row.host, %fault, "a volume's file is left");
                }
            }
        }
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
            End::Succeeded => {
                match store::volumes::transition(txn, id, &["creating"], "available", now).await {
                    // Reset by an administrator in the meantime; that word holds.
                    Err(DbError::Stale) | Ok(()) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            End::Failed(fault) => store::volumes::fail(txn, id, "error", &fault.message, now).await,
        }
    }
}

//! Finds volumes that have said for too long that something is being done to
//! them.
//!
//! Either nothing is: no path is known that leads there; if one exists, its
//! volumes must not hang for ever and keep their quota, and somebody must hear of
//! it. Or they were detached, and the storage host does not end the export.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use yakumo_db::DbError;
use yakumo_service::Reconciler;
use yakumo_types::VolumeId;

use crate::app::{App, EXPORT_OWED, HELD};
use crate::store;
use crate::store::attachments::RELEASING;
use crate::store::volume::Model;

/// Younger changes may still be on their way.
const AGE: Duration = Duration::from_secs(120);
const PORTION: u64 = 200;

pub(super) struct Stuck {
    app: Arc<App>,
}

impl Stuck {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// Volumes that are made or removed, by a workflow or by nobody.
    async fn without_workflow(&self, row: &Model) -> anyhow::Result<bool> {
        let workflows = self.app.engine.of_resource(&row.id).await?;
        Ok(workflows.iter().all(|view| view.finished_at.is_some()))
    }

    async fn fail(&self, row: &Model) -> anyhow::Result<()> {
        let id: VolumeId = row.id.parse()?;
        let (from, to) = match row.status.as_str() {
            "deleting" => ("deleting", "error_deleting"),
            _ => ("creating", "error"),
        };
        tracing::error!(
            volume = row.id,
            status = row.status,
            "nothing is at work on a busy volume"
        );
        metrics::counter!("yakumo_stuck_volumes_total").increment(1);
        let now = self.app.env.now();
        let failed = self.app.db.write(move |txn| {
            Box::pin(async move {
                store::volumes::transition(txn, id, &[from], to, now).await?;
                let why = "What was being done to the volume was lost.";
                store::volumes::fail(txn, id, to, why, now).await
            })
        });
        moved(failed.await)
    }

    /// Tells that the export of a volume that was detached has not ended. That
    /// goes on being tried, and makes the volume available.
    async fn tell(&self, row: &Model) -> anyhow::Result<()> {
        tracing::error!(
            volume = row.id,
            host = row.host,
            "the storage host does not end an export"
        );
        metrics::counter!("yakumo_stuck_releases_total").increment(1);
        let id: VolumeId = row.id.parse()?;
        let now = self.app.env.now();
        let told = self.app.db.write(move |txn| {
            Box::pin(async move {
                if !store::attachments::is_releasing(txn, id).await? {
                    return Ok(());
                }
                store::volumes::transition(txn, id, &["detaching"], "error", now).await?;
                store::volumes::fail(txn, id, "error", EXPORT_OWED, now).await
            })
        });
        moved(told.await)
    }

    /// A volume that is held, and by no attachment.
    async fn free(&self, row: &Model) -> anyhow::Result<()> {
        let id: VolumeId = row.id.parse()?;
        tracing::error!(
            volume = row.id,
            status = row.status,
            "nobody holds a volume that is held"
        );
        metrics::counter!("yakumo_stuck_volumes_total").increment(1);
        let now = self.app.env.now();
        let freed = self.app.db.write(move |txn| {
            Box::pin(async move {
                let of = [id.to_string()];
                if !store::attachments::of_volumes(txn, &of).await?.is_empty() {
                    return Ok(());
                }
                store::volumes::transition(txn, id, HELD, "available", now).await
            })
        });
        moved(freed.await)
    }
}

/// It may have moved after all.
fn moved(outcome: Result<(), DbError>) -> anyhow::Result<()> {
    match outcome {
        Ok(()) | Err(DbError::Stale) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Reconciler for Stuck {
    fn name(&self) -> &'static str {
        "stuck_volumes"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let before = self.app.env.now().minus(AGE);
        let read = self.app.db.read();
        let busy = ["creating", "deleting"];
        for row in store::volumes::unchanged_since(read, &busy, before, "", PORTION).await? {
            if self.without_workflow(&row).await? {
                self.fail(&row).await?;
            }
        }
        // Most of what is held is in use, so that all of it is gone through.
        let mut after = String::new();
        loop {
            let rows = store::volumes::unchanged_since(read, HELD, before, &after, PORTION).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after.clone_from(&last.id);
            let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
            let held: HashMap<String, String> = store::attachments::of_volumes(read, &ids)
                .await?
                .into_iter()
                .map(|row| (row.volume_id, row.status))
                .collect();
            for row in &rows {
                match held.get(&row.id) {
                    None => self.free(row).await?,
                    Some(status) if status == RELEASING && row.status == "detaching" => {
                        self.tell(row).await?;
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

//! Data that is to go.
//!
//! Data that was an object's is named by a row of its own; the data goes first
//! and then the row, so a crash in between only means that nothing is removed
//! a second time. Data that never became an object's lies among the incoming
//! blobs: what the index does not name, no upload of this process is working
//! on, and nobody wrote to for a while, belonged to an upload that died.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use yakumo_service::Reconciler;

use crate::app::{ObjectStore, blocking};
use crate::drivers::BlobId;
use crate::store::{garbage, objects};

const BATCH: u64 = 500;
/// Incoming blobs looked at in one pass.
const INCOMING: usize = 500;

/// Removes data that no object has.
pub struct RemoveGarbage(pub ObjectStore);

#[async_trait]
impl Reconciler for RemoveGarbage {
    fn name(&self) -> &'static str {
        "remove_object_garbage"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        self.empty().await?;
        self.sort_incoming().await
    }
}

impl RemoveGarbage {
    async fn empty(&self) -> anyhow::Result<()> {
        loop {
            let blobs = garbage::list(&self.0.db, BATCH).await?;
            if blobs.is_empty() {
                return Ok(());
            }
            let (backend, doomed) = (Arc::clone(&self.0.backend), blobs.clone());
            blocking(move || doomed.iter().try_for_each(|blob| backend.remove(*blob))).await??;
            garbage::forget(&self.0.db, &blobs).await?;
        }
    }

    async fn sort_incoming(&self) -> anyhow::Result<()> {
        let backend = Arc::clone(&self.0.backend);
        let incoming = blocking(move || backend.incoming(INCOMING)).await??;
        let idle: Vec<(BlobId, Duration)> = incoming
            .into_iter()
            .filter(|(blob, _)| !self.0.active.contains(blob))
            .collect();
        if idle.is_empty() {
            return Ok(());
        }
        let ids: Vec<BlobId> = idle.iter().map(|(blob, _)| *blob).collect();
        let known: HashSet<BlobId> = objects::known_blobs(&self.0.db, &ids)
            .await?
            .into_iter()
            .collect();
        let bound = Duration::from_secs(self.0.config.orphan_seconds);
        let backend = Arc::clone(&self.0.backend);
        blocking(move || {
            for (blob, age) in idle {
                if known.contains(&blob) {
                    backend.settle(blob)?;
                } else if age >= bound {
                    tracing::info!(%blob, "removing what a dead upload left");
                    backend.remove(blob)?;
                }
            }
            Ok::<(), std::io::Error>(())
        })
        .await??;
        Ok(())
    }
}

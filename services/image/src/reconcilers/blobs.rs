//! Data that no image has is litter: of deleted images, failed uploads and
//! dead uploaders. A row names its blob before the first byte is written, so
//! what no row names is never going to be needed.

use std::sync::Arc;

use async_trait::async_trait;
use std::collections::HashSet;
use yakumo_db::Db;
use yakumo_service::Reconciler;

use crate::app::blocking;
use crate::drivers::{BlobId, ImageStore};
use crate::store::uploads;

/// Blobs that are compared at a time.
const BATCH: usize = 500;

/// Removes data that no image has.
pub struct RemoveLitter {
    /// The service's database.
    pub db: Db,
    /// The data.
    pub data: Arc<dyn ImageStore>,
}

#[async_trait]
impl Reconciler for RemoveLitter {
    fn name(&self) -> &'static str {
        "remove_image_litter"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let mut after: Option<BlobId> = None;
        loop {
            let data = Arc::clone(&self.data);
            // Listed before the rows are read: a blob that appears in between
            // has its row already.
            let blobs = blocking(move || data.list(after, BATCH)).await??;
            let Some(last) = blobs.last().copied() else {
                return Ok(());
            };
            let known: HashSet<BlobId> = uploads::known_blobs(&self.db, &blobs)
                .await?
                .into_iter()
                .collect();
            let litter: Vec<BlobId> = blobs
                .into_iter()
                .filter(|blob| !known.contains(blob))
                .collect();
            if !litter.is_empty() {
                let data = Arc::clone(&self.data);
                blocking(move || litter.iter().try_for_each(|blob| data.remove(*blob))).await??;
            }
            after = Some(last);
        }
    }
}

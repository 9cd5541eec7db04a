//! Ends the exports of attachments that were released while their storage host
//! could not be asked.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use yakumo_service::Reconciler;

use crate::app::App;
use crate::store;

const PORTION: u64 = 500;
/// Storage hosts are asked side by side: one that is slow holds up no other.
const AT_A_TIME: usize = 16;

pub(super) struct Releases {
    app: Arc<App>,
}

impl Releases {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Reconciler for Releases {
    fn name(&self) -> &'static str {
        "volume_releases"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let rows = store::attachments::releasing(self.app.db.read(), PORTION).await?;
        futures::stream::iter(rows)
            .for_each_concurrent(AT_A_TIME, |row| async move {
                let id = row.id.clone();
                match self.app.finish_release(row).await {
                    Ok(true) => tracing::info!(attachment = id, "an export was ended late"),
                    // Later, then.
                    Ok(false) => {}
                    Err(fault) => {
                        tracing::error!(attachment = id, %fault, "an export could not be ended");
                    }
                }
            })
            .await;
        Ok(())
    }
}

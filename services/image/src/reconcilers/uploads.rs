//! An uploader that gives no sign of life for its lease is dead: the image
//! waits for data again. If it lives after all, it finds that the image is not
//! its own any more, and stops.

use std::time::Duration;

use async_trait::async_trait;
use yakumo_db::Db;
use yakumo_service::{Nudge, Reconciler};
use yakumo_types::Env;

use crate::store::uploads;

/// Gives images back whose uploader died.
pub struct GiveBackAbandoned {
    /// The service's database.
    pub db: Db,
    /// The clock.
    pub env: Env,
    /// How long an uploader may be silent.
    pub lease: Duration,
    /// Removes the data that it leaves.
    pub sweep: Nudge,
}

#[async_trait]
impl Reconciler for GiveBackAbandoned {
    fn name(&self) -> &'static str {
        "give_back_abandoned_uploads"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let now = self.env.now();
        let abandoned = uploads::abandoned(&self.db, now.minus(self.lease)).await?;
        let some = !abandoned.is_empty();
        for (image, blob) in abandoned {
            if uploads::give_back(&self.db, image, blob, now).await? {
                tracing::info!(%image, "the uploader died; the image is queued again");
            }
        }
        if some {
            self.sweep.nudge();
        }
        Ok(())
    }
}

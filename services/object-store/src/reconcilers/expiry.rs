//! Objects with a time to live. From that time on they are not given out; here
//! their rows and bytes go.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_db::DbError;
use yakumo_service::Reconciler;
use yakumo_types::Fault;

use crate::app::ObjectStore;
use crate::store::objects::{self, Object};

const BATCH: u64 = 200;

/// Removes objects whose time is over.
pub struct RemoveExpired(pub ObjectStore);

#[async_trait]
impl Reconciler for RemoveExpired {
    fn name(&self) -> &'static str {
        "remove_expired_objects"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        loop {
            let time = self.0.process.env.now();
            let now = time.as_secs();
            let expired = objects::expired(&self.0.db, now, BATCH).await?;
            if expired.is_empty() {
                return Ok(());
            }
            for (container, name) in expired {
                // It may have been given another time, or replaced, since.
                let check = Arc::new(move |there: Option<&Object>| {
                    match there.and_then(|object| object.delete_at) {
                        Some(end) if end <= now => Ok(()),
                        _ => Err(Fault::stale("The object has another time now.")),
                    }
                });
                match objects::delete(&self.0.db, &container, &name, time, check).await {
                    Ok(()) | Err(DbError::NotFound | DbError::Fault(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.0.sweep.nudge();
        }
    }
}

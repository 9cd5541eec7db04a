//! What runs by itself.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_db::{Db, DbError, idempotency};
use yakumo_service::Reconciler;
use yakumo_types::Env;

use crate::app::KeyRing;
use crate::config::Config;
use crate::store::revocations;

/// Makes signing keys in time, learns of those that other replicas made, and
/// forgets old ones.
pub(crate) struct RotateKeys {
    pub(crate) db: Db,
    pub(crate) env: Env,
    pub(crate) keys: KeyRing,
    pub(crate) config: Arc<Config>,
}

#[async_trait]
impl Reconciler for RotateKeys {
    fn name(&self) -> &'static str {
        "rotate_keys"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        self.keys.rotate(&self.db, &self.env, &self.config).await?;
        Ok(())
    }
}

/// Forgets revocations of tokens that have run out anyway, and the idempotency
/// keys of more than a day ago.
pub(crate) struct ForgetOld {
    pub(crate) db: Db,
    pub(crate) env: Env,
}

#[async_trait]
impl Reconciler for ForgetOld {
    fn name(&self) -> &'static str {
        "forget_old"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let now = self.env.now();
        let gone: Result<u64, DbError> = self
            .db
            .write(move |txn| Box::pin(async move { revocations::delete_expired(txn, now).await }))
            .await;
        let gone = gone?;
        if gone > 0 {
            tracing::info!(gone, "forgot old revocations");
        }
        idempotency::forget(&self.db, now).await?;
        Ok(())
    }
}

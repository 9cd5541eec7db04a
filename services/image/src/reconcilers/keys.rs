//! Idempotency keys are promised for a day.

use async_trait::async_trait;
use yakumo_db::{Db, idempotency};
use yakumo_service::Reconciler;
use yakumo_types::Env;

/// Forgets the keys of more than a day ago.
pub struct ForgetKeys {
    /// The service's database.
    pub db: Db,
    /// The clock.
    pub env: Env,
}

#[async_trait]
impl Reconciler for ForgetKeys {
    fn name(&self) -> &'static str {
        "forget_keys"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        idempotency::forget(&self.db, self.env.now()).await?;
        Ok(())
    }
}

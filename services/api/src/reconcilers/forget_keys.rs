//! Forgets the idempotency keys of more than a day ago.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_db::idempotency;
use yakumo_service::Reconciler;

use crate::app::App;

pub(super) struct ForgetKeys {
    app: Arc<App>,
}

impl ForgetKeys {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Reconciler for ForgetKeys {
    fn name(&self) -> &'static str {
        "forget_keys"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        idempotency::forget(&self.app.db, self.app.env.now()).await?;
        Ok(())
    }
}

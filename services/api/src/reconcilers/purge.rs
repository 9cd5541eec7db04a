//! Forgets servers that have been deleted for long.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_service::Reconciler;

use crate::app::App;

pub(super) struct Purge {
    app: Arc<App>,
}

impl Purge {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Reconciler for Purge {
    fn name(&self) -> &'static str {
        "purge_servers"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        // In portions, so that no transaction grows without bound.
        while self.app.servers_purge().await? > 0 {}
        Ok(())
    }
}

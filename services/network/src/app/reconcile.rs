//! What runs by itself in the network service.

use std::time::Duration;

use async_trait::async_trait;
use yakumo_db::idempotency;
use yakumo_service::Reconciler;

use super::App;
use super::notifier::nudge;
use crate::store;

/// After this time a server without ports is forgotten, with its fence.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The changes of a host that are kept although it does not come for them.
const MAX_CHANGES: i64 = 1024;

/// Nudges hosts that are alive and do not have what they should have: their
/// nudge was lost. Forgets what is kept for servers that are long gone and for
/// hosts that do not come for it, and keys of requests of more than a day ago.
pub struct Laggards {
    /// The rules.
    pub app: App,
}

#[async_trait]
impl Reconciler for Laggards {
    fn name(&self) -> &'static str {
        "network_laggards"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let app = &self.app;
        let bound = Duration::from_secs(app.config.host_down_seconds);
        let heard_since = app.env.now().minus(bound).as_micros();
        for host in store::hosts::behind(app.db.read(), heard_since).await? {
            nudge(&app.bus, &app.env, &host.name).await;
        }
        let overdue = store::hosts::overdue(app.db.read(), MAX_CHANGES).await?;
        if !overdue.is_empty() {
            app.db
                .write(move |txn| {
                    let overdue = overdue.clone();
                    Box::pin(async move { store::hosts::forget_changes(txn, &overdue).await })
                })
                .await?;
        }
        let before = app.env.now().minus(FORGET_AFTER).as_micros();
        app.db
            .write(move |txn| Box::pin(store::servers::forget(txn, before)))
            .await?;
        idempotency::forget(&app.db, app.env.now()).await?;
        Ok(())
    }
}

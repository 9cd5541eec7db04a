//! The rules of the image service: who may do what, and what must hold.
//! Knows neither HTTP nor SQL.

pub mod document;
mod download;
mod images;
pub mod inspect;
mod members;
pub mod model;
mod pace;
pub mod query;
mod tickets;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use yakumo_db::Db;
use yakumo_db::idempotency::Once;
use yakumo_service::{Nudge, Process};
use yakumo_types::{Fault, IdempotencyKey, RequestContext, Role};

use crate::config::Config;
use crate::drivers::ImageStore;
use crate::store::Viewer;

pub use download::ByteRange;
pub use tickets::TicketKey;
pub use upload::BodyCut;

/// The image service; a cheap handle.
#[derive(Clone)]
pub struct Images {
    pub(crate) process: Process,
    pub(crate) db: Db,
    pub(crate) data: Arc<dyn ImageStore>,
    pub(crate) config: Arc<Config>,
    pub(crate) tickets: Arc<TicketKey>,
    /// Removes litter; nudged where some was made.
    pub(crate) sweep: Nudge,
    uploads: Arc<Semaphore>,
    /// Where hosts reach the gRPC service.
    endpoint: Arc<str>,
}

impl Images {
    /// Puts the parts together. `endpoint` is the URL of the gRPC service,
    /// `sweep` nudges the reconciler that removes litter.
    pub fn new(
        process: Process,
        db: Db,
        data: Arc<dyn ImageStore>,
        config: Arc<Config>,
        tickets: TicketKey,
        endpoint: &str,
        sweep: Nudge,
    ) -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(config.max_uploads)),
            process,
            db,
            data,
            config,
            tickets: Arc::new(tickets),
            sweep,
            endpoint: endpoint.into(),
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The name of the store that keeps the data.
    pub fn store_name(&self) -> &'static str {
        self.data.name()
    }

    /// A request for `operation` that is done once, if it has a key.
    fn once(&self, ctx: &RequestContext, operation: &str, key: Option<&IdempotencyKey>) -> Once {
        Once::new(ctx, operation, key, self.process.env.now())
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.config.idle_timeout_seconds.max(1))
    }
}

/// Who looks: at least a reader, in a project or an administrator.
fn viewer(ctx: &RequestContext) -> Result<Viewer, Fault> {
    ctx.require(Role::Reader)?;
    Viewer::of(ctx).ok_or_else(needs_project)
}

fn needs_project() -> Fault {
    Fault::forbidden("This request needs a token that is scoped to a project.")
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "blocking work ended badly");
        Fault::internal("An unexpected error has occurred.")
    })
}

pub(crate) fn storage_fault(error: &std::io::Error) -> Fault {
    tracing::error!(%error, "the image store failed");
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Fault::over_quota("There is no space left for image data.");
    }
    Fault::unavailable("The image store is not available.")
}

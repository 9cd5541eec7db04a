//! The rules of the object store: who may do what, and what must hold. Knows
//! neither HTTP nor SQL.

mod accounts;
pub mod acl;
pub mod conditions;
mod containers;
mod data;
pub mod listing;
pub mod metadata;
pub mod names;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashSet;
use yakumo_db::Db;
use yakumo_service::{Nudge, Process};
use yakumo_types::{Fault, FaultCode, ProjectId, RequestContext, Role, Timestamp};

use crate::config::Config;
use crate::drivers::{Backend, BlobId};
use crate::store::containers::Container;
use acl::Acl;

pub use containers::Changes;
pub use data::{BodyCut, ByteRange};
pub use objects::{Copied, PutHeaders};

/// The object store; a cheap handle.
#[derive(Clone)]
pub struct ObjectStore {
    pub(crate) process: Process,
    pub(crate) db: Db,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) config: Arc<Config>,
    /// Blobs that uploads of this process are writing just now.
    pub(crate) active: Arc<DashSet<BlobId>>,
    /// Removes garbage; nudged where some was made.
    pub(crate) sweep: Nudge,
}

/// Who asks, for whose account.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Nothing for a request without a token.
    pub context: Option<RequestContext>,
    /// The account's project.
    pub account: ProjectId,
    /// Where the request says that it was linked from.
    pub referrer: Option<String>,
}

/// What is to be done with what is in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read objects.
    Read,
    /// List objects.
    List,
    /// Store and remove objects.
    Write,
}

impl Caller {
    /// Whether the account is the caller's own, with at least this role.
    pub fn owns(&self, role: Role) -> bool {
        self.context
            .as_ref()
            .is_some_and(|ctx| ctx.may_see(self.account) && ctx.require(role).is_ok())
    }

    /// Refuses callers whose account this is not.
    pub fn require_own(&self, role: Role) -> Result<(), Fault> {
        if self.owns(role) {
            return Ok(());
        }
        Err(self.refused())
    }

    /// Refuses callers who have no right on what is in the container. A
    /// container that is not there gives nobody else a right, so that its
    /// absence cannot be told from its privacy.
    pub fn require_access(
        &self,
        access: Access,
        container: Option<&Container>,
    ) -> Result<(), Fault> {
        let role = match access {
            Access::Read | Access::List => Role::Reader,
            Access::Write => Role::Member,
        };
        if self.owns(role) {
            return Ok(());
        }
        let granted = container.is_some_and(|container| match access {
            Access::Read => Acl::parse(&container.read_acl).grants_read(self),
            Access::List => Acl::parse(&container.read_acl).grants_listing(self),
            Access::Write => Acl::parse(&container.write_acl).grants_write(self),
        });
        if granted {
            return Ok(());
        }
        Err(self.refused())
    }

    fn refused(&self) -> Fault {
        match self.context {
            Some(_) => Fault::forbidden("Access was denied to this resource."),
            None => Fault::unauthorized(
                "This server could not verify that you are authorized to access the document you requested.",
            ),
        }
    }
}

impl ObjectStore {
    /// Puts the parts together; `sweep` nudges the reconciler of garbage.
    pub fn new(
        process: Process,
        db: Db,
        backend: Arc<dyn Backend>,
        config: Arc<Config>,
        sweep: Nudge,
    ) -> Self {
        Self {
            process,
            db,
            backend,
            config,
            active: Arc::default(),
            sweep,
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.process.env.now()
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.config.idle_timeout_seconds.max(1))
    }
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
    tracing::error!(%error, "the object store's disk failed");
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Fault::new(
            FaultCode::InsufficientStorage,
            "There is no space left for objects.",
        );
    }
    Fault::unavailable("The object store is not available.")
}

//! The volume service's tables. Every query on a project's rows takes the
//! walls that the caller is within.

pub mod attachments;
mod entity;
mod migration;
pub mod quotas;
pub mod storage_hosts;
pub mod volumes;

pub use entity::{attachment, quota, storage_host, volume};
pub use migration::Migrator;

use yakumo_types::{Fault, ProjectId, RequestContext};

/// Whose rows a query may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// One project's.
    Project(ProjectId),
    /// Everybody's: administrators, and Yakumo for itself.
    All,
}

impl Walls {
    /// The walls of a caller who looks one thing up by its id.
    pub fn of(ctx: &RequestContext) -> Result<Self, Fault> {
        if ctx.is_admin() {
            return Ok(Self::All);
        }
        ctx.require_reader().map(Self::Project)
    }
}

//! The image service's tables.
//!
//! Everything that a caller may see goes through [`Viewer`]: there is no
//! query on images without one, but for the service's own housekeeping
//! ([`uploads`]).

mod entity;
pub mod images;
pub mod members;
pub mod migration;
mod quotas;
pub mod tickets;
pub mod uploads;

pub use migration::Migrator;

use yakumo_types::{ProjectId, RequestContext};

/// Through whose eyes images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// An administrator of the cloud, who sees all; with the project of the
    /// token, if it has one.
    Admin(Option<ProjectId>),
    /// A project.
    Project(ProjectId),
}

impl Viewer {
    /// The viewer that a request context stands for; `None` where it has
    /// neither a project nor an administrator's role.
    pub fn of(ctx: &RequestContext) -> Option<Self> {
        if ctx.is_admin() {
            return Some(Self::Admin(ctx.project_id));
        }
        ctx.project_id.map(Self::Project)
    }
}

//! The network service's tables. Rules are in `app`; here is only how rows are
//! found and changed. Every listing of a project's rows takes the walls that
//! the caller is within.

pub mod addresses;
mod entity;
pub mod floating_ips;
pub mod hosts;
pub mod listing;
pub mod members;
mod migration;
pub mod networks;
pub mod ports;
pub mod quotas;
pub mod routers;
pub mod security_groups;
pub mod servers;
pub mod subnets;

pub use entity::{
    address, floating_ip, group_change, group_revision, host, host_change, membership, network,
    port, quota, router, router_interface, rule, security_group, server, subnet,
};
pub use migration::Migrator;
/// What queries run on: the readers, or a transaction.
pub use sea_orm::ConnectionTrait as Connection;

use yakumo_types::{Fault, RequestContext};

/// Whose rows a query may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walls {
    /// One project's, and what everybody may see.
    Project(String),
    /// Everybody's: administrators, and Yakumo for itself.
    All,
}

impl Walls {
    /// The walls of a caller.
    pub fn of(ctx: &RequestContext) -> Result<Self, Fault> {
        if ctx.is_admin() {
            return Ok(Self::All);
        }
        Ok(Self::Project(ctx.require_reader()?.to_string()))
    }

    /// Whether something of this project is within.
    pub fn contain(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Project(own) => own == project,
        }
    }
}

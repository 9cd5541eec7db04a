//! The rules of identity. Knows neither axum nor SQL.
//!
//! Every change that weakens somebody's rights appends to the revocation log
//! in its own transaction and calls [`App::announce_revocations`] afterwards:
//! on return this process honours it, and the others are nudged.

mod assignments;
mod bootstrap;
mod catalog;
mod credentials;
mod domains;
mod groups;
pub mod ids;
mod keys;
mod passwords;
mod projects;
mod roles;
mod scopes;
mod source;
mod tokens;
mod users;

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use yakumo_auth::{TokenVerifier, VERIFIERS_TOPIC};
use yakumo_contracts::identity::{RevocationChangedEvent, TokenVerifiersClient};
use yakumo_db::idempotency::Once;
use yakumo_db::{Db, DbError};
use yakumo_rpc::{Bus, Target};
use yakumo_types::{
    Env, Fault, IdempotencyKey, RequestContext, Timestamp, check_description, check_name,
};

pub use assignments::{Actor, AssignmentQuery, AssignmentView, Target as GrantTarget};
pub use bootstrap::bootstrap;
pub use catalog::{
    CatalogService, EndpointChange, NewEndpoint, NewService, RegionChange, ServiceChange,
};
pub use credentials::{CredentialChange, Ec2Key, NewCredential};
pub use domains::{DomainChange, NewDomain};
pub use groups::{GroupChange, NewGroup};
pub use keys::KeyRing;
pub use passwords::Passwords;
pub use projects::{NewProject, ProjectChange};
pub use roles::RoleChange;
pub use source::StoreSource;
pub(crate) use tokens::Shown;
pub use tokens::{AuthRequest, DomainRef, ProjectRef, Proof, ScopeRequest, TokenView, UserRef};
pub use users::{NewUser, UserChange};

use crate::config::Config;
use crate::store::{Page, revocations};

/// Roles that the default policy is made of; they can be neither renamed nor removed.
pub const FIXED_ROLES: [&str; 3] = ["admin", "member", "reader"];

/// Rows of a listing that names no limit.
pub const MAX_PAGE: u64 = 10_000;

/// Everything that the rules need; one per process.
pub struct App {
    pub(crate) env: Env,
    pub(crate) db: Db,
    pub(crate) bus: Bus,
    pub(crate) config: Arc<Config>,
    pub(crate) passwords: Passwords,
    pub(crate) keys: KeyRing,
    pub(crate) verifier: TokenVerifier,
    pub(crate) shown: Shown,
}

/// A page of a listing and whether more follow.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl App {
    pub(crate) fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// A request for `operation` that is done once, if it has a key.
    fn once(&self, ctx: &RequestContext, operation: &str, key: Option<&IdempotencyKey>) -> Once {
        Once::new(ctx, operation, key, self.now())
    }

    /// When nothing that is issued now holds any more, with room for clocks
    /// that differ.
    pub(crate) fn revocation_end(&self) -> Timestamp {
        let life = Duration::from_secs(self.config.token_lifetime_seconds);
        self.now().plus(life + Duration::from_secs(600))
    }

    /// Makes what was appended to the revocation log hold: here on return,
    /// elsewhere within a second at the latest.
    pub(crate) async fn announce_revocations(&self) {
        if let Err(fault) = self.verifier.refresh().await {
            warn!(%fault, "a revocation is stored and will hold within a second");
        }
        let revision = match revocations::current(self.db.read()).await {
            Ok(revision) => revision,
            Err(error) => {
                debug!(%error, "the other verifiers are not nudged");
                return;
            }
        };
        let client = TokenVerifiersClient::new(self.bus.clone(), Target::service(VERIFIERS_TOPIC));
        let context = RequestContext::internal(self.env.id());
        let nudge = client.revocation_changed(&context, RevocationChangedEvent { revision });
        // Only a nudge: everybody asks once a second anyway.
        match tokio::time::timeout(Duration::from_secs(1), nudge).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => debug!(%fault, "the other verifiers were not nudged"),
            Err(_) => debug!("the bus is slow; the other verifiers were not nudged"),
        }
    }
}

/// One row more than wanted tells whether there are more.
pub(crate) fn lookahead(page: &Page) -> Page {
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    Page {
        marker: page.marker.clone(),
        limit: Some(limit.saturating_add(1)),
    }
}

pub(crate) fn listing<T>(mut items: Vec<T>, page: &Page) -> Listing<T> {
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    Listing { items, more }
}

pub(crate) fn missing(what: &str, id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::not_found(format!("Could not find {what}: {id}."))
}

pub(crate) fn name(text: &str, limit: usize) -> Result<String, Fault> {
    Ok(check_name("name", text, limit)?.to_owned())
}

pub(crate) fn description(text: &str) -> Result<String, Fault> {
    check_description("description", text, 1024)?;
    Ok(text.to_owned())
}

/// Says which name is taken; other errors pass.
pub(crate) fn taken(error: DbError, what: &str, name: &str) -> Fault {
    match error {
        DbError::Conflict { .. } => Fault::conflict(format!("There is a {what} {name:?} already.")),
        DbError::ForeignKey { .. } => Fault::not_found(format!(
            "Something that the {what} refers to does not exist."
        )),
        error => error.into(),
    }
}

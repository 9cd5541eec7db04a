//! Who asks, for which project, and under which request: the first argument
//! of everything that acts for a client.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fault::Fault;
use crate::ids::{DomainId, ProjectId, RequestId, UserId};
use crate::time::Timestamp;

/// The roles that the default policy knows; each one implies those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May look.
    Reader,
    /// May make, change and delete what belongs to the project.
    Member,
    /// May do everything.
    Admin,
}

/// Who asks, for which project, and under which request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestContext {
    /// The request that this is done for; written `req-<uuid>` outside.
    pub request_id: RequestId,
    /// The user, or the nil id where Yakumo acts for itself.
    pub user_id: UserId,
    /// The user's name.
    #[serde(default)]
    pub user_name: String,
    /// The domain that the user lives in.
    #[serde(default)]
    pub user_domain_id: Option<DomainId>,
    /// The project of the token, if it has one.
    #[serde(default)]
    pub project_id: Option<ProjectId>,
    /// That project's name.
    #[serde(default)]
    pub project_name: String,
    /// That project's domain.
    #[serde(default)]
    pub project_domain_id: Option<DomainId>,
    /// The domain of a domain-scoped token.
    #[serde(default)]
    pub domain_id: Option<DomainId>,
    /// Whether the token is scoped to the whole system.
    #[serde(default)]
    pub system: bool,
    /// Role names, lower case.
    #[serde(default)]
    pub roles: Vec<String>,
    /// When the token that this came from runs out.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl RequestContext {
    /// Yakumo acting for itself: reconcilers, reports, start-up.
    pub fn internal(request_id: RequestId) -> Self {
        Self {
            request_id,
            user_id: UserId::from_uuid(Uuid::nil()),
            user_name: "yakumo".into(),
            user_domain_id: None,
            project_id: None,
            project_name: String::new(),
            project_domain_id: None,
            domain_id: None,
            system: true,
            roles: vec!["admin".into()],
            expires_at: None,
        }
    }

    /// A host speaking for itself: no project, no roles.
    pub fn host(request_id: RequestId) -> Self {
        Self {
            user_name: "host".into(),
            system: false,
            roles: Vec::new(),
            ..Self::internal(request_id)
        }
    }

    /// The highest role that the default policy knows.
    pub fn role(&self) -> Option<Role> {
        self.roles
            .iter()
            .filter_map(|name| match name.as_str() {
                "admin" => Some(Role::Admin),
                "member" | "_member_" => Some(Role::Member),
                "reader" => Some(Role::Reader),
                _ => None,
            })
            .max()
    }

    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self) -> bool {
        self.role() == Some(Role::Admin)
    }

    /// The project of the token, or 403 for a token without one.
    pub fn require_project(&self) -> Result<ProjectId, Fault> {
        self.project_id.ok_or_else(|| {
            Fault::forbidden("This request needs a token that is scoped to a project.")
        })
    }

    /// Refuses callers below `role`.
    pub fn require(&self, role: Role) -> Result<(), Fault> {
        if self.role() >= Some(role) {
            return Ok(());
        }
        let wanted = match role {
            Role::Reader => "reader",
            Role::Member => "member",
            Role::Admin => "admin",
        };
        Err(Fault::forbidden(format!(
            "You are not authorized to do this: it needs the role {wanted}."
        )))
    }

    /// A reader in a project: may look.
    pub fn require_reader(&self) -> Result<ProjectId, Fault> {
        self.require(Role::Reader)?;
        self.require_project()
    }

    /// A member of a project: may change.
    pub fn require_member(&self) -> Result<ProjectId, Fault> {
        self.require(Role::Member)?;
        self.require_project()
    }

    /// An administrator.
    pub fn require_admin(&self) -> Result<(), Fault> {
        self.require(Role::Admin)
    }

    /// Whether something of `owner` is within the caller's walls.
    pub fn may_see(&self, owner: ProjectId) -> bool {
        self.is_admin() || self.project_id == Some(owner)
    }
}

/// Makes a context unforgeable on its way over the bus, and checks it there.
///
/// Control services hold what it takes to seal; hosts can only open. That is
/// why a stolen host cannot speak for a tenant or an administrator.
pub trait ContextSeal: Send + Sync {
    /// The context as signed text, or a fault where this process may not seal.
    fn seal(&self, context: &RequestContext) -> Result<String, Fault>;

    /// The context of a sealed text, or `Unauthorized`.
    fn open(&self, sealed: &str) -> Result<RequestContext, Fault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(roles: &[&str]) -> RequestContext {
        RequestContext {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            project_id: Some(ProjectId::from_uuid(Uuid::from_u128(7))),
            ..RequestContext::host(RequestId::from_uuid(Uuid::from_u128(1)))
        }
    }

    #[test]
    fn a_role_implies_those_below_it() {
        assert!(context(&["admin"]).require_reader().is_ok());
        assert!(context(&["member"]).require_reader().is_ok());
        assert!(context(&["reader"]).require_member().is_err());
        assert!(context(&["member"]).require_admin().is_err());
        assert!(context(&["gardener"]).require_reader().is_err());
    }

    #[test]
    fn a_host_has_no_rights() {
        let host = RequestContext::host(RequestId::from_uuid(Uuid::from_u128(1)));
        assert!(host.require(Role::Reader).is_err());
        assert!(!host.may_see(ProjectId::from_uuid(Uuid::from_u128(7))));
    }
}

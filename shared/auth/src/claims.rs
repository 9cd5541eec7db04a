//! What a token says.

use serde::{Deserialize, Serialize};
use yakumo_types::{DomainId, ProjectId, RequestContext, RequestId, Timestamp, UserId};

/// The issuer that every token names.
pub const ISSUER: &str = "yakumo";

/// The payload of a token. Member names are short because a token travels in
/// a header of every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// The user.
    pub sub: UserId,
    /// The token's own id, shown as its first audit id.
    pub jti: String,
    /// Issued at, in seconds since the epoch.
    pub iat: i64,
    /// Runs out at, in seconds since the epoch.
    pub exp: i64,
    /// The revision of the revocation log before the rights were read.
    pub rev: u64,
    /// The user's name.
    #[serde(rename = "un")]
    pub user_name: String,
    /// The user's domain.
    #[serde(rename = "ud")]
    pub user_domain_id: DomainId,
    /// How the user proved who it is: `password`, `token`.
    #[serde(rename = "amr")]
    pub methods: Vec<String>,
    /// The id of the first token in a chain of rescoped ones, if it is not
    /// this one.
    #[serde(rename = "par", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The project that the token is for.
    #[serde(rename = "prj", default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectScope>,
    /// The domain that the token is for.
    #[serde(rename = "dom", default, skip_serializing_if = "Option::is_none")]
    pub domain_id: Option<DomainId>,
    /// Whether the token is for the whole system.
    #[serde(rename = "sys", default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// Role names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// The project that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectScope {
    /// Its id.
    pub id: ProjectId,
    /// Its name when the token was made.
    #[serde(rename = "n")]
    pub name: String,
    /// Its domain.
    #[serde(rename = "d")]
    pub domain_id: DomainId,
}

impl TokenClaims {
    /// The context of requests that carry this token; the request id is for
    /// the caller to set.
    pub fn context(&self) -> RequestContext {
        RequestContext {
            request_id: RequestId::from_uuid(Default::default()),
            user_id: self.sub,
            user_name: self.user_name.clone(),
            user_domain_id: Some(self.user_domain_id),
            project_id: self.project.as_ref().map(|project| project.id),
            project_name: self
                .project
                .as_ref()
                .map(|project| project.name.clone())
                .unwrap_or_default(),
            project_domain_id: self.project.as_ref().map(|project| project.domain_id),
            domain_id: self.domain_id,
            system: self.system,
            roles: self.roles.iter().map(|role| role.to_lowercase()).collect(),
            expires_at: Some(self.expires_at()),
        }
    }

    /// When the token runs out.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp::from_secs(self.exp)
    }

    /// When the token was made.
    pub fn issued_at(&self) -> Timestamp {
        Timestamp::from_secs(self.iat)
    }
}

//! Which tokens no longer hold, by what they say: pure.

use std::collections::HashMap;
use std::hash::Hash;

use yakumo_contracts::identity::Revocation;
use yakumo_types::{DomainId, ProjectId, Timestamp, UserId};

use crate::claims::TokenClaims;

/// What an entry of the log takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationKind {
    /// One token, by its id.
    Token(String),
    /// All tokens of a user: disabled, deleted, or with a new password.
    User(UserId),
    /// A user's tokens for one project: a role was taken away.
    UserOnProject(UserId, ProjectId),
    /// A user's tokens for one domain.
    UserOnDomain(UserId, DomainId),
    /// A user's tokens for the system.
    UserOnSystem(UserId),
    /// All tokens for a project: disabled or deleted.
    Project(ProjectId),
    /// All tokens that have to do with a domain: of its users, for its
    /// projects, for itself.
    Domain(DomainId),
    /// All tokens with a role: renamed or deleted.
    Role(String),
}

impl RevocationKind {
    /// The entry as it travels.
    pub fn to_message(&self, revision: u64, expires_at: Timestamp) -> Revocation {
        let mut message = Revocation {
            revision,
            expires_at: expires_at.as_micros(),
            ..Revocation::default()
        };
        let kind = match self {
            Self::Token(id) => {
                message.token_id = id.clone();
                "token"
            }
            Self::User(user) => {
                message.user_id = user.to_string();
                "user"
            }
            Self::UserOnProject(user, project) => {
                message.user_id = user.to_string();
                message.project_id = project.to_string();
                "user_on_project"
            }
            Self::UserOnDomain(user, domain) => {
                message.user_id = user.to_string();
                message.domain_id = domain.to_string();
                "user_on_domain"
            }
            Self::UserOnSystem(user) => {
                message.user_id = user.to_string();
                "user_on_system"
            }
            Self::Project(project) => {
                message.project_id = project.to_string();
                "project"
            }
            Self::Domain(domain) => {
                message.domain_id = domain.to_string();
                "domain"
            }
            Self::Role(role) => {
                message.role = role.to_lowercase();
                "role"
            }
        };
        message.kind = kind.into();
        message
    }

    /// What a message says, if this release knows its kind.
    fn from_message(message: &Revocation) -> Option<Self> {
        let user = || message.user_id.parse::<UserId>().ok();
        let project = || message.project_id.parse::<ProjectId>().ok();
        let domain = || message.domain_id.parse::<DomainId>().ok();
        Some(match message.kind.as_str() {
            "token" => Self::Token(message.token_id.clone()),
            "user" => Self::User(user()?),
            "user_on_project" => Self::UserOnProject(user()?, project()?),
            "user_on_domain" => Self::UserOnDomain(user()?, domain()?),
            "user_on_system" => Self::UserOnSystem(user()?),
            "project" => Self::Project(project()?),
            "domain" => Self::Domain(domain()?),
            "role" => Self::Role(message.role.clone()),
            _ => return None,
        })
    }
}

/// Revision and end of an entry.
#[derive(Debug, Clone, Copy)]
struct Mark {
    revision: u64,
    expires_at: i64,
}

/// The log, arranged so that asking about a token costs a handful of look-ups
/// however long the log is.
#[derive(Debug, Clone, Default)]
pub struct RevocationIndex {
    tokens: HashMap<String, Mark>,
    users: HashMap<UserId, Mark>,
    users_on_projects: HashMap<(UserId, ProjectId), Mark>,
    users_on_domains: HashMap<(UserId, DomainId), Mark>,
    users_on_system: HashMap<UserId, Mark>,
    projects: HashMap<ProjectId, Mark>,
    domains: HashMap<DomainId, Mark>,
    roles: HashMap<String, Mark>,
    everything: u64,
}

fn put<K: Eq + Hash>(map: &mut HashMap<K, Mark>, key: K, mark: Mark) {
    map.entry(key)
        .and_modify(|old| {
            old.revision = old.revision.max(mark.revision);
            old.expires_at = old.expires_at.max(mark.expires_at);
        })
        .or_insert(mark);
}

fn hits<K, Q>(map: &HashMap<K, Mark>, key: &Q, revision: u64) -> bool
where
    K: Eq + Hash + std::borrow::Borrow<Q>,
    Q: Eq + Hash + ?Sized,
{
    !map.is_empty() && map.get(key).is_some_and(|mark| mark.revision > revision)
}

impl RevocationIndex {
    /// Takes an entry in. One of an unknown kind hits every older token: it
    /// is better to ask people to log in again than to let a token live that
    /// a newer identity service has taken back.
    pub fn add(&mut self, message: &Revocation) {
        let mark = Mark {
            revision: message.revision,
            expires_at: message.expires_at,
        };
        match RevocationKind::from_message(message) {
            Some(RevocationKind::Token(id)) => put(&mut self.tokens, id, mark),
            Some(RevocationKind::User(user)) => put(&mut self.users, user, mark),
            Some(RevocationKind::UserOnProject(user, project)) => {
                put(&mut self.users_on_projects, (user, project), mark);
            }
            Some(RevocationKind::UserOnDomain(user, domain)) => {
                put(&mut self.users_on_domains, (user, domain), mark);
            }
            Some(RevocationKind::UserOnSystem(user)) => {
                put(&mut self.users_on_system, user, mark);
            }
            Some(RevocationKind::Project(project)) => put(&mut self.projects, project, mark),
            Some(RevocationKind::Domain(domain)) => put(&mut self.domains, domain, mark),
            Some(RevocationKind::Role(role)) => put(&mut self.roles, role, mark),
            None => self.everything = self.everything.max(message.revision),
        }
    }

    /// Forgets entries that can hit nothing any more.
    pub fn purge(&mut self, now: Timestamp) {
        let now = now.as_micros();
        fn keep<K>(map: &mut HashMap<K, Mark>, now: i64) {
            map.retain(|_, mark| mark.expires_at == 0 || mark.expires_at > now);
        }
        keep(&mut self.tokens, now);
        keep(&mut self.users, now);
        keep(&mut self.users_on_projects, now);
        keep(&mut self.users_on_domains, now);
        keep(&mut self.users_on_system, now);
        keep(&mut self.projects, now);
        keep(&mut self.domains, now);
        keep(&mut self.roles, now);
    }

    /// Whether a token was taken back.
    pub fn revokes(&self, claims: &TokenClaims) -> bool {
        let rev = claims.rev;
        let user = claims.sub;
        if rev < self.everything
            || hits(&self.tokens, claims.jti.as_str(), rev)
            || hits(&self.users, &user, rev)
            || hits(&self.domains, &claims.user_domain_id, rev)
        {
            return true;
        }
        if let Some(project) = &claims.project
            && (hits(&self.projects, &project.id, rev)
                || hits(&self.users_on_projects, &(user, project.id), rev)
                || hits(&self.domains, &project.domain_id, rev))
        {
            return true;
        }
        if let Some(domain) = &claims.domain_id
            && (hits(&self.domains, domain, rev)
                || hits(&self.users_on_domains, &(user, *domain), rev))
        {
            return true;
        }
        if claims.system && hits(&self.users_on_system, &user, rev) {
            return true;
        }
        !self.roles.is_empty()
            && claims
                .roles
                .iter()
                .any(|role| hits(&self.roles, role.to_lowercase().as_str(), rev))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::claims::{ISSUER, ProjectScope};
    use uuid::Uuid;

    pub(crate) fn claims() -> TokenClaims {
        TokenClaims {
            iss: ISSUER.into(),
            sub: UserId::from_uuid(Uuid::from_u128(1)),
            jti: "token-1".into(),
            iat: 1_000,
            exp: 4_600,
            rev: 5,
            user_name: "ann".into(),
            user_domain_id: DomainId::from_uuid(Uuid::from_u128(2)),
            methods: vec!["password".into()],
            parent: None,
            project: Some(ProjectScope {
                id: ProjectId::from_uuid(Uuid::from_u128(3)),
                name: "garden".into(),
                domain_id: DomainId::from_uuid(Uuid::from_u128(4)),
            }),
            domain_id: None,
            system: false,
            roles: vec!["Member".into()],
        }
    }

    fn index(kind: RevocationKind, revision: u64) -> RevocationIndex {
        let mut index = RevocationIndex::default();
        index.add(&kind.to_message(revision, Timestamp::from_secs(5_000)));
        index
    }

    #[test]
    fn an_entry_hits_what_it_names_and_only_older_tokens() {
        let token = claims();
        let project = token.project.clone().unwrap();
        let hitting = [
            RevocationKind::Token("token-1".into()),
            RevocationKind::User(token.sub),
            RevocationKind::UserOnProject(token.sub, project.id),
            RevocationKind::Project(project.id),
            RevocationKind::Domain(token.user_domain_id),
            RevocationKind::Domain(project.domain_id),
            RevocationKind::Role("member".into()),
        ];
        for kind in hitting {
            assert!(index(kind.clone(), 6).revokes(&token), "{kind:?}");
            assert!(!index(kind.clone(), 5).revokes(&token), "{kind:?}");
        }
        let other = UserId::from_uuid(Uuid::from_u128(9));
        let missing = [
            RevocationKind::Token("token-2".into()),
            RevocationKind::User(other),
            RevocationKind::UserOnProject(other, project.id),
            RevocationKind::UserOnSystem(token.sub),
            RevocationKind::Role("admin".into()),
        ];
        for kind in missing {
            assert!(!index(kind.clone(), 6).revokes(&token), "{kind:?}");
        }
    }

    #[test]
    fn an_unknown_kind_is_taken_for_everything() {
        let mut index = RevocationIndex::default();
        index.add(&Revocation {
            revision: 6,
            kind: "planet".into(),
            ..Revocation::default()
        });
        assert!(index.revokes(&claims()));
        assert!(!index.revokes(&TokenClaims { rev: 6, ..claims() }));
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let mut index = index(RevocationKind::User(claims().sub), 6);
        index.purge(Timestamp::from_secs(4_999));
        assert!(index.revokes(&claims()));
        index.purge(Timestamp::from_secs(5_001));
        assert!(!index.revokes(&claims()));
    }
}

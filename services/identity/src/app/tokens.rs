//! Tokens: made from a proof and a scope, shown, and taken back.
//!
//! The revision of the revocation log is read before anything that a token
//! rests on; see `yakumo_auth` for why that closes the race with revocations.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use moka::sync::Cache;
use yakumo_auth::{ProjectScope, RevocationKind, TokenClaims, policy};
use yakumo_types::{Fault, FaultCode, RequestContext};

use super::{App, CatalogService, ids};
use crate::store::assignments::SYSTEM;
use crate::store::entity::{domain, project, role, user};
use crate::store::{domains, projects, revocations, users};

/// A domain, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainRef {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// A user, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By id.
    Id(String),
    /// By name, within a domain.
    Name(String, DomainRef),
}

/// A project, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectRef {
    /// By id.
    Id(String),
    /// By name, within a domain.
    Name(String, DomainRef),
}

/// How somebody proves who they are.
#[derive(Clone)]
pub enum Proof {
    /// By a password.
    Password(UserRef, String),
    /// By a token that they have already.
    Token(String),
}

/// What the token is to be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeRequest {
    /// Nothing, though there is a default project.
    Unscoped,
    /// A project.
    Project(ProjectRef),
    /// A domain.
    Domain(DomainRef),
    /// The whole system.
    System,
}

/// A request for a token.
#[derive(Clone)]
pub struct AuthRequest {
    /// Who.
    pub proof: Proof,
    /// For what; the default project, or nothing, if the client left it out.
    pub scope: Option<ScopeRequest>,
}

/// A token and what it says.
pub struct Issued {
    /// The token itself.
    pub token: String,
    /// What it says.
    pub view: TokenView,
}

/// What a token says, with the names that belong to it.
pub struct TokenView {
    /// The token's own words.
    pub claims: TokenClaims,
    /// The user's domain.
    pub user_domain_name: String,
    /// The domain of the project, or the domain that the token is for.
    pub scope_domain_name: String,
    /// The roles.
    pub roles: Vec<role::Model>,
    /// The catalog, if it was asked for and the token is for something.
    pub catalog: Option<Vec<CatalogService>>,
}

/// Views of tokens as they were a moment ago, rendered.
///
/// A service that validates a token asks again with every request that it
/// gets. Whether the token holds, and who may look, is never taken from here;
/// names and the catalog are, for a second at the most, and not after this
/// process has changed anything.
pub(crate) struct Shown {
    views: Cache<ShownKey, Bytes>,
}

#[derive(PartialEq, Eq, Hash)]
struct ShownKey {
    token: String,
    catalog: bool,
    writes: u64,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            views: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(1))
                .build(),
        }
    }
}

fn refused() -> Fault {
    // The same words for every reason: whoever guesses learns nothing.
    Fault::unauthorized("The request you have made requires authentication.")
}

enum Scope {
    None,
    Project(project::Model, domain::Model),
    Domain(domain::Model),
    System,
}

struct Proven {
    user: user::Model,
    domain: domain::Model,
    /// Earlier token, for rescoping.
    from: Option<std::sync::Arc<TokenClaims>>,
}

impl App {
    /// Makes a token. `catalog` says whether the answer shows the catalog.
    pub async fn authenticate(
        &self,
        request: &AuthRequest,
        catalog: bool,
    ) -> Result<Issued, Fault> {
        let revision = revocations::current(self.db.read()).await?;
        let proven = match &request.proof {
            Proof::Password(user, password) => self.prove_by_password(user, password).await,
            Proof::Token(token) => self.prove_by_token(token).await,
        };
        let outcome = match &proven {
            Ok(_) => "accepted",
            Err(fault) if fault.code == FaultCode::Unauthorized => "refused",
            Err(_) => "failed",
        };
        metrics::counter!("yakumo_identity_logins_total", "outcome" => outcome).increment(1);
        let proven = proven?;
        let (scope, roles) = self.grant(&proven.user, request.scope.as_ref()).await?;

        let now = self.now();
        let mut methods: Vec<String> = Vec::new();
        let mut exp = now.as_secs()
            + i64::try_from(self.config.token_lifetime_seconds).unwrap_or(i64::from(u32::MAX));
        let mut parent = None;
        match (&request.proof, &proven.from) {
            (Proof::Token(_), Some(from)) => {
                // A token made from a token ends when that one ends.
                exp = from.exp;
                parent = Some(from.parent.clone().unwrap_or_else(|| from.jti.clone()));
                methods.clone_from(&from.methods);
                if !methods.iter().any(|method| method == "token") {
                    methods.push("token".into());
                }
            }
            _ => methods.push("password".into()),
        }
        let mut audit = [0; 16];
        self.env.rng.fill(&mut audit);
        let (project, domain_id, system, scope_domain_name) = match scope {
            Scope::None => (None, None, false, String::new()),
            Scope::Project(project, domain) => (
                Some(ProjectScope {
                    id: ids::typed(&project.id),
                    name: project.name,
                    domain_id: ids::typed(&project.domain_id),
                }),
                None,
                false,
                domain.name,
            ),
            Scope::Domain(domain) => (None, Some(ids::typed(&domain.id)), false, domain.name),
            Scope::System => (None, None, true, String::new()),
        };
        let claims = TokenClaims {
            iss: "yakumo".into(),
            sub: ids::typed(&proven.user.id),
            jti: URL_SAFE_NO_PAD.encode(audit),
            iat: now.as_secs(),
            exp,
            rev: revision,
            user_name: proven.user.name,
            user_domain_id: ids::typed(&proven.user.domain_id),
            methods,
            parent,
            project,
            domain_id,
            system,
            roles: roles.iter().map(|role| role.name.clone()).collect(),
        };
        let token = self.keys.signing(now)?.sign(&claims)?;
        let catalog = self.catalog_of(&claims, catalog).await?;
        Ok(Issued {
            token,
            view: TokenView {
                claims,
                user_domain_name: proven.domain.name,
                scope_domain_name,
                roles,
                catalog,
            },
        })
    }

    async fn catalog_of(
        &self,
        claims: &TokenClaims,
        wanted: bool,
    ) -> Result<Option<Vec<CatalogService>>, Fault> {
        let scoped = claims.project.is_some() || claims.domain_id.is_some() || claims.system;
        if !wanted || !scoped {
            return Ok(None);
        }
        let project = claims.project.as_ref().map(|project| project.id);
        Ok(Some(self.catalog(project).await?))
    }

    async fn prove_by_password(&self, who: &UserRef, password: &str) -> Result<Proven, Fault> {
        let found = self.resolve_user(who).await?;
        let hash = found
            .as_ref()
            .and_then(|(user, _)| user.password_hash.as_deref());
        let right = self.passwords.verify(hash, password).await?;
        match found {
            Some((user, domain)) if right && user.enabled && domain.enabled => Ok(Proven {
                user,
                domain,
                from: None,
            }),
            _ => Err(refused()),
        }
    }

    async fn prove_by_token(&self, token: &str) -> Result<Proven, Fault> {
        let claims = self.verifier.verify_claims(token).await?;
        let found = self
            .resolve_user(&UserRef::Id(claims.sub.to_string()))
            .await?;
        match found {
            Some((user, domain)) if user.enabled && domain.enabled => Ok(Proven {
                user,
                domain,
                from: Some(claims),
            }),
            _ => Err(refused()),
        }
    }

    pub(crate) async fn resolve_domain(
        &self,
        which: &DomainRef,
    ) -> Result<Option<domain::Model>, Fault> {
        let db = self.db.read();
        Ok(match which {
            DomainRef::Id(id) => match ids::stored(id) {
                Some(id) => domains::find(db, &id).await?,
                None => None,
            },
            DomainRef::Name(name) => domains::find_by_name(db, name).await?,
        })
    }

    async fn resolve_user(
        &self,
        which: &UserRef,
    ) -> Result<Option<(user::Model, domain::Model)>, Fault> {
        let db = self.db.read();
        let user = match which {
            UserRef::Id(id) => match ids::stored(id) {
                Some(id) => users::find(db, &id).await?,
                None => None,
            },
            UserRef::Name(name, domain) => match self.resolve_domain(domain).await? {
                Some(domain) => users::find_by_name(db, &domain.id, name).await?,
                None => None,
            },
        };
        let Some(user) = user else { return Ok(None) };
        let domain = domains::find(db, &user.domain_id).await?;
        Ok(domain.map(|domain| (user, domain)))
    }

    /// The scope that was asked for, and the roles that it gives. 401 if there
    /// is no such thing, or nothing to be had there.
    async fn grant(
        &self,
        user: &user::Model,
        wanted: Option<&ScopeRequest>,
    ) -> Result<(Scope, Vec<role::Model>), Fault> {
        let db = self.db.read();
        match wanted {
            Some(ScopeRequest::Unscoped) => Ok((Scope::None, Vec::new())),
            Some(ScopeRequest::Project(which)) => {
                let project = match which {
                    ProjectRef::Id(id) => match ids::stored(id) {
                        Some(id) => projects::find(db, &id).await?,
                        None => None,
                    },
                    ProjectRef::Name(name, domain) => match self.resolve_domain(domain).await? {
                        Some(domain) => projects::find_by_name(db, &domain.id, name).await?,
                        None => None,
                    },
                };
                self.grant_project(user, project).await?.ok_or_else(refused)
            }
            Some(ScopeRequest::Domain(which)) => {
                let domain = self
                    .resolve_domain(which)
                    .await?
                    .filter(|domain| domain.enabled)
                    .ok_or_else(refused)?;
                let roles = self.roles_on(&user.id, "domain", &domain.id).await?;
                if roles.is_empty() {
                    return Err(refused());
                }
                Ok((Scope::Domain(domain), roles))
            }
            Some(ScopeRequest::System) => {
                let roles = self.roles_on(&user.id, "system", SYSTEM).await?;
                if roles.is_empty() {
                    return Err(refused());
                }
                Ok((Scope::System, roles))
            }
            None => {
                let project = match &user.default_project_id {
                    Some(id) => projects::find(db, id).await?,
                    None => None,
                };
                // A default that does not work out is no reason to refuse.
                let granted = self.grant_project(user, project).await?;
                Ok(granted.unwrap_or((Scope::None, Vec::new())))
            }
        }
    }

    async fn grant_project(
        &self,
        user: &user::Model,
        project: Option<project::Model>,
    ) -> Result<Option<(Scope, Vec<role::Model>)>, Fault> {
        let Some(project) = project.filter(|project| project.enabled) else {
            return Ok(None);
        };
        let Some(domain) = domains::find(self.db.read(), &project.domain_id)
            .await?
            .filter(|domain| domain.enabled)
        else {
            return Ok(None);
        };
        let roles = self.roles_on(&user.id, "project", &project.id).await?;
        if roles.is_empty() {
            return Ok(None);
        }
        Ok(Some((Scope::Project(project, domain), roles)))
    }

    /// What somebody's token says, as `render` writes it; for its owner and
    /// for those who may look. 404 if it does not hold.
    pub async fn show_token(
        &self,
        ctx: &RequestContext,
        subject: &str,
        catalog: bool,
        render: impl FnOnce(&TokenView) -> Bytes,
    ) -> Result<Bytes, Fault> {
        let claims = self.subject(subject).await?;
        if claims.sub != ctx.user_id {
            policy::require_system_reader(ctx)?;
        }
        let key = ShownKey {
            token: claims.jti.clone(),
            catalog,
            writes: self.db.writes(),
        };
        if let Some(rendered) = self.shown.views.get(&key) {
            return Ok(rendered);
        }
        let rendered = render(&self.view(&claims, catalog).await?);
        self.shown.views.insert(key, rendered.clone());
        Ok(rendered)
    }

    async fn view(&self, claims: &TokenClaims, catalog: bool) -> Result<TokenView, Fault> {
        let db = self.db.read();
        let user_domain = domains::find(db, &claims.user_domain_id.to_string()).await?;
        let scope_domain = match (&claims.project, &claims.domain_id) {
            (Some(project), _) => Some(project.domain_id),
            (None, domain) => *domain,
        };
        let scope_domain = match scope_domain {
            Some(id) => domains::find(db, &id.to_string()).await?,
            None => None,
        };
        let all = self.roles_by_id().await?;
        let mut roles: Vec<role::Model> = all
            .into_values()
            .filter(|role| claims.roles.contains(&role.name))
            .collect();
        roles.sort_by(|left, right| left.name.cmp(&right.name));
        let catalog = self.catalog_of(claims, catalog).await?;
        Ok(TokenView {
            claims: claims.clone(),
            user_domain_name: user_domain.map(|domain| domain.name).unwrap_or_default(),
            scope_domain_name: scope_domain.map(|domain| domain.name).unwrap_or_default(),
            roles,
            catalog,
        })
    }

    /// Takes a token back; for its owner and for administrators.
    pub async fn revoke_token(&self, ctx: &RequestContext, subject: &str) -> Result<(), Fault> {
        let claims = self.subject(subject).await?;
        policy::require_self_or_admin(ctx, claims.sub)?;
        let kinds = vec![RevocationKind::Token(claims.jti.clone())];
        let end = claims.expires_at();
        self.db
            .write(move |txn| {
                let kinds = kinds.clone();
                Box::pin(async move { revocations::append(txn, &kinds, end).await })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }

    async fn subject(&self, token: &str) -> Result<std::sync::Arc<TokenClaims>, Fault> {
        self.verifier.verify_claims(token).await.map_err(|fault| {
            if fault.code == FaultCode::Unauthorized {
                Fault::not_found("Could not find the token, or it does not hold any more.")
            } else {
                fault
            }
        })
    }
}

//! Who has which role on what, and taking it back.

use std::collections::{BTreeMap, BTreeSet};

use yakumo_auth::{RevocationKind, policy};
use yakumo_db::DbError;
use yakumo_types::{Fault, RequestContext};

use super::scopes::implied;
use super::{App, ids, missing};
use crate::store::assignments::{self, SYSTEM};
use crate::store::entity::{assignment, domain, group, project, role, user};
use crate::store::{Page, domains, groups, projects, revocations, users};

/// Who has a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A user.
    User(String),
    /// A group.
    Group(String),
}

/// What a role is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A project.
    Project(String),
    /// A domain.
    Domain(String),
    /// Everything.
    System,
}

/// What a listing of assignments is cut down to.
#[derive(Debug, Clone, Default)]
pub struct AssignmentQuery {
    /// Of one user.
    pub user_id: Option<String>,
    /// Of one group.
    pub group_id: Option<String>,
    /// Of one role.
    pub role_id: Option<String>,
    /// On one project.
    pub project_id: Option<String>,
    /// On one domain.
    pub domain_id: Option<String>,
    /// On the system.
    pub system: bool,
    /// Groups dissolved into their users, implied roles named.
    pub effective: bool,
}

/// One assignment, with what belongs to it.
#[derive(Debug, Clone)]
pub struct AssignmentView {
    /// The role.
    pub role: role::Model,
    /// The role that implied this one.
    pub prior_role: Option<String>,
    /// The user, or nothing if it is a group's.
    pub user: Option<user::Model>,
    /// The group, or the one through which the user has it.
    pub group: Option<group::Model>,
    /// The project, if it is on one.
    pub project: Option<project::Model>,
    /// The domain, if it is on one.
    pub domain: Option<domain::Model>,
}

/// An assignment being worked on.
#[derive(Clone)]
struct Raw {
    row: assignment::Model,
    user_id: Option<String>,
    group_id: Option<String>,
    prior: Option<String>,
}

impl App {
    async fn grant_row(
        &self,
        actor: &Actor,
        target: &Target,
        role: &str,
    ) -> Result<assignment::Model, Fault> {
        let (actor_kind, actor_id) = match actor {
            Actor::User(id) => ("user", self.find_user(id).await?.id),
            Actor::Group(id) => ("group", self.find_group(id).await?.id),
        };
        let (target_kind, target_id) = match target {
            Target::Project(id) => ("project", self.find_project(id).await?.id),
            Target::Domain(id) => ("domain", self.find_domain(id).await?.id),
            Target::System => ("system", SYSTEM.to_owned()),
        };
        Ok(assignment::Model {
            actor_kind: actor_kind.into(),
            actor_id,
            target_kind: target_kind.into(),
            target_id,
            role_id: self.find_role(role).await?.id,
        })
    }

    /// Gives a role; giving it twice is fine.
    pub async fn grant_role(
        &self,
        ctx: &RequestContext,
        actor: &Actor,
        target: &Target,
        role: &str,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.grant_row(actor, target, role).await?;
        let given = self
            .db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { assignments::insert(txn, row).await })
            })
            .await;
        match given {
            // Somebody else gave it at the same time.
            Err(DbError::Conflict { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Takes a role back, and the tokens that rest on it.
    pub async fn revoke_role(
        &self,
        ctx: &RequestContext,
        actor: &Actor,
        target: &Target,
        role: &str,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.grant_row(actor, target, role).await?;
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move {
                    assignments::delete(txn, &row).await?;
                    let losers = if row.actor_kind == "group" {
                        let members =
                            groups::members(txn, std::slice::from_ref(&row.actor_id)).await?;
                        members.into_iter().map(|member| member.user_id).collect()
                    } else {
                        vec![row.actor_id.clone()]
                    };
                    let kinds: Vec<RevocationKind> = losers
                        .iter()
                        .map(|user| {
                            let user = ids::typed(user);
                            match row.target_kind.as_str() {
                                "project" => {
                                    RevocationKind::UserOnProject(user, ids::typed(&row.target_id))
                                }
                                "domain" => {
                                    RevocationKind::UserOnDomain(user, ids::typed(&row.target_id))
                                }
                                _ => RevocationKind::UserOnSystem(user),
                            }
                        })
                        .collect();
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }

    fn check_may_look(
        &self,
        ctx: &RequestContext,
        target: Option<&Target>,
        project_domain: Option<&str>,
    ) -> Result<(), Fault> {
        if policy::is_system_reader(ctx) {
            return Ok(());
        }
        let domain = match target {
            Some(Target::Domain(id)) => ids::stored(id),
            Some(Target::Project(_)) => project_domain.map(str::to_owned),
            Some(Target::System) | None => None,
        };
        match domain {
            Some(domain) => policy::require_domain_reader(ctx, ids::typed(&domain)),
            None => Err(policy::refused()),
        }
    }

    /// Whether somebody has a role, directly: 404 if not.
    pub async fn check_role(
        &self,
        ctx: &RequestContext,
        actor: &Actor,
        target: &Target,
        role: &str,
    ) -> Result<(), Fault> {
        self.check_may_look_at(ctx, target).await?;
        let row = self.grant_row(actor, target, role).await?;
        if assignments::exists(self.db.read(), &row).await? {
            Ok(())
        } else {
            Err(missing("role assignment", role))
        }
    }

    async fn check_may_look_at(&self, ctx: &RequestContext, target: &Target) -> Result<(), Fault> {
        let project_domain = match target {
            Target::Project(id) if !policy::is_system_reader(ctx) && ctx.domain_id.is_some() => {
                let found = self.find_project(id).await;
                Some(Self::seen(ctx, found, |row| &row.domain_id)?.domain_id)
            }
            _ => None,
        };
        self.check_may_look(ctx, Some(target), project_domain.as_deref())
    }

    /// The roles that somebody has on something, directly.
    pub async fn granted_roles(
        &self,
        ctx: &RequestContext,
        actor: &Actor,
        target: &Target,
    ) -> Result<Vec<role::Model>, Fault> {
        self.check_may_look_at(ctx, target).await?;
        let actor_id = match actor {
            Actor::User(id) => self.find_user(id).await?.id,
            Actor::Group(id) => self.find_group(id).await?.id,
        };
        let (kind, target_id) = match target {
            Target::Project(id) => ("project", self.find_project(id).await?.id),
            Target::Domain(id) => ("domain", self.find_domain(id).await?.id),
            Target::System => ("system", SYSTEM.to_owned()),
        };
        let filter = assignments::Filter {
            actors: Some(vec![actor_id]),
            target_kind: Some(kind),
            targets: Some(vec![target_id]),
            role_id: None,
        };
        let rows = assignments::list(self.db.read(), &filter).await?;
        let all = self.roles_by_id().await?;
        Ok(rows
            .iter()
            .filter_map(|row| all.get(&row.role_id).cloned())
            .collect())
    }

    /// Assignments. Readers of a domain see those on the domain and its
    /// projects; everybody sees their own.
    pub async fn list_assignments(
        &self,
        ctx: &RequestContext,
        query: &AssignmentQuery,
    ) -> Result<Vec<AssignmentView>, Fault> {
        let stored =
            |id: &Option<String>| id.as_deref().map(|id| ids::stored(id).unwrap_or_default());
        let (user, group) = (stored(&query.user_id), stored(&query.group_id));
        let own = user.as_deref() == Some(ctx.user_id.to_string().as_str());
        let system_reader = policy::is_system_reader(ctx);
        if !system_reader && !own {
            let domain = ctx.domain_id.ok_or_else(policy::refused)?;
            policy::require_domain_reader(ctx, domain)?;
        }
        if query.effective && group.is_some() {
            return Err(Fault::invalid(
                "Effective assignments are those of users; they cannot be filtered by a group.",
            ));
        }

        let actors = match (&user, &group) {
            (Some(user), _) if query.effective => Some(self.actors(user).await?),
            (Some(user), _) => Some(vec![user.clone()]),
            (None, Some(group)) => Some(vec![group.clone()]),
            (None, None) => None,
        };
        let (target_kind, targets) = match (&query.project_id, &query.domain_id, query.system) {
            (Some(_), _, _) => (
                Some("project"),
                stored(&query.project_id).map(|id| vec![id]),
            ),
            (None, Some(_), _) => (Some("domain"), stored(&query.domain_id).map(|id| vec![id])),
            (None, None, true) => (Some("system"), None),
            (None, None, false) => (None, None),
        };
        let role = stored(&query.role_id);
        let filter = assignments::Filter {
            actors,
            target_kind,
            targets,
            // An implied role is found by the role that implies it.
            role_id: if query.effective { None } else { role.clone() },
        };
        let rows = assignments::list(self.db.read(), &filter).await?;
        let roles = self.roles_by_id().await?;
        let mut raw = rows.into_iter().map(direct).collect::<Vec<_>>();
        if query.effective {
            raw = self.dissolve_groups(raw, user.as_deref()).await?;
            raw = with_implied(raw, &roles);
            raw.retain(|raw| role.as_ref().is_none_or(|role| *role == raw.row.role_id));
        }
        let mut views = self.describe(raw, &roles).await?;
        if !system_reader && !own {
            let domain = ctx.domain_id.map(|id| id.to_string()).unwrap_or_default();
            views.retain(|view| {
                view.domain.as_ref().is_some_and(|row| row.id == domain)
                    || view
                        .project
                        .as_ref()
                        .is_some_and(|row| row.domain_id == domain)
            });
        }
        Ok(views)
    }

    async fn dissolve_groups(&self, raw: Vec<Raw>, only: Option<&str>) -> Result<Vec<Raw>, Fault> {
        let wanted: BTreeSet<String> = raw.iter().filter_map(|raw| raw.group_id.clone()).collect();
        let wanted: Vec<String> = wanted.into_iter().collect();
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for member in groups::members(self.db.read(), &wanted).await? {
            members
                .entry(member.group_id)
                .or_default()
                .push(member.user_id);
        }
        let mut out = Vec::new();
        for raw in raw {
            let Some(group) = &raw.group_id else {
                out.push(raw);
                continue;
            };
            for user in members.get(group).into_iter().flatten() {
                if only.is_none_or(|only| only == user) {
                    out.push(Raw {
                        user_id: Some(user.clone()),
                        ..raw.clone()
                    });
                }
            }
        }
        Ok(out)
    }

    async fn describe(
        &self,
        raw: Vec<Raw>,
        roles: &BTreeMap<String, role::Model>,
    ) -> Result<Vec<AssignmentView>, Fault> {
        let db = self.db.read();
        let all = Page::default();
        let collect = |pick: &dyn Fn(&Raw) -> Option<String>| -> Vec<String> {
            let found: BTreeSet<String> = raw.iter().filter_map(pick).collect();
            found.into_iter().collect()
        };
        let on = |kind: &'static str| {
            move |raw: &Raw| (raw.row.target_kind == kind).then(|| raw.row.target_id.clone())
        };
        let filter = users::Filter {
            ids: Some(collect(&|raw| raw.user_id.clone())),
            ..users::Filter::default()
        };
        let users = by_id(users::list(db, &filter, &all).await?, |row| &row.id);
        let filter = groups::Filter {
            ids: Some(collect(&|raw| raw.group_id.clone())),
            ..groups::Filter::default()
        };
        let groups = by_id(groups::list(db, &filter, &all).await?, |row| &row.id);
        let filter = projects::Filter {
            ids: Some(collect(&on("project"))),
            ..projects::Filter::default()
        };
        let projects = by_id(projects::list(db, &filter, &all).await?, |row| &row.id);
        let filter = domains::Filter {
            ids: Some(collect(&on("domain"))),
            ..domains::Filter::default()
        };
        let domains = by_id(domains::list(db, &filter, &all).await?, |row| &row.id);
        Ok(raw
            .into_iter()
            .filter_map(|raw| {
                Some(AssignmentView {
                    role: roles.get(&raw.row.role_id)?.clone(),
                    prior_role: raw.prior,
                    user: raw.user_id.and_then(|id| users.get(&id).cloned()),
                    group: raw.group_id.and_then(|id| groups.get(&id).cloned()),
                    project: projects.get(&raw.row.target_id).cloned(),
                    domain: domains.get(&raw.row.target_id).cloned(),
                })
            })
            .collect())
    }
}

fn by_id<T>(rows: Vec<T>, id: impl Fn(&T) -> &String) -> BTreeMap<String, T> {
    rows.into_iter()
        .map(|row| (id(&row).clone(), row))
        .collect()
}

fn direct(row: assignment::Model) -> Raw {
    let is_group = row.actor_kind == "group";
    Raw {
        user_id: (!is_group).then(|| row.actor_id.clone()),
        group_id: is_group.then(|| row.actor_id.clone()),
        prior: None,
        row,
    }
}

fn with_implied(raw: Vec<Raw>, roles: &BTreeMap<String, role::Model>) -> Vec<Raw> {
    let by_name: BTreeMap<&str, &String> = roles
        .values()
        .map(|role| (role.name.as_str(), &role.id))
        .collect();
    let mut out = Vec::new();
    for raw in raw {
        let name = roles.get(&raw.row.role_id).map(|role| role.name.as_str());
        let below: Vec<Raw> = implied(name.unwrap_or_default())
            .iter()
            .filter_map(|name| by_name.get(name))
            .map(|id| Raw {
                prior: Some(raw.row.role_id.clone()),
                row: assignment::Model {
                    role_id: (*id).clone(),
                    ..raw.row.clone()
                },
                ..raw.clone()
            })
            .collect();
        out.push(raw);
        out.extend(below);
    }
    out
}

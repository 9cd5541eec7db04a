//! What a scope grants: the roles that somebody has on a project, a domain or
//! the system, by themselves and through groups.

use std::collections::{BTreeMap, BTreeSet};

use yakumo_auth::policy;
use yakumo_types::{Fault, RequestContext};

use super::App;
use crate::store::assignments::{self, SYSTEM};
use crate::store::entity::{assignment, domain, project, role};
use crate::store::{Page, domains, groups, projects, roles};

/// Roles that a role brings along: admin can do what members can, and members
/// what readers can.
pub(crate) fn implied(name: &str) -> &'static [&'static str] {
    match name {
        "admin" => &["member", "reader"],
        "member" => &["reader"],
        _ => &[],
    }
}

impl App {
    /// The user and the groups that it is in.
    pub(crate) async fn actors(&self, user_id: &str) -> Result<Vec<String>, Fault> {
        let mut actors = groups::of_user(self.db.read(), user_id).await?;
        actors.push(user_id.to_owned());
        Ok(actors)
    }

    /// All roles by id; there are few.
    pub(crate) async fn roles_by_id(&self) -> Result<BTreeMap<String, role::Model>, Fault> {
        let all = roles::list(self.db.read(), None, &Page::default()).await?;
        Ok(all
            .into_iter()
            .map(|role| (role.id.clone(), role))
            .collect())
    }

    /// The roles of a user on a target, with those that they imply, by name.
    pub(crate) async fn roles_on(
        &self,
        user_id: &str,
        kind: &'static str,
        target_id: &str,
    ) -> Result<Vec<role::Model>, Fault> {
        let filter = assignments::Filter {
            actors: Some(self.actors(user_id).await?),
            target_kind: Some(kind),
            targets: Some(vec![target_id.to_owned()]),
            role_id: None,
        };
        let assigned = assignments::list(self.db.read(), &filter).await?;
        if assigned.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.roles_by_id().await?;
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for assignment in &assigned {
            if let Some(role) = all.get(&assignment.role_id) {
                names.insert(&role.name);
                names.extend(implied(&role.name));
            }
        }
        let mut found: Vec<role::Model> = all
            .values()
            .filter(|role| names.contains(role.name.as_str()))
            .cloned()
            .collect();
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    async fn assignments_of(
        &self,
        user_id: &str,
        kind: &'static str,
    ) -> Result<Vec<assignment::Model>, Fault> {
        let filter = assignments::Filter {
            actors: Some(self.actors(user_id).await?),
            target_kind: Some(kind),
            ..assignments::Filter::default()
        };
        Ok(assignments::list(self.db.read(), &filter).await?)
    }

    /// The projects that a user can have tokens for.
    pub async fn projects_of_user(&self, user_id: &str) -> Result<Vec<project::Model>, Fault> {
        let assigned = self.assignments_of(user_id, "project").await?;
        let wanted: BTreeSet<String> = assigned.into_iter().map(|row| row.target_id).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let filter = projects::Filter {
            ids: Some(wanted.into_iter().collect()),
            enabled: Some(true),
            ..projects::Filter::default()
        };
        let found = projects::list(self.db.read(), &filter, &Page::default()).await?;
        let open = self
            .open_domains(found.iter().map(|row| &row.domain_id))
            .await?;
        Ok(found
            .into_iter()
            .filter(|row| open.contains(&row.domain_id))
            .collect())
    }

    async fn open_domains(
        &self,
        ids: impl Iterator<Item = &String>,
    ) -> Result<BTreeSet<String>, Fault> {
        let wanted: BTreeSet<String> = ids.cloned().collect();
        let filter = domains::Filter {
            ids: Some(wanted.into_iter().collect()),
            enabled: Some(true),
            name: None,
        };
        let found = domains::list(self.db.read(), &filter, &Page::default()).await?;
        Ok(found.into_iter().map(|row| row.id).collect())
    }

    /// The projects that the caller can have tokens for.
    pub async fn my_projects(&self, ctx: &RequestContext) -> Result<Vec<project::Model>, Fault> {
        self.projects_of_user(&ctx.user_id.to_string()).await
    }

    /// The domains that the caller can have tokens for.
    pub async fn my_domains(&self, ctx: &RequestContext) -> Result<Vec<domain::Model>, Fault> {
        let assigned = self
            .assignments_of(&ctx.user_id.to_string(), "domain")
            .await?;
        let wanted: BTreeSet<String> = assigned.into_iter().map(|row| row.target_id).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let filter = domains::Filter {
            ids: Some(wanted.into_iter().collect()),
            enabled: Some(true),
            name: None,
        };
        Ok(domains::list(self.db.read(), &filter, &Page::default()).await?)
    }

    /// Whether the caller can have a token for the system.
    pub async fn my_system(&self, ctx: &RequestContext) -> Result<bool, Fault> {
        let roles = self
            .roles_on(&ctx.user_id.to_string(), "system", SYSTEM)
            .await?;
        Ok(!roles.is_empty())
    }

    /// The projects of any user, for that user and for those who may look.
    pub async fn user_projects(
        &self,
        ctx: &RequestContext,
        user_id: &str,
    ) -> Result<Vec<project::Model>, Fault> {
        let user = self.show_user(ctx, user_id).await?;
        self.projects_of_user(&user.id).await
    }
}

impl App {
    /// Which roles bring along which others.
    pub async fn list_inferences(
        &self,
        ctx: &RequestContext,
    ) -> Result<Vec<(role::Model, Vec<role::Model>)>, Fault> {
        policy::require_system_reader(ctx)?;
        let all: Vec<role::Model> = self.roles_by_id().await?.into_values().collect();
        Ok(all
            .iter()
            .filter(|role| !implied(&role.name).is_empty())
            .map(|role| {
                let below = all
                    .iter()
                    .filter(|other| implied(&role.name).contains(&other.name.as_str()))
                    .cloned()
                    .collect();
                (role.clone(), below)
            })
            .collect())
    }

    /// The names of all domains by id.
    pub async fn domain_names(&self) -> Result<BTreeMap<String, String>, Fault> {
        let all = domains::list(
            self.db.read(),
            &domains::Filter::default(),
            &Page::default(),
        )
        .await?;
        Ok(all.into_iter().map(|row| (row.id, row.name)).collect())
    }
}

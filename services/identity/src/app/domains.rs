//! Domains.

use yakumo_auth::{RevocationKind, policy};
use yakumo_db::idempotency::gone;
use yakumo_types::{DomainId, Fault, IdempotencyKey, RequestContext};

use super::{App, Listing, description, ids, listing, lookahead, missing, name, taken};
use crate::store::entity::domain;
use crate::store::{Page, assignments, domains, groups, projects, revocations, users};

/// A new domain.
#[derive(Debug, Clone, Default)]
pub struct NewDomain {
    /// Unique.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Whether anybody gets in.
    pub enabled: bool,
}

/// What to change about a domain.
#[derive(Debug, Clone, Default)]
pub struct DomainChange {
    /// Unique.
    pub name: Option<String>,
    /// May be empty.
    pub description: Option<String>,
    /// Disabling takes back every token that has to do with it.
    pub enabled: Option<bool>,
}

impl App {
    pub(crate) async fn find_domain(&self, id: &str) -> Result<domain::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => domains::find(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("domain", id))
    }

    /// A new domain.
    pub async fn create_domain(
        &self,
        ctx: &RequestContext,
        new: NewDomain,
        key: Option<&IdempotencyKey>,
    ) -> Result<domain::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_domain", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_domain(&id).await.map_err(gone);
        }
        let row = domain::Model {
            id: self.env.id::<DomainId>().to_string(),
            name: name(&new.name, 64)?,
            description: description(&new.description)?,
            enabled: new.enabled,
        };
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    domains::insert(txn, row).await
                })
            })
            .await
            .map_err(|error| taken(error, "domain", &row.name))?;
        Ok(row)
    }

    /// A domain; for those whose token has to do with it and those who may look.
    pub async fn show_domain(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<domain::Model, Fault> {
        let own = [ctx.domain_id, ctx.project_domain_id, ctx.user_domain_id];
        let wanted = ids::stored(id);
        let is_own = own
            .iter()
            .flatten()
            .any(|domain| Some(domain.to_string()) == wanted);
        if !is_own {
            policy::require_system_reader(ctx)?;
        }
        self.find_domain(id).await
    }

    /// Domains. Whoever may not look at all of them sees the own ones.
    pub async fn list_domains(
        &self,
        ctx: &RequestContext,
        mut filter: domains::Filter,
        page: &Page,
    ) -> Result<Listing<domain::Model>, Fault> {
        if !policy::is_system_reader(ctx) {
            let own = ctx.domain_id.ok_or_else(policy::refused)?;
            policy::require_domain_reader(ctx, own)?;
            filter.ids = Some(vec![own.to_string()]);
        }
        let rows = domains::list(self.db.read(), &filter, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a domain.
    pub async fn update_domain(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: DomainChange,
    ) -> Result<domain::Model, Fault> {
        ctx.require_admin()?;
        let old = self.find_domain(id).await?;
        let mut row = old.clone();
        if let Some(text) = &change.name {
            row.name = name(text, 64)?;
        }
        if let Some(text) = &change.description {
            row.description = description(text)?;
        }
        let mut kinds = Vec::new();
        if let Some(enabled) = change.enabled {
            if row.enabled && !enabled {
                kinds.push(RevocationKind::Domain(ids::typed(&row.id)));
            }
            row.enabled = enabled;
        }
        let revoke = !kinds.is_empty();
        let (name, end) = (row.name.clone(), self.revocation_end());
        let stored = self
            .db
            .write(move |txn| {
                let (old, row, kinds) = (old.clone(), row.clone(), kinds.clone());
                Box::pin(async move {
                    let stored = domains::update(txn, &old, row).await?;
                    revocations::append(txn, &kinds, end).await?;
                    Ok(stored)
                })
            })
            .await
            .map_err(|error| taken(error, "domain", &name))?;
        if revoke {
            self.announce_revocations().await;
        }
        Ok(stored)
    }

    /// Removes a disabled domain with all its users, groups and projects.
    pub async fn delete_domain(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_domain(id).await?;
        if row.id == ids::DEFAULT_DOMAIN {
            return Err(Fault::forbidden("The default domain cannot be removed."));
        }
        if row.enabled {
            return Err(Fault::forbidden(
                "A domain that is enabled cannot be removed; disable it first.",
            ));
        }
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move {
                    let all = Page::default();
                    let in_domain = projects::Filter {
                        domain_id: Some(id.clone()),
                        ..projects::Filter::default()
                    };
                    for project in projects::list(txn, &in_domain, &all).await? {
                        assignments::delete_on_target(txn, "project", &project.id).await?;
                    }
                    let in_domain = users::Filter {
                        domain_id: Some(id.clone()),
                        ..users::Filter::default()
                    };
                    for user in users::list(txn, &in_domain, &all).await? {
                        assignments::delete_of_actor(txn, &user.id).await?;
                    }
                    let in_domain = groups::Filter {
                        domain_id: Some(id.clone()),
                        ..groups::Filter::default()
                    };
                    for group in groups::list(txn, &in_domain, &all).await? {
                        assignments::delete_of_actor(txn, &group.id).await?;
                    }
                    assignments::delete_on_target(txn, "domain", &id).await?;
                    domains::delete_with_contents(txn, &id).await?;
                    let kinds = [RevocationKind::Domain(ids::typed(&id))];
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }
}

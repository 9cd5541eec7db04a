//! Roles.

use yakumo_auth::{RevocationKind, policy};
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, IdempotencyKey, RequestContext, RoleId};

use super::{
    App, FIXED_ROLES, Listing, description, ids, listing, lookahead, missing, name, taken,
};
use crate::store::entity::role;
use crate::store::{Page, revocations, roles};

/// What to change about a role.
#[derive(Debug, Clone, Default)]
pub struct RoleChange {
    /// Unique.
    pub name: Option<String>,
    /// May be empty.
    pub description: Option<String>,
}

fn check_not_fixed(row: &role::Model) -> Result<(), Fault> {
    if FIXED_ROLES.contains(&row.name.as_str()) {
        return Err(Fault::forbidden(format!(
            "The role {} is immutable: the policy rests on it.",
            row.name
        )));
    }
    Ok(())
}

impl App {
    pub(crate) async fn find_role(&self, id: &str) -> Result<role::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => roles::find(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("role", id))
    }

    /// A new role.
    pub async fn create_role(
        &self,
        ctx: &RequestContext,
        text: &str,
        about: &str,
        key: Option<&IdempotencyKey>,
    ) -> Result<role::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_role", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_role(&id).await.map_err(gone);
        }
        let row = role::Model {
            id: self.env.id::<RoleId>().to_string(),
            name: name(text, 255)?,
            description: description(about)?,
        };
        // The policy reads role names without regard to case.
        if FIXED_ROLES.contains(&row.name.to_lowercase().as_str()) {
            return Err(Fault::conflict(format!(
                "There is a role {:?} already.",
                row.name
            )));
        }
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    roles::insert(txn, row).await
                })
            })
            .await
            .map_err(|error| taken(error, "role", &row.name))?;
        Ok(row)
    }

    /// A role.
    pub async fn show_role(&self, ctx: &RequestContext, id: &str) -> Result<role::Model, Fault> {
        if ctx.domain_id.is_none() {
            policy::require_system_reader(ctx)?;
        }
        self.find_role(id).await
    }

    /// Roles.
    pub async fn list_roles(
        &self,
        ctx: &RequestContext,
        name: Option<&str>,
        page: &Page,
    ) -> Result<Listing<role::Model>, Fault> {
        if ctx.domain_id.is_none() {
            policy::require_system_reader(ctx)?;
        }
        let rows = roles::list(self.db.read(), name, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a role. Another name takes back the tokens that carry the old one.
    pub async fn update_role(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: RoleChange,
    ) -> Result<role::Model, Fault> {
        ctx.require_admin()?;
        let mut row = self.find_role(id).await?;
        let mut kinds = Vec::new();
        if let Some(text) = &change.name {
            let new = name(text, 255)?;
            if new != row.name {
                check_not_fixed(&row)?;
                if FIXED_ROLES.contains(&new.to_lowercase().as_str()) {
                    return Err(Fault::conflict(format!("There is a role {new:?} already.")));
                }
                kinds.push(RevocationKind::Role(row.name.clone()));
                row.name = new;
            }
        }
        if let Some(text) = &change.description {
            row.description = description(text)?;
        }
        let revoke = !kinds.is_empty();
        let (new, end) = (row.clone(), self.revocation_end());
        self.db
            .write(move |txn| {
                let (row, kinds) = (new.clone(), kinds.clone());
                Box::pin(async move {
                    roles::update(txn, row).await?;
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await
            .map_err(|error| taken(error, "role", &row.name))?;
        if revoke {
            self.announce_revocations().await;
        }
        Ok(row)
    }

    /// Removes a role from everybody.
    pub async fn delete_role(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_role(id).await?;
        check_not_fixed(&row)?;
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move {
                    roles::delete(txn, &row.id).await?;
                    revocations::append(txn, &[RevocationKind::Role(row.name)], end).await
                })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }
}

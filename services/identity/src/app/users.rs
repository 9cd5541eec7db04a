//! Users.

use yakumo_auth::{RevocationKind, policy};
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, FaultCode, IdempotencyKey, RequestContext, UserId};

use super::{App, Listing, description, ids, listing, lookahead, missing, name, taken};
use crate::store::entity::user;
use crate::store::{Page, assignments, domains, projects, revocations, users};

/// A new user.
#[derive(Clone, Default)]
pub struct NewUser {
    /// Unique within the domain.
    pub name: String,
    /// The caller's domain if nothing.
    pub domain_id: Option<String>,
    /// Without one the user cannot log in.
    pub password: Option<String>,
    /// May be empty.
    pub description: String,
    /// May be empty.
    pub email: String,
    /// Whether it gets tokens.
    pub enabled: bool,
    /// The project of tokens that name none.
    pub default_project_id: Option<String>,
}

/// What to change about a user.
#[derive(Clone, Default)]
pub struct UserChange {
    /// Unique within the domain.
    pub name: Option<String>,
    /// Takes back all tokens.
    pub password: Option<String>,
    /// May be empty.
    pub description: Option<String>,
    /// May be empty.
    pub email: Option<String>,
    /// Disabling takes back all tokens.
    pub enabled: Option<bool>,
    /// The project of tokens that name none; the inner nothing takes it away.
    pub default_project_id: Option<Option<String>>,
    /// Must be what it is, if given.
    pub domain_id: Option<String>,
}

fn check_email(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Ok(String::new());
    }
    Ok(yakumo_types::check_name("email", text, 255)?.to_owned())
}

impl App {
    /// What was looked for, if the caller may look into the domain that it is
    /// in. To a reader of one domain, what is not there at all must look like
    /// what is in another domain: both are refused.
    pub(crate) fn seen<T>(
        ctx: &RequestContext,
        found: Result<T, Fault>,
        domain: impl Fn(&T) -> &str,
    ) -> Result<T, Fault> {
        if policy::is_system_reader(ctx) {
            return found;
        }
        match found {
            Ok(found) => {
                policy::require_domain_reader(ctx, ids::typed(domain(&found)))?;
                Ok(found)
            }
            Err(fault) if fault.code == FaultCode::NotFound => Err(policy::refused()),
            Err(fault) => Err(fault),
        }
    }

    pub(crate) async fn find_user(&self, id: &str) -> Result<user::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => users::find(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("user", id))
    }

    /// The domain that a new thing lives in: the one named, the one of the
    /// caller's scope, or the default one.
    pub(crate) async fn home_domain(
        &self,
        ctx: &RequestContext,
        named: Option<&str>,
    ) -> Result<String, Fault> {
        let id = match named {
            Some(text) => {
                let found = match ids::stored(text) {
                    Some(id) => domains::find(self.db.read(), &id).await?,
                    None => None,
                };
                return Ok(found.ok_or_else(|| missing("domain", text))?.id);
            }
            None => ctx.domain_id.or(ctx.project_domain_id),
        };
        Ok(id.map_or_else(|| ids::DEFAULT_DOMAIN.to_owned(), |id| id.to_string()))
    }

    async fn default_project(&self, id: &str) -> Result<String, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => projects::find(self.db.read(), &stored).await?,
            None => None,
        };
        Ok(found
            .ok_or_else(|| {
                Fault::invalid("Invalid input for default_project_id: no such project.")
            })?
            .id)
    }

    /// A new user.
    pub async fn create_user(
        &self,
        ctx: &RequestContext,
        new: NewUser,
        key: Option<&IdempotencyKey>,
    ) -> Result<user::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_user", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_user(&id).await.map_err(gone);
        }
        let default_project_id = match &new.default_project_id {
            Some(id) => Some(self.default_project(id).await?),
            None => None,
        };
        let mut row = user::Model {
            id: self.env.id::<UserId>().to_string(),
            domain_id: self.home_domain(ctx, new.domain_id.as_deref()).await?,
            name: name(&new.name, 255)?,
            description: description(&new.description)?,
            email: check_email(&new.email)?,
            enabled: new.enabled,
            default_project_id,
            password_hash: None,
            password_created_at: 0,
        };
        if let Some(password) = &new.password {
            row.password_hash = Some(self.passwords.hash(password).await?);
            row.password_created_at = self.now().as_micros();
        }
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    users::insert(txn, row).await
                })
            })
            .await
            .map_err(|error| taken(error, "user", &row.name))?;
        Ok(row)
    }

    /// A user; for itself and for those who may look.
    pub async fn show_user(&self, ctx: &RequestContext, id: &str) -> Result<user::Model, Fault> {
        if ids::stored(id) == Some(ctx.user_id.to_string()) {
            return self.find_user(id).await;
        }
        Self::seen(ctx, self.find_user(id).await, |user| &user.domain_id)
    }

    /// Users. Readers of a domain see that domain's.
    pub async fn list_users(
        &self,
        ctx: &RequestContext,
        mut filter: users::Filter,
        page: &Page,
    ) -> Result<Listing<user::Model>, Fault> {
        filter.domain_id = self.visible_domain(ctx, filter.domain_id)?;
        let rows = users::list(self.db.read(), &filter, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// The domain to cut a listing down to: everything for readers of the
    /// system, their own for readers of a domain.
    pub(crate) fn visible_domain(
        &self,
        ctx: &RequestContext,
        wanted: Option<String>,
    ) -> Result<Option<String>, Fault> {
        let wanted = wanted.map(|text| ids::stored(&text).unwrap_or_default());
        if policy::is_system_reader(ctx) {
            return Ok(wanted);
        }
        let own = ctx.domain_id.ok_or_else(policy::refused)?;
        policy::require_domain_reader(ctx, own)?;
        let own = own.to_string();
        match wanted {
            Some(domain) if domain != own => Err(policy::refused()),
            _ => Ok(Some(own)),
        }
    }

    /// Changes a user.
    pub async fn update_user(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: UserChange,
    ) -> Result<user::Model, Fault> {
        ctx.require_admin()?;
        let old = self.find_user(id).await?;
        let mut row = old.clone();
        if let Some(domain) = &change.domain_id
            && ids::stored(domain).as_ref() != Some(&row.domain_id)
        {
            return Err(Fault::invalid("A user cannot move to another domain."));
        }
        let mut revoke = false;
        if let Some(text) = &change.name {
            row.name = name(text, 255)?;
        }
        if let Some(text) = &change.description {
            row.description = description(text)?;
        }
        if let Some(text) = &change.email {
            row.email = check_email(text)?;
        }
        if let Some(project) = change.default_project_id {
            row.default_project_id = match project {
                Some(id) => Some(self.default_project(&id).await?),
                None => None,
            };
        }
        if let Some(enabled) = change.enabled {
            revoke |= row.enabled && !enabled;
            row.enabled = enabled;
        }
        if let Some(password) = &change.password {
            row.password_hash = Some(self.passwords.hash(password).await?);
            row.password_created_at = self.now().as_micros();
            revoke = true;
        }
        let kinds = if revoke {
            vec![RevocationKind::User(ids::typed(&row.id))]
        } else {
            Vec::new()
        };
        let (name, end) = (row.name.clone(), self.revocation_end());
        let stored = self
            .db
            .write(move |txn| {
                let (old, row, kinds) = (old.clone(), row.clone(), kinds.clone());
                Box::pin(async move {
                    let stored = users::update(txn, &old, row).await?;
                    revocations::append(txn, &kinds, end).await?;
                    Ok(stored)
                })
            })
            .await
            .map_err(|error| taken(error, "user", &name))?;
        if revoke {
            self.announce_revocations().await;
        }
        Ok(stored)
    }

    /// A user changes its own password, and proves to know the old one; no
    /// token is needed, so that one who is logged out everywhere can do so.
    ///
    /// Hashing takes a while. Whoever was disabled or got another password in
    /// the meantime is refused as if it had been so from the start.
    pub async fn change_password(&self, id: &str, original: &str, new: &str) -> Result<(), Fault> {
        let refused = || Fault::unauthorized("The request you have made requires authentication.");
        let found = match ids::stored(id) {
            Some(stored) => users::find(self.db.read(), &stored).await?,
            None => None,
        };
        let hash = found
            .as_ref()
            .and_then(|user| user.password_hash.as_deref());
        let right = self.passwords.verify(hash, original).await?;
        let Some(user) = found.filter(|user| right && user.enabled) else {
            return Err(refused());
        };
        if original == new {
            return Err(Fault::invalid(
                "The new password must differ from the old one.",
            ));
        }
        let proven = user.password_hash.unwrap_or_default();
        let hash = self.passwords.hash(new).await?;
        let (at, end) = (self.now().as_micros(), self.revocation_end());
        let changed = self
            .db
            .write(move |txn| {
                let (id, proven, hash) = (user.id.clone(), proven.clone(), hash.clone());
                Box::pin(async move {
                    users::change_password(txn, &id, &proven, &hash, at).await?;
                    let kinds = [RevocationKind::User(ids::typed(&id))];
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await;
        match changed {
            Err(DbError::Stale) => return Err(refused()),
            other => other?,
        }
        self.announce_revocations().await;
        Ok(())
    }

    /// Removes a user with everything that is its own.
    pub async fn delete_user(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_user(id).await?;
        let end = self.revocation_end();
        let gone = self
            .db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move {
                    assignments::delete_of_actor(txn, &id).await?;
                    users::delete(txn, &id).await?;
                    revocations::append(txn, &[RevocationKind::User(ids::typed(&id))], end).await
                })
            })
            .await;
        match gone {
            Err(DbError::NotFound) => return Err(missing("user", id)),
            other => other?,
        }
        self.announce_revocations().await;
        Ok(())
    }
}

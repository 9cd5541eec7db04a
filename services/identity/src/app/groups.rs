//! Groups. Whoever leaves a group loses the tokens that its roles may be in.

use yakumo_auth::RevocationKind;
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, GroupId, IdempotencyKey, RequestContext};

use super::{App, Listing, description, ids, listing, lookahead, missing, name, taken};
use crate::store::entity::{group, user};
use crate::store::{Page, assignments, groups, revocations, users};

/// A new group.
#[derive(Debug, Clone, Default)]
pub struct NewGroup {
    /// Unique within the domain.
    pub name: String,
    /// The caller's domain if nothing.
    pub domain_id: Option<String>,
    /// May be empty.
    pub description: String,
}

/// What to change about a group.
#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    /// Unique within the domain.
    pub name: Option<String>,
    /// May be empty.
    pub description: Option<String>,
}

impl App {
    pub(crate) async fn find_group(&self, id: &str) -> Result<group::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => groups::find(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("group", id))
    }

    /// A new group.
    pub async fn create_group(
        &self,
        ctx: &RequestContext,
        new: NewGroup,
        key: Option<&IdempotencyKey>,
    ) -> Result<group::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_group", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_group(&id).await.map_err(gone);
        }
        let row = group::Model {
            id: self.env.id::<GroupId>().to_string(),
            domain_id: self.home_domain(ctx, new.domain_id.as_deref()).await?,
            name: name(&new.name, 64)?,
            description: description(&new.description)?,
        };
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    groups::insert(txn, row).await
                })
            })
            .await
            .map_err(|error| taken(error, "group", &row.name))?;
        Ok(row)
    }

    /// A group.
    pub async fn show_group(&self, ctx: &RequestContext, id: &str) -> Result<group::Model, Fault> {
        Self::seen(ctx, self.find_group(id).await, |group| &group.domain_id)
    }

    /// Groups. Readers of a domain see that domain's.
    pub async fn list_groups(
        &self,
        ctx: &RequestContext,
        mut filter: groups::Filter,
        page: &Page,
    ) -> Result<Listing<group::Model>, Fault> {
        filter.domain_id = self.visible_domain(ctx, filter.domain_id)?;
        let rows = groups::list(self.db.read(), &filter, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// The groups of a user; for itself and for those who may look.
    pub async fn groups_of_user(
        &self,
        ctx: &RequestContext,
        user_id: &str,
    ) -> Result<Vec<group::Model>, Fault> {
        let user = self.show_user(ctx, user_id).await?;
        let found = groups::of_user(self.db.read(), &user.id).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let filter = groups::Filter {
            ids: Some(found),
            ..groups::Filter::default()
        };
        Ok(groups::list(self.db.read(), &filter, &Page::default()).await?)
    }

    /// The users of a group.
    pub async fn users_of_group(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<Vec<user::Model>, Fault> {
        let group = self.show_group(ctx, id).await?;
        let members = groups::members(self.db.read(), &[group.id]).await?;
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let filter = users::Filter {
            ids: Some(members.into_iter().map(|member| member.user_id).collect()),
            ..users::Filter::default()
        };
        Ok(users::list(self.db.read(), &filter, &Page::default()).await?)
    }

    /// Changes a group.
    pub async fn update_group(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: GroupChange,
    ) -> Result<group::Model, Fault> {
        ctx.require_admin()?;
        let old = self.find_group(id).await?;
        let mut row = old.clone();
        if let Some(text) = &change.name {
            row.name = name(text, 64)?;
        }
        if let Some(text) = &change.description {
            row.description = description(text)?;
        }
        let name = row.name.clone();
        self.db
            .write(move |txn| {
                let (old, row) = (old.clone(), row.clone());
                Box::pin(async move { groups::update(txn, &old, row).await })
            })
            .await
            .map_err(|error| taken(error, "group", &name))
    }

    /// Removes a group.
    pub async fn delete_group(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_group(id).await?;
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move {
                    let members = groups::members(txn, std::slice::from_ref(&id)).await?;
                    assignments::delete_of_actor(txn, &id).await?;
                    groups::delete(txn, &id).await?;
                    let kinds: Vec<RevocationKind> = members
                        .iter()
                        .map(|member| RevocationKind::User(ids::typed(&member.user_id)))
                        .collect();
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }

    /// Puts a user into a group.
    pub async fn add_to_group(
        &self,
        ctx: &RequestContext,
        group_id: &str,
        user_id: &str,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let group = self.find_group(group_id).await?;
        let user = self.find_user(user_id).await?;
        let added = self
            .db
            .write(move |txn| {
                let (group, user) = (group.id.clone(), user.id.clone());
                Box::pin(async move { groups::add_member(txn, &group, &user).await })
            })
            .await;
        match added {
            // Somebody else put it in at the same time.
            Err(DbError::Conflict { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Takes a user out of a group.
    pub async fn remove_from_group(
        &self,
        ctx: &RequestContext,
        group_id: &str,
        user_id: &str,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let group = self.find_group(group_id).await?;
        let user = self.find_user(user_id).await?;
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let (group, user) = (group.id.clone(), user.id.clone());
                Box::pin(async move {
                    groups::remove_member(txn, &group, &user).await?;
                    let kinds = [RevocationKind::User(ids::typed(&user))];
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await?;
        self.announce_revocations().await;
        Ok(())
    }

    /// Whether a user is in a group: 404 if not.
    pub async fn check_in_group(
        &self,
        ctx: &RequestContext,
        group_id: &str,
        user_id: &str,
    ) -> Result<(), Fault> {
        let group = self.show_group(ctx, group_id).await?;
        let user = self.find_user(user_id).await?;
        if groups::is_member(self.db.read(), &group.id, &user.id).await? {
            Ok(())
        } else {
            Err(Fault::not_found("The user is not in the group."))
        }
    }
}

//! Containers.

use yakumo_db::DbError;
use yakumo_types::{Fault, Role};

use super::acl::Acl;
use super::listing::{Entry, Query, collect};
use super::names::check_container;
use super::{Access, Caller, ObjectStore, metadata};
use crate::store::Metadata;
use crate::store::accounts;
use crate::store::containers::{self as rows, Container, Settings};
use crate::store::objects::{self, Object};

/// What a PUT or POST of a container says. ACLs that are not named stay.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Entries to set; an empty value removes.
    pub metadata: Metadata,
    /// Who may read.
    pub read_acl: Option<String>,
    /// Who may write.
    pub write_acl: Option<String>,
}

impl Changes {
    fn checked(mut self) -> Result<Self, Fault> {
        metadata::check_quotas(&self.metadata)?;
        if let Some(acl) = &mut self.read_acl {
            *acl = Acl::check_read(acl)?;
        }
        if let Some(acl) = &mut self.write_acl {
            *acl = Acl::check_write(acl)?;
        }
        Ok(self)
    }

    fn apply(&self, settings: &mut Settings) -> Result<(), DbError> {
        metadata::merge(&mut settings.metadata, &self.metadata)?;
        if let Some(acl) = &self.read_acl {
            settings.read_acl.clone_from(acl);
        }
        if let Some(acl) = &self.write_acl {
            settings.write_acl.clone_from(acl);
        }
        Ok(())
    }
}

fn not_found() -> Fault {
    Fault::not_found("The container could not be found.")
}

impl ObjectStore {
    /// The container, if it is there and the caller may do that with it.
    pub(super) async fn container_for(
        &self,
        caller: &Caller,
        name: &str,
        access: Access,
    ) -> Result<Container, Fault> {
        let found = match check_container(name) {
            Ok(()) => rows::find(&self.db, caller.account, name).await?,
            Err(_) => None,
        };
        caller.require_access(access, found.as_ref())?;
        found.ok_or_else(not_found)
    }

    /// The container's counters, metadata and ACLs.
    pub async fn show_container(&self, caller: &Caller, name: &str) -> Result<Container, Fault> {
        self.container_for(caller, name, Access::List).await
    }

    /// One page of the container's objects.
    pub async fn list_objects(
        &self,
        container: &Container,
        query: &Query,
    ) -> Result<Vec<Entry<Object>>, Fault> {
        let id = container.id.as_str();
        collect(
            query,
            |bounds, limit| async move { Ok(objects::list(&self.db, id, &bounds, limit).await?) },
            |object: &Object| object.name.as_str(),
        )
        .await
    }

    /// Makes a container, or changes the one that is there. Returns whether it
    /// is new.
    pub async fn put_container(
        &self,
        caller: &Caller,
        name: &str,
        changes: Changes,
    ) -> Result<bool, Fault> {
        caller.require_own(Role::Member)?;
        check_container(name)?;
        let changes = changes.checked()?;
        let mut settings = Settings::default();
        changes.apply(&mut settings)?;
        let env = &self.process.env;
        accounts::ensure(&self.db, caller.account, env.now()).await?;
        let made = rows::insert(
            &self.db,
            env.rng.uuid().to_string(),
            caller.account,
            name,
            &settings,
            self.config.max_containers,
            env.now(),
        );
        if rows::find(&self.db, caller.account, name).await?.is_none() {
            match made.await {
                Ok(()) => return Ok(true),
                // Somebody was first.
                Err(DbError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.change_container(caller, name, changes).await?;
        Ok(false)
    }

    /// Changes a container.
    pub async fn update_container(
        &self,
        caller: &Caller,
        name: &str,
        changes: Changes,
    ) -> Result<(), Fault> {
        caller.require_own(Role::Member)?;
        let changes = changes.checked()?;
        self.change_container(caller, name, changes).await
    }

    async fn change_container(
        &self,
        caller: &Caller,
        name: &str,
        changes: Changes,
    ) -> Result<(), Fault> {
        let container = self.container_for(caller, name, Access::Write).await?;
        let now = self.process.env.now();
        let changed = rows::update(&self.db, &container.id, now, move |settings| {
            changes.apply(settings)
        })
        .await;
        match changed {
            Err(DbError::NotFound) => Err(not_found()),
            other => Ok(other?),
        }
    }

    /// Removes an empty container; 409 if there are objects in it.
    pub async fn delete_container(&self, caller: &Caller, name: &str) -> Result<(), Fault> {
        caller.require_own(Role::Member)?;
        let container = self.container_for(caller, name, Access::Write).await?;
        match rows::delete(&self.db, &container.id).await {
            Ok(()) => Ok(()),
            Err(DbError::NotFound) => Err(not_found()),
            Err(DbError::ForeignKey { .. }) => {
                Err(Fault::conflict("There are objects in the container."))
            }
            Err(error) => Err(error.into()),
        }
    }
}

//! Accounts. One comes to be by itself when its project first stores something.

use yakumo_types::{Fault, Role};

use super::listing::{Entry, Query, collect};
use super::metadata;
use super::{Caller, ObjectStore};
use crate::store::Metadata;
use crate::store::accounts::{self as rows, Account};
use crate::store::containers::{self, Container};

impl ObjectStore {
    /// The account's counters and metadata.
    pub async fn show_account(&self, caller: &Caller) -> Result<Account, Fault> {
        caller.require_own(Role::Reader)?;
        Ok(rows::find(&self.db, caller.account).await?)
    }

    /// One page of the account's containers.
    pub async fn list_containers(
        &self,
        caller: &Caller,
        query: &Query,
    ) -> Result<Vec<Entry<Container>>, Fault> {
        caller.require_own(Role::Reader)?;
        collect(
            query,
            |bounds, limit| async move {
                Ok(containers::list(&self.db, caller.account, &bounds, limit).await?)
            },
            |container: &Container| container.name.as_str(),
        )
        .await
    }

    /// Sets metadata; an empty value removes.
    pub async fn update_account(&self, caller: &Caller, changes: Metadata) -> Result<(), Fault> {
        caller.require_own(Role::Member)?;
        metadata::check_quotas(&changes)?;
        let now = self.process.env.now();
        rows::ensure(&self.db, caller.account, now).await?;
        rows::update(&self.db, caller.account, move |metadata| {
            Ok(metadata::merge(metadata, &changes)?)
        })
        .await?;
        Ok(())
    }
}

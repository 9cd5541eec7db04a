//! Storage hosts that leave the cloud.

use yakumo_contracts::volume::ForgetStorageHostRequest;
use yakumo_db::DbError;
use yakumo_types::Fault;

use super::App;
use crate::store;

/// Ids that a refusal names at the most.
const NAMED: u64 = 5;

impl App {
    /// Forgets a storage host; whether it was known.
    ///
    /// # Errors
    /// `Conflict` while it keeps volumes.
    pub async fn forget_storage_host(
        &self,
        request: ForgetStorageHostRequest,
    ) -> Result<bool, Fault> {
        let forgotten = self
            .db
            .write(move |txn| {
                let (host, check_only) = (request.host.clone(), request.check_only);
                Box::pin(async move {
                    let (count, some) = store::volumes::kept_by(txn, &host, NAMED).await?;
                    if count > 0 {
                        let more = if count > NAMED { ", …" } else { "" };
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Host {host} still has volumes: {count} ({}{more}).",
                            some.join(", ")
                        ))));
                    }
                    if check_only {
                        let known = store::storage_hosts::find(txn, &host).await?;
                        return Ok(known.is_some());
                    }
                    store::storage_hosts::delete(txn, &host).await
                })
            })
            .await?;
        Ok(forgotten)
    }
}

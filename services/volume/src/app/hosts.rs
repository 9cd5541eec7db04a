//! Storage hosts that live, and those that leave the cloud.

use std::time::Duration;

use yakumo_contracts::volume::{ForgetStorageHostRequest, StorageHost};
use yakumo_db::DbError;
use yakumo_types::{Fault, HostId, Timestamp, check_name};

use super::App;
use crate::store;

/// Ids that a refusal names at the most.
const NAMED: u64 = 5;

/// Characters in the name of a zone.
const MAX_ZONE: usize = 64;

/// A storage host that was not heard for longer is down.
const FRESH: Duration = Duration::from_secs(60);

/// Whether a storage host that was heard at this time (microseconds) is up.
pub(crate) fn was_heard_lately(heard_at: i64, now: Timestamp) -> bool {
    now.apart(Timestamp::from_micros(heard_at)) <= FRESH
}

impl App {
    /// Takes in that a storage host lives, and what it says of itself.
    ///
    /// # Errors
    /// `Invalid` for what no table takes: hosts are written down together, and one
    /// must not keep the others from it.
    pub fn storage_host_lives(&self, host: StorageHost) -> Result<(), Fault> {
        let host_id: HostId = host
            .host_id
            .parse()
            .map_err(|_| Fault::invalid("The host's id must be a UUID."))?;
        let zone = check_name("The availability zone", &host.availability_zone, MAX_ZONE)?;
        let row = store::storage_host::Model {
            host: host.host,
            host_id: host_id.to_string(),
            availability_zone: zone.to_owned(),
            free_gib: i64::try_from(host.free_gib).unwrap_or(i64::MAX),
            reachable_everywhere: host.reachable_everywhere,
            total_gib: i64::try_from(host.total_gib).unwrap_or(i64::MAX),
            heard_at: self.env.now().as_micros(),
        };
        self.heard.add(row.host.clone(), row);
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Context as _, ensure};
    use yakumo_db::Backend;
    use yakumo_types::RequestContext;

    use crate::testing::World;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_is_said_to_be_alive_by_the_clock_and_not_by_other_hosts() -> anyhow::Result<()>
    {
        let world = World::without_host(Backend::Sqlite).await;
        let alive = async || -> anyhow::Result<bool> {
            let ctx = RequestContext::internal(world.app.env.id());
            let hosts = world.app.list_storage_hosts(&ctx).await?.hosts;
            ensure!(hosts.len() == 1, "{hosts:?}");
            let host = hosts.first().context("no host")?;
            host.alive.context("it is not said")
        };
        ensure!(alive().await?, "it was heard just now");
        world.forward(Duration::from_secs(120));
        ensure!(!alive().await?, "it is silent, and so is everybody");
        world.hear_host().await;
        ensure!(alive().await?, "it was heard again");
        // What a clock leaves that is put back.
        let ahead = world.app.env.now().plus(Duration::from_secs(3600));
        world.hear_host_at(ahead).await;
        ensure!(!alive().await?, "nobody knows when it was heard");
        Ok(())
    }
}

//! How a host leaves the cloud.
//!
//! Refused while anything lives on it, and while it is up and takes servers: as
//! with `openstack compute service delete`, what is there is dealt with first.
//! Then its broker user goes, so that a process that still runs there can say
//! nothing more, and after that what the services know of it. Stopped anywhere
//! on the way, it is done by asking again.

use yakumo_contracts::api::RemoveHostReply;
use yakumo_contracts::network::ForgetHostRequest;
use yakumo_contracts::scheduler::{HostChanged, HostView};
use yakumo_contracts::volume::ForgetStorageHostRequest;
use yakumo_db::DbError;
use yakumo_rpc::is_host_name;
use yakumo_types::Fault;

use super::App;
use crate::store::host_tokens;
use crate::store::hosts as store;
use crate::store::servers::{self, servers_on_host};

/// Ids that a refusal names at the most.
const NAMED: u64 = 5;

impl App {
    /// Forgets a host, whatever is known of it.
    ///
    /// # Errors
    /// `Conflict` while servers, volumes or ports are on it, and while it is up
    /// and enabled, or up and cannot be cut off from the broker.
    pub async fn host_remove(&self, name: &str) -> Result<RemoveHostReply, Fault> {
        if !is_host_name(name) {
            return Err(Fault::invalid(format!(
                "{name:.255} is no name for a host."
            )));
        }
        let now = yakumo_db::database_now(self.db.read()).await?;
        let row = store::host_fetch(self.db.read(), name).await?;
        if let Some(row) = &row
            && self.heard_lately(row.heard_at, now)
        {
            if row.enabled {
                return Err(Fault::conflict(format!(
                    "Host {name} is alive; stop its agent first, or disable it."
                )));
            }
            if self.joining.management().is_none() {
                // It would come back with its next word.
                return Err(Fault::conflict(format!(
                    "Host {name} is alive and cannot be cut off, because [bus.management] is \
                     not configured; stop its agent first."
                )));
            }
        }
        self.check_empty(name).await?;
        let context = self.internal();
        let mut was_known = row.is_some();
        // Both may refuse, so both are asked before anything is changed.
        for check_only in [true, false] {
            if !check_only {
                self.cut_off(name).await?;
            }
            self.passing_on.forget(name);
            let request = ForgetStorageHostRequest {
                host: name.to_owned(),
                check_only,
            };
            let storage = self
                .storage_hosts
                .forget_storage_host(&context, request)
                .await?;
            let request = ForgetHostRequest {
                host: name.to_owned(),
                check_only,
            };
            let network = self.network_hosts.forget_host(&context, request).await?;
            was_known |= storage.was_known || network.was_known;
        }
        was_known |= self.forget_rows(name).await?;
        self.hosts.forget(name);
        self.publish(HostChanged {
            host: Some(HostView {
                host: name.to_owned(),
                ..HostView::default()
            }),
            removed: true,
            refusal: false,
        });
        tracing::info!(host = name, was_known, "a host was removed");
        Ok(RemoveHostReply { was_known })
    }

    /// Ends what the host can say.
    async fn cut_off(&self, name: &str) -> Result<(), Fault> {
        let Some(management) = self.joining.management() else {
            return Ok(());
        };
        management.remove_host(name).await.map_err(|error| {
            tracing::error!(host = name, %error, "the broker user of a host could not be removed");
            Fault::unavailable(
                "The broker's management could not remove the host's user. Nothing else was \
                 removed: try again.",
            )
        })
    }

    async fn check_empty(&self, name: &str) -> Result<(), Fault> {
        let (count, some) = servers_on_host(self.db.read(), name, NAMED).await?;
        if count == 0 {
            return Ok(());
        }
        Err(still_has(name, count, "servers", &some))
    }

    async fn forget_rows(&self, name: &str) -> Result<bool, Fault> {
        let name = name.to_owned();
        let forgotten = self
            .db
            .write(move |txn| {
                let name = name.clone();
                Box::pin(async move {
                    if servers::host_has_servers_in(txn, &name).await? {
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Host {name} still has servers: one came just now."
                        ))));
                    }
                    let tokens = host_tokens::host_tokens_delete(txn, &name).await?;
                    match store::host_delete(txn, &name).await {
                        Ok(()) => Ok(true),
                        Err(DbError::NotFound) => Ok(tokens > 0),
                        Err(error) => Err(error),
                    }
                })
            })
            .await?;
        Ok(forgotten)
    }
}

fn still_has(host: &str, count: u64, what: &str, some: &[String]) -> Fault {
    let more = if count > some.len() as u64 {
        ", …"
    } else {
        ""
    };
    Fault::conflict(format!(
        "Host {host} still has {what}: {count} ({}{more}).",
        some.join(", ")
    ))
}

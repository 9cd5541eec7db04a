//! Compares every living storage host's own list with the rows, and removes
//! what nobody knows of: exports without an attachment, and files without a
//! volume. The other way round, a volume whose host does not have it goes into
//! error, and an attachment whose export is gone gets it back: the rows may be
//! those of an older back-up.
//!
//! Nothing is removed at first sight. What a deleted volume left goes after an
//! hour; what no row has ever known goes after a week, for the rows may be
//! those of an older back-up. Both are counted from when this process saw it
//! first. And a host refuses what is asked of it here once it has heard of
//! anything newer than its list.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use yakumo_contracts::common::{Fence, Page};
use yakumo_contracts::volume_host::{
    ExportRequest, KeptVolume, ListKeptRequest, UnexportRequest, VolumeHostClient, VolumeRequest,
};
use yakumo_db::DbError;
use yakumo_service::Reconciler;
use yakumo_types::{Fault, VolumeId};

use crate::app::{App, was_heard_lately};
use crate::store;

/// Hosts that are asked at the same time.
const AT_A_TIME: usize = 16;
/// Volumes in one page of a host's list.
const PORTION: u32 = 200;
/// How long a deleted volume's file, or an export without an attachment, stays.
const LEFT_AGE: Duration = Duration::from_secs(3600);
/// How long a file stays that no row has ever known.
const UNKNOWN_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A stray: the host, the volume, and the attachment if it is an export.
type Stray = (String, String, String);

pub(super) struct StorageHosts {
    app: Arc<App>,
    /// When each was seen first, on the monotonic clock.
    strays: Mutex<HashMap<Stray, Duration>>,
}

impl StorageHosts {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            strays: Mutex::default(),
        }
    }

    async fn compare(&self, host: &str) -> Result<(), Fault> {
        let client = self.app.storage(host)?;
        // Rows first: what is made while the host is asked is at worst on its
        // list and not among these.
        let mut missing = self.settled_on(host).await?;
        let mut still = HashSet::new();
        let mut marker = String::new();
        loop {
            let page = Page {
                limit: PORTION,
                marker,
            };
            let request = ListKeptRequest { page: Some(page) };
            let list = client.list_kept(&self.app.internal(), request).await?;
            for kept in &list.volumes {
                missing.remove(&kept.volume_id);
            }
            self.export_again(&client, host, &list.volumes).await?;
            for (kept, of) in self.judge(host, &list.volumes).await? {
                let stray = (
                    host.to_owned(),
                    kept.volume_id.clone(),
                    match of {
                        Left::Export => kept.attachment_id.clone(),
                        Left::File | Left::Unknown => String::new(),
                    },
                );
                still.insert(stray.clone());
                if self.is_due(stray, of) {
                    self.remove(&client, host, kept, of).await;
                }
            }
            match list.volumes.last() {
                Some(last) if list.more => marker = last.volume_id.clone(),
                _ => break,
            }
        }
        // What is known again, or gone, begins anew.
        self.strays()
            .retain(|stray, _| stray.0 != host || still.contains(stray));
        for row in missing.into_values() {
            self.lost(host, row).await?;
        }
        Ok(())
    }

    /// The volumes that a host should have whole, by id.
    async fn settled_on(&self, host: &str) -> Result<HashMap<String, store::volume::Model>, Fault> {
        let mut all = HashMap::new();
        let mut after = String::new();
        loop {
            let read = self.app.db.read();
            let rows = store::volumes::settled_on(read, host, &after, PORTION.into()).await?;
            let Some(last) = rows.last() else {
                return Ok(all);
            };
            after.clone_from(&last.id);
            all.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        }
    }

    /// A volume that its host does not have. One that a server holds is left
    /// to the server's owner.
    async fn lost(&self, host: &str, row: store::volume::Model) -> Result<(), Fault> {
        let Ok(id) = row.id.parse::<VolumeId>() else {
            return Ok(());
        };
        tracing::error!(
            volume = row.id,
            host,
            status = row.status,
            "a host lost a volume"
        );
        if row.status != "available" {
            return Ok(());
        }
        metrics::counter!("yakumo_volumes_lost_total").increment(1);
        let now = self.app.env.now();
        let failed = self.app.db.write(move |txn| {
            Box::pin(async move {
                store::volumes::transition(txn, id, &["available"], "error", now).await?;
                let why = "The volume's host does not have it any more; its data is lost.";
                store::volumes::fail(txn, id, "error", why, now).await
            })
        });
        match failed.await {
            // It moved after all.
            Ok(()) | Err(DbError::Stale) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Exports what an attachment holds and its host does not export. A host
    /// that has heard of anything newer than its list refuses that.
    async fn export_again(
        &self,
        client: &VolumeHostClient,
        host: &str,
        kept: &[KeptVolume],
    ) -> Result<(), Fault> {
        let idle: HashMap<&str, &KeptVolume> = kept
            .iter()
            .filter(|kept| kept.attachment_id.is_empty())
            .map(|kept| (kept.volume_id.as_str(), kept))
            .collect();
        let ids: Vec<String> = idle.keys().map(|id| (*id).to_owned()).collect();
        let attached = store::attachments::of_volumes(self.app.db.read(), &ids).await?;
        for row in attached.into_iter().filter(|row| row.status == "attached") {
            let Some(kept) = idle.get(row.volume_id.as_str()) else {
                continue;
            };
            tracing::warn!(volume = row.volume_id, host, "an attachment has no export");
            let request = ExportRequest {
                volume_id: row.volume_id.clone(),
                attachment_id: row.id,
                secret: row.secret,
                fence: Some(Fence {
                    workflow_id: String::new(),
                    step: "reconcile".into(),
                    epoch: kept.export_epoch,
                }),
            };
            if let Err(fault) = client.export(&self.app.internal(), request).await {
                tracing::warn!(volume = row.volume_id, host, %fault, "it has none for now");
            }
        }
        Ok(())
    }

    /// Those of a host's volumes that something is left of that should not be.
    async fn judge<'k>(
        &self,
        host: &str,
        kept: &'k [KeptVolume],
    ) -> Result<Vec<(&'k KeptVolume, Left)>, Fault> {
        let read = self.app.db.read();
        let ids: Vec<String> = kept.iter().map(|kept| kept.volume_id.clone()).collect();
        let rows: HashMap<String, store::volume::Model> = store::volumes::any_by_id(read, &ids)
            .await?
            .into_iter()
            .map(|row| (row.id.clone(), row))
            .collect();
        // After the list: an export is asked for when its row is there.
        let attached: HashSet<String> = store::attachments::of_volumes(read, &ids)
            .await?
            .into_iter()
            .map(|row| row.id)
            .collect();
        let mut left = Vec::new();
        for kept in kept {
            if !kept.attachment_id.is_empty() && !attached.contains(&kept.attachment_id) {
                left.push((kept, Left::Export));
                continue;
            }
            match rows.get(&kept.volume_id) {
                None => left.push((kept, Left::Unknown)),
                Some(row) if row.deleted_at != 0 => left.push((kept, Left::File)),
                Some(row) if row.host != host => {
                    tracing::error!(
                        volume = row.id,
                        host,
                        keeper = row.host,
                        "a host keeps a volume that is another one's"
                    );
                }
                Some(_) => {}
            }
        }
        Ok(left)
    }

    fn is_due(&self, stray: Stray, left: Left) -> bool {
        let now = self.app.env.clock.monotonic();
        let seen = *self.strays().entry(stray).or_insert(now);
        now.saturating_sub(seen) >= left.age()
    }

    async fn remove(&self, client: &VolumeHostClient, host: &str, kept: &KeptVolume, left: Left) {
        let context = self.app.internal();
        let fence = |epoch| {
            Some(Fence {
                workflow_id: String::new(),
                step: "reconcile".into(),
                epoch,
            })
        };
        let volume = kept.volume_id.clone();
        tracing::warn!(volume, host, ?left, "something is left on a storage host");
        let removed = match left {
            Left::Export => {
                let request = UnexportRequest {
                    volume_id: kept.volume_id.clone(),
                    attachment_id: kept.attachment_id.clone(),
                    fence: fence(kept.export_epoch),
                };
                client.unexport(&context, request).await
            }
            Left::File | Left::Unknown => {
                let request = VolumeRequest {
                    volume_id: kept.volume_id.clone(),
                    fence: fence(kept.epoch),
                };
                client.delete(&context, request).await
            }
        };
        match removed {
            Ok(_) => metrics::counter!("yakumo_volume_strays_removed_total").increment(1),
            Err(fault) => tracing::warn!(volume, host, %fault, "it stays for now"),
        }
    }

    fn strays(&self) -> std::sync::MutexGuard<'_, HashMap<Stray, Duration>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// An export without an attachment.
    Export,
    /// The file of a deleted volume.
    File,
    /// A file that no row has ever known.
    Unknown,
}

impl Left {
    const fn age(self) -> Duration {
        match self {
            Self::Export | Self::File => LEFT_AGE,
            Self::Unknown => UNKNOWN_AGE,
        }
    }
}

#[async_trait]
impl Reconciler for StorageHosts {
    fn name(&self) -> &'static str {
        "storage_hosts"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let now = self.app.env.now();
        let hosts = store::storage_hosts::list(self.app.db.read()).await?;
        let up = hosts
            .into_iter()
            .filter(|host| was_heard_lately(host.heard_at, now));
        futures::stream::iter(up)
            .for_each_concurrent(AT_A_TIME, |host| async move {
                if let Err(fault) = self.compare(&host.host).await {
                    // One host that does not answer must not hold up the others.
                    tracing::info!(host = host.host, %fault, "a storage host could not be compared");
                }
            })
            .await;
        Ok(())
    }
}

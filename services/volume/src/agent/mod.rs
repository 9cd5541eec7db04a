//! The storage agent: makes a host's files and exports be as the volume
//! service wants them, and mends what crashed or rebooted.
//!
//! Intent is written to the host's own disk before it is answered. After a
//! start, and every few seconds, a reconciler starts the exports that should
//! be there and are not. What was removed is remembered for a day, so that a
//! request that was overtaken by the removal finds out.

mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use yakumo_contracts::common::Empty;
use yakumo_contracts::volume::{StorageHost, StorageReportsClient};
use yakumo_contracts::volume_host::{
    CreateRequest, ExportReply, ExportRequest, KeptVolume, ListKeptReply, ListKeptRequest,
    ListReply, UnexportRequest, VolumeHostServer, VolumeRequest,
};
use yakumo_rpc::Incoming;
use yakumo_service::{Recognition, Reconciler, SharedBeat, Storage};
use yakumo_types::{AttachmentId, Env, Fault, RequestContext, VolumeId};

use crate::drivers::{Export, VolumeDriver, is_no_room};
pub use records::Records;
use records::{admit, admit_last};

/// How long a removed volume is remembered: longer than any message is on its
/// way, and any workflow lives.
const REMEMBER_REMOVED: Duration = Duration::from_secs(24 * 3600);

/// Volumes in one page of a list at the most.
const MAX_PAGE: usize = 1000;

/// The storage agent of one host.
pub struct Agent {
    env: Env,
    records: Records,
    driver: Arc<dyn VolumeDriver>,
}

impl Agent {
    /// An agent over what its folder remembers.
    pub fn new(env: Env, records: Records, driver: Arc<dyn VolumeDriver>) -> Self {
        Self {
            env,
            records,
            driver,
        }
    }
}

fn volume_id(text: &str) -> Result<VolumeId, Fault> {
    text.parse()
        .map_err(|error| Fault::invalid(format!("{error}.")))
}

fn attachment_id(text: &str) -> Result<AttachmentId, Fault> {
    text.parse()
        .map_err(|error| Fault::invalid(format!("{error}.")))
}

/// Waiting for room would keep the volume's owner waiting, too.
fn not_here(fault: Fault) -> Fault {
    if is_no_room(&fault) {
        return Fault::no_valid_host(fault.message);
    }
    fault
}

fn not_kept(volume: VolumeId) -> Fault {
    Fault::not_found(format!("This host does not keep volume {volume}."))
}

#[async_trait::async_trait]
impl VolumeHostServer for Agent {
    async fn create(&self, call: &Incoming, request: CreateRequest) -> Result<Empty, Fault> {
        from_control(call)?;
        let id = volume_id(&request.volume_id)?;
        let mut slot = self.records.lock(id).await;
        let mut record = slot.clone().unwrap_or_default();
        admit(&mut record.epoch, request.fence.as_ref())?;
        record.removed_at = 0;
        record.size_gib = request.size_gib;
        self.records.save(id, &record).await.map_err(not_here)?;
        *slot = Some(record);
        self.driver
            .create(id, request.size_gib)
            .await
            .map_err(not_here)?;
        Ok(Empty {})
    }

    async fn delete(&self, call: &Incoming, request: VolumeRequest) -> Result<Empty, Fault> {
        from_control(call)?;
        let id = volume_id(&request.volume_id)?;
        let mut slot = self.records.lock(id).await;
        let mut record = slot.clone().unwrap_or_default();
        let ended = record.is_tombstone();
        admit_last(&mut record.epoch, request.fence.as_ref(), ended)?;
        if record.export.is_some() {
            return Err(Fault::conflict("The volume is exported."));
        }
        if slot.is_some() {
            // Should this stop half way, it is still known who came last. A full
            // disk must not keep what is on it from being removed, though: the
            // removal makes the room for its own record.
            match self.records.save(id, &record).await {
                Ok(()) => *slot = Some(record.clone()),
                Err(fault) if is_no_room(&fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        self.driver.delete(id).await?;
        record.removed_at = self.env.now().as_micros();
        self.records.save_end(id, &record).await?;
        *slot = Some(record);
        Ok(Empty {})
    }

    async fn export(&self, call: &Incoming, request: ExportRequest) -> Result<ExportReply, Fault> {
        from_control(call)?;
        let id = volume_id(&request.volume_id)?;
        let export = Export {
            attachment_id: attachment_id(&request.attachment_id)?,
            secret: request.secret,
        };
        if export.secret.len() < 32
            || !export
                .secret
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(Fault::invalid(
                "The export's name must be 32 or more letters and digits.",
            ));
        }
        let mut slot = self.records.lock(id).await;
        let mut record = slot
            .clone()
            .filter(|record| !record.is_tombstone())
            .ok_or_else(|| not_kept(id))?;
        admit(&mut record.export_epoch, request.fence.as_ref())?;
        if record
            .export
            .as_ref()
            .is_some_and(|other| other.attachment_id != export.attachment_id)
        {
            return Err(Fault::conflict("Another attachment has the volume."));
        }
        record.export = Some(export.clone());
        self.records.save(id, &record).await?;
        *slot = Some(record);
        let socket = self.driver.export(id, &export).await?;
        Ok(ExportReply {
            nbd_socket: socket.display().to_string(),
        })
    }

    async fn unexport(&self, call: &Incoming, request: UnexportRequest) -> Result<Empty, Fault> {
        from_control(call)?;
        let id = volume_id(&request.volume_id)?;
        let attachment = attachment_id(&request.attachment_id)?;
        let mut slot = self.records.lock(id).await;
        let Some(mut record) = slot.clone().filter(|record| !record.is_tombstone()) else {
            return Ok(Empty {});
        };
        let ended = record.export.is_none();
        admit_last(&mut record.export_epoch, request.fence.as_ref(), ended)?;
        self.driver.unexport(id, attachment).await?;
        if record
            .export
            .as_ref()
            .is_some_and(|export| export.attachment_id == attachment)
        {
            record.export = None;
        }
        self.records.save_end(id, &record).await?;
        *slot = Some(record);
        Ok(Empty {})
    }

    async fn list(&self, call: &Incoming, _request: Empty) -> Result<ListReply, Fault> {
        from_control(call)?;
        let mut reply = ListReply::default();
        for (id, record) in self.records.all().await {
            reply.volume_ids.push(id.to_string());
            reply
                .exported_attachment_ids
                .extend(record.export.map(|export| export.attachment_id.to_string()));
        }
        Ok(reply)
    }

    async fn list_kept(
        &self,
        call: &Incoming,
        request: ListKeptRequest,
    ) -> Result<ListKeptReply, Fault> {
        from_control(call)?;
        let page = request.page.unwrap_or_default();
        let limit = match usize::try_from(page.limit).unwrap_or(MAX_PAGE) {
            0 => MAX_PAGE,
            limit => limit.min(MAX_PAGE),
        };
        let mut volumes: Vec<KeptVolume> = self
            .records
            .all()
            .await
            .into_iter()
            .map(|(id, record)| KeptVolume {
                volume_id: id.to_string(),
                epoch: record.epoch,
                attachment_id: record
                    .export
                    .map(|export| export.attachment_id.to_string())
                    .unwrap_or_default(),
                export_epoch: record.export_epoch,
            })
            .filter(|kept| kept.volume_id > page.marker)
            .collect();
        volumes.sort_by(|one, other| one.volume_id.cmp(&other.volume_id));
        let more = volumes.len() > limit;
        volumes.truncate(limit);
        Ok(ListKeptReply { volumes, more })
    }
}

/// A host's neighbour has no business here.
fn from_control(call: &Incoming) -> Result<(), Fault> {
    match &call.sender {
        yakumo_rpc::Principal::Control => Ok(()),
        yakumo_rpc::Principal::Host(host) => Err(Fault::forbidden(format!(
            "Host {host} may not command the storage of a host."
        ))),
    }
}

#[async_trait::async_trait]
impl Reconciler for Agent {
    fn name(&self) -> &'static str {
        "volume_exports"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        self.records.purge(self.env.now(), REMEMBER_REMOVED).await;
        self.records.keep_reserve().await;
        let all = self.records.all().await;
        futures::stream::iter(all)
            .for_each_concurrent(8, |(id, _)| async move {
                let slot = self.records.lock(id).await;
                let Some(export) = slot.as_ref().and_then(|record| record.export.clone()) else {
                    return;
                };
                if self.driver.is_exported(id, export.attachment_id).await {
                    return;
                }
                tracing::warn!(volume = %id, attachment = %export.attachment_id, "starting an export again");
                if let Err(fault) = self.driver.export(id, &export).await {
                    tracing::error!(volume = %id, %fault, "could not start an export again");
                }
            })
            .await;
        Ok(())
    }
}

/// Tells the volume service, every few seconds, that this host stores volumes:
/// at first by itself, and then along with the host's other agents.
pub struct Announcer {
    /// Clock and chance.
    pub env: Env,
    /// Who listens.
    pub client: StorageReportsClient,
    /// Where the room is measured.
    pub driver: Arc<dyn VolumeDriver>,
    /// Name, id and zone of this host.
    pub host: StorageHost,
    /// Whether it may say so.
    pub recognition: Recognition,
    /// What says along that it lives.
    pub beat: SharedBeat,
    /// Whether the host was announced.
    pub announced: AtomicBool,
    /// After this time an announcement is of no use.
    pub every: Duration,
}

#[async_trait::async_trait]
impl Reconciler for Announcer {
    fn name(&self) -> &'static str {
        "volume_announcement"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        if !self.recognition.is_given() {
            return Ok(());
        }
        let space = self.driver.space().await?;
        let facts = Storage {
            free_gib: space.free_gib,
            total_gib: space.total_gib,
            availability_zone: self.host.availability_zone.clone(),
            reachable_everywhere: self.host.reachable_everywhere,
        };
        if self.announced.load(Ordering::Acquire) && self.beat.storage(facts) {
            return Ok(());
        }
        let host = StorageHost {
            free_gib: space.free_gib,
            total_gib: space.total_gib,
            ..self.host.clone()
        };
        let ctx = RequestContext::host(self.env.id());
        self.client
            .announce_transient(&ctx, host, self.every)
            .await?;
        self.announced.store(true, Ordering::Release);
        Ok(())
    }
}

//! The volume service, as far as the api service can tell.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use yakumo_contracts::common::{Empty, IdempotencyKey};
use yakumo_contracts::volume::{
    Attachment, AttachmentRequest, Connection, CreateVolumeRequest, ForgetStorageHostReply,
    ForgetStorageHostRequest, ListStorageHostsReply, ListVolumeTypesReply, ListVolumesReply,
    ListVolumesRequest, Quota, QuotaRequest, ReserveAttachmentRequest, SetQuotaRequest,
    StorageHost, StorageHostsHandler, StorageHostsLiveRequest, StorageHostsServer,
    UpdateVolumeRequest, Volume, VolumeRequest, VolumesHandler, VolumesServer,
};
use yakumo_rpc::{Bus, Incoming, ServeOptions, Topic};
use yakumo_types::{Fault, ProjectId, RequestContext, Timestamp};

use super::{Epochs, FakeHost, Trouble, epoch_of};

/// A volume, who holds it, and whether it is exported to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeVolume {
    pub project_id: String,
    pub status: String,
    pub attachment: Option<String>,
    pub exported: bool,
    /// Why it is in error.
    pub fault: String,
    /// When it was made, and when it was changed last.
    pub times: (i64, i64),
}

impl FakeVolume {
    fn shown(&self, id: &str) -> Volume {
        Volume {
            id: id.to_owned(),
            project_id: self.project_id.clone(),
            status: self.status.clone(),
            size: 1,
            fault: self.fault.clone(),
            created_at: self.times.0,
            updated_at: self.times.1,
            ..Volume::default()
        }
    }

    fn is_within(&self, walls: Option<ProjectId>) -> bool {
        walls.is_none_or(|project| self.project_id.parse() == Ok(project))
    }
}

/// The project that the caller is kept within; none for administrators.
fn walls(ctx: &RequestContext) -> Result<Option<ProjectId>, Fault> {
    if ctx.is_admin() {
        return Ok(None);
    }
    ctx.require_reader().map(Some)
}

/// The volume service, whose storage host does everything at once.
#[derive(Default)]
pub struct FakeVolumes {
    pub trouble: Trouble,
    epochs: Epochs,
    volumes: Mutex<BTreeMap<String, FakeVolume>>,
    /// Where guests may have volumes.
    hosts: Mutex<Vec<Arc<FakeHost>>>,
    /// Volumes whose export ended while a guest had them.
    pub torn_away: Mutex<Vec<String>>,
    /// Hosts that were to be forgotten.
    pub forgotten: Mutex<Vec<String>>,
    /// The storage hosts that it knows.
    pub storage: Mutex<Vec<StorageHost>>,
    /// The storage hosts that were said to live last.
    pub living: Mutex<Vec<StorageHost>>,
    /// The keys of requests for new ones.
    pub keys: Mutex<Vec<Option<IdempotencyKey>>>,
    /// As many volumes fit into one reply; 0 for all.
    pub reply_holds: AtomicUsize,
}

#[async_trait]
impl StorageHostsServer for FakeVolumes {
    async fn storage_hosts_live(
        &self,
        call: &Incoming,
        request: StorageHostsLiveRequest,
    ) -> Result<(), Fault> {
        call.sender.require_control()?;
        *self.living.lock().unwrap() = request.hosts;
        Ok(())
    }

    async fn forget_storage_host(
        &self,
        call: &Incoming,
        request: ForgetStorageHostRequest,
    ) -> Result<ForgetStorageHostReply, Fault> {
        call.sender.require_control()?;
        self.trouble.check("forget_host")?;
        if !request.check_only {
            self.forgotten.lock().unwrap().push(request.host);
        }
        Ok(ForgetStorageHostReply { was_known: false })
    }
}

impl FakeVolumes {
    pub async fn serve(bus: &Bus) -> Arc<Self> {
        let fake = Arc::new(Self::default());
        bus.serve(
            Topic::Control("volume"),
            vec![
                Arc::new(VolumesHandler::new(fake.clone())),
                Arc::new(StorageHostsHandler::new(fake.clone())),
            ],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        fake
    }

    /// Guests of this host are looked at when an export ends.
    pub fn watch(&self, host: &Arc<FakeHost>) {
        self.hosts.lock().unwrap().push(host.clone());
    }

    /// An available volume.
    pub fn add(&self, volume: &str, project: &str) {
        let volume_of = FakeVolume {
            project_id: project.to_owned(),
            status: "available".into(),
            ..FakeVolume::default()
        };
        let mut volumes = self.volumes.lock().unwrap();
        volumes.insert(volume.to_owned(), volume_of);
    }

    /// Makes a volume that fell into this state, so many seconds after 1970.
    pub fn add_failed(&self, volume: &str, project: &str, status: &str, at: i64) {
        let made = Timestamp::from_secs(at).as_micros();
        let failed = FakeVolume {
            project_id: project.to_owned(),
            status: status.to_owned(),
            fault: format!("No room for {volume}."),
            times: (made, made + 1),
            ..FakeVolume::default()
        };
        let mut volumes = self.volumes.lock().unwrap();
        volumes.insert(volume.to_owned(), failed);
    }

    pub fn set_status(&self, volume: &str, status: &str) {
        let mut volumes = self.volumes.lock().unwrap();
        volumes.get_mut(volume).unwrap().status = status.to_owned();
    }

    pub fn get(&self, volume: &str) -> FakeVolume {
        self.volumes.lock().unwrap()[volume].clone()
    }

    /// Moves the attachment's volume from one of these states to `to`.
    fn settle(
        &self,
        request: &AttachmentRequest,
        from: &[&str],
        to: &str,
    ) -> Result<Attachment, Fault> {
        let mut volumes = self.volumes.lock().unwrap();
        let (id, volume) = volumes
            .iter_mut()
            .find(|(_, volume)| volume.attachment.as_ref() == Some(&request.attachment_id))
            .ok_or_else(|| Fault::not_found("There is no such attachment."))?;
        if !from.contains(&volume.status.as_str()) {
            return Err(Fault::conflict(format!("The volume is {}.", volume.status)));
        }
        volume.status = to.to_owned();
        Ok(Attachment {
            id: request.attachment_id.clone(),
            volume_id: id.clone(),
            status: to.to_owned(),
            ..Attachment::default()
        })
    }
}

fn not_here() -> Fault {
    Fault::not_found("Volume could not be found.")
}

#[async_trait]
impl VolumesServer for FakeVolumes {
    async fn create_volume(
        &self,
        _: &Incoming,
        request: CreateVolumeRequest,
    ) -> Result<Volume, Fault> {
        self.keys.lock().unwrap().push(request.idempotency_key);
        Ok(Volume {
            id: super::MADE.into(),
            size: request.size,
            ..Volume::default()
        })
    }

    async fn list_volumes(
        &self,
        call: &Incoming,
        request: ListVolumesRequest,
    ) -> Result<ListVolumesReply, Fault> {
        let walls: Option<ProjectId> = match (request.all_projects, call.context.is_admin()) {
            (true, true) if request.project_id.is_empty() => None,
            (true, true) => Some(
                request
                    .project_id
                    .parse()
                    .map_err(|_| Fault::invalid("The project id is not valid."))?,
            ),
            _ => Some(call.context.require_reader()?),
        };
        let by_id = request.sort_key == "id";
        let place = |it: &Volume| (if by_id { 0 } else { it.created_at }, it.id.clone());
        let volumes = self.volumes.lock().unwrap();
        let mut found: Vec<Volume> = volumes
            .iter()
            .filter(|(id, it)| {
                it.is_within(walls)
                    && (request.status.is_empty() || it.status == request.status)
                    && (request.ids.is_empty() || request.ids.contains(id))
            })
            .map(|(id, it)| it.shown(id))
            .collect();
        let page = request.page.unwrap_or_default();
        if !page.marker.is_empty() {
            let marker = volumes
                .get(&page.marker)
                .filter(|it| it.is_within(walls))
                .ok_or_else(|| Fault::invalid("The marker names no volume."))?;
            let marker = place(&marker.shown(&page.marker));
            found.retain(|it| match request.sort_ascending {
                true => place(it) > marker,
                false => place(it) < marker,
            });
        }
        found.sort_by_key(place);
        if !request.sort_ascending {
            found.reverse();
        }
        let holds = self.reply_holds.load(Ordering::SeqCst);
        let most = [usize::try_from(page.limit).unwrap(), holds];
        let most = most.into_iter().filter(|most| *most > 0).min();
        let most = most.unwrap_or(usize::MAX);
        let more = found.len() > most;
        found.truncate(most);
        Ok(ListVolumesReply {
            volumes: found,
            more,
        })
    }

    async fn show_volume(&self, call: &Incoming, request: VolumeRequest) -> Result<Volume, Fault> {
        let walls = walls(&call.context)?;
        let volumes = self.volumes.lock().unwrap();
        let volume = volumes
            .get(&request.id)
            .filter(|it| it.is_within(walls))
            .ok_or_else(not_here)?;
        Ok(volume.shown(&request.id))
    }

    async fn update_volume(&self, _: &Incoming, _: UpdateVolumeRequest) -> Result<Volume, Fault> {
        Err(not_here())
    }

    async fn delete_volume(&self, _: &Incoming, _: VolumeRequest) -> Result<Empty, Fault> {
        Err(not_here())
    }

    async fn reserve_attachment(
        &self,
        _: &Incoming,
        request: ReserveAttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.trouble.check("reserve")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit(&request.attachment_id, epoch)?;
        {
            let mut volumes = self.volumes.lock().unwrap();
            let volume = volumes.get_mut(&request.volume_id).ok_or_else(not_here)?;
            if volume.attachment.as_ref() != Some(&request.attachment_id) {
                if volume.status != "available" {
                    return Err(Fault::conflict(format!("The volume is {}.", volume.status)));
                }
                volume.status = "reserved".into();
                volume.attachment = Some(request.attachment_id.clone());
            }
        }
        // It is taken, and the answer is lost on the way.
        self.trouble.check("reserve_answer")?;
        Ok(Attachment {
            id: request.attachment_id,
            volume_id: request.volume_id,
            server_id: request.server_id,
            status: "reserved".into(),
            ..Attachment::default()
        })
    }

    async fn connect_attachment(
        &self,
        _: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Connection, Fault> {
        self.trouble.check("connect")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit(&request.attachment_id, epoch)?;
        let from = ["reserved", "attaching", "in-use"];
        let attachment = self.settle(&request, &from, "attaching")?;
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.get_mut(&attachment.volume_id).unwrap();
        volume.exported = true;
        Ok(Connection {
            attachment_id: attachment.id,
            nbd_socket: format!("/run/{}.sock", attachment.volume_id),
            nbd_export: "secret".into(),
            volume_id: attachment.volume_id,
            size: 1,
        })
    }

    async fn complete_attachment(
        &self,
        _: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.trouble.check("complete")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit(&request.attachment_id, epoch)?;
        self.settle(&request, &["reserved", "attaching", "in-use"], "in-use")
    }

    async fn begin_detach(
        &self,
        _: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.trouble.check("begin_detach")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit(&request.attachment_id, epoch)?;
        self.settle(&request, &["in-use", "detaching"], "detaching")
    }

    async fn abort_detach(
        &self,
        _: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.trouble.check("abort_detach")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit_last(&request.attachment_id, epoch)?;
        self.settle(&request, &["detaching", "in-use"], "in-use")
    }

    async fn release_attachment(
        &self,
        _: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Empty, Fault> {
        self.trouble.check("release")?;
        let epoch = epoch_of(request.fence.as_ref())?;
        self.epochs.admit_last(&request.attachment_id, epoch)?;
        let hosts = self.hosts.lock().unwrap().clone();
        for (id, volume) in self.volumes.lock().unwrap().iter_mut() {
            if volume.attachment.as_ref() != Some(&request.attachment_id) {
                continue;
            }
            if hosts.iter().any(|host| host.guest_has(id)) {
                self.torn_away.lock().unwrap().push(id.clone());
            }
            volume.exported = false;
            volume.attachment = None;
            volume.status = "available".into();
        }
        // It is given back, and the answer is lost on the way.
        self.trouble.check("release_answer")?;
        Ok(Empty {})
    }

    async fn list_volume_types(
        &self,
        _: &Incoming,
        _: Empty,
    ) -> Result<ListVolumeTypesReply, Fault> {
        Ok(ListVolumeTypesReply::default())
    }

    async fn get_quota(&self, _: &Incoming, _: QuotaRequest) -> Result<Quota, Fault> {
        Ok(Quota::default())
    }

    async fn set_quota(&self, _: &Incoming, _: SetQuotaRequest) -> Result<Quota, Fault> {
        Ok(Quota::default())
    }

    async fn list_storage_hosts(
        &self,
        _: &Incoming,
        _: Empty,
    ) -> Result<ListStorageHostsReply, Fault> {
        let hosts = self.storage.lock().unwrap().clone();
        Ok(ListStorageHostsReply { hosts })
    }
}

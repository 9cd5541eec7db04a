//! Lending a volume to a server and taking it back.
//!
//! The `api` service drives this as steps of its workflows, so every method
//! may be repeated and then answers as it did the first time. For each
//! attachment the newest epoch is kept, and older ones are refused. What ends
//! something (a release, an aborted detachment) also refuses what its own claim
//! sent before: a reservation that is late must not come after its undoing.
//!
//! Releasing is accepted once it is written down. If the storage host does not
//! end the export just then, the volume stays `detaching`, after two minutes it
//! is in `error` and says why, and a reconciler goes on trying: a volume is
//! available only after that.

use yakumo_contracts::common::Fence as StepFence;
use yakumo_contracts::volume::{
    Attachment, AttachmentRequest, Connection, ReserveAttachmentRequest,
};
use yakumo_contracts::volume_host::{ExportRequest, UnexportRequest, VolumeHostClient};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_rpc::Target;
use yakumo_types::{
    AttachmentId, Env, Fault, FaultCode, RequestContext, Role, ServerId, Timestamp, VolumeId,
};
use yakumo_workflow::{Fence, FenceStore};

use super::{App, is_away, raced, render, volume_id, wrong_status};
use crate::store::attachments::RELEASING;
use crate::store::{self, Walls, attachment};

/// States of a volume that an attachment holds.
pub(crate) const HELD: &[&str] = &["reserved", "attaching", "in-use", "detaching"];

/// Why a volume is in error while the end of its export is owed.
pub(crate) const EXPORT_OWED: &str = "Its storage host has not ended the export to the server that the volume was \
     detached from. The volume is available as soon as it has.";

fn attachment_id(text: &str) -> Result<AttachmentId, Fault> {
    text.parse().map_err(|_| no_attachment(text))
}

fn no_attachment(id: impl std::fmt::Display) -> Fault {
    Fault::not_found(format!("Volume attachment {id} could not be found."))
}

impl App {
    async fn attachment(&self, ctx: &RequestContext, id: &str) -> Result<attachment::Model, Fault> {
        let row = store::attachments::find(self.db.read(), attachment_id(id)?)
            .await?
            .ok_or_else(|| no_attachment(id))?;
        if may_see(ctx, &row) {
            Ok(row)
        } else {
            Err(no_attachment(id))
        }
    }

    /// Takes an available volume for one server.
    pub async fn reserve_attachment(
        &self,
        ctx: &RequestContext,
        request: ReserveAttachmentRequest,
    ) -> Result<Attachment, Fault> {
        ctx.require(Role::Member)?;
        let id = volume_id(&request.volume_id)?;
        let volume = self.volume(Walls::of(ctx)?, id).await?;
        let attachment_id = attachment_id(&request.attachment_id)?;
        let fence = fence_of(request.fence, "reserve")?;
        request
            .server_id
            .parse::<ServerId>()
            .map_err(|_| Fault::invalid("The server id is not valid."))?;
        self.check_reach(&volume, &request.host).await?;
        let row = attachment::Model {
            id: attachment_id.to_string(),
            volume_id: volume.id.clone(),
            project_id: volume.project_id.clone(),
            server_id: request.server_id,
            host: request.host,
            device: request.device,
            status: "reserved".into(),
            secret: secret(&self.env),
            socket: String::new(),
            attached_at: 0,
            release_epoch: None,
        };
        let now = self.env.now();
        let reserved = self
            .db
            .write(move |txn| {
                let (row, volume, fence) = (row.clone(), volume.clone(), fence.clone());
                Box::pin(async move {
                    FenceStore::once(txn, &key(attachment_id), &fence, move |txn| {
                        Box::pin(async move { take(txn, id, &volume, row, now).await })
                    })
                    .await
                })
            })
            .await?;
        Ok(reserved)
    }

    /// Whether a server on `host` can reach what the volume's host stores.
    async fn check_reach(&self, volume: &store::volume::Model, host: &str) -> Result<(), Fault> {
        if volume.host.is_empty() || host.is_empty() || volume.host == host {
            return Ok(());
        }
        let storage = store::storage_hosts::find(self.db.read(), &volume.host).await?;
        if storage.is_some_and(|storage| storage.reachable_everywhere) {
            return Ok(());
        }
        Err(Fault::conflict(format!(
            "Volume {} is stored on another host than the server's, and is reached on its own host only.",
            volume.id
        )))
    }

    /// Exports the volume for its attachment alone.
    pub async fn connect_attachment(
        &self,
        ctx: &RequestContext,
        request: AttachmentRequest,
    ) -> Result<Connection, Fault> {
        ctx.require(Role::Member)?;
        let row = self.attachment(ctx, &request.attachment_id).await?;
        let (id, attachment) = (volume_id(&row.volume_id)?, attachment_id(&row.id)?);
        let fence = fence_of(request.fence.clone(), "connect")?;
        let row = self
            .db
            .write(move |txn| {
                let fence = fence.clone();
                Box::pin(async move {
                    FenceStore::admit(txn, &key(attachment), &fence).await?;
                    let row = store::attachments::find(txn, attachment).await?;
                    row.ok_or_else(|| DbError::Fault(no_attachment(attachment)))
                })
            })
            .await?;
        if row.status == RELEASING {
            return Err(no_attachment(&row.id));
        }
        let volume = self.volume(Walls::All, id).await?;
        let reply = self
            .storage(&volume.host)?
            .export(
                ctx,
                ExportRequest {
                    volume_id: row.volume_id.clone(),
                    attachment_id: row.id.clone(),
                    secret: row.secret.clone(),
                    fence: request.fence,
                },
            )
            .await?;
        let (now, socket) = (self.env.now(), reply.nbd_socket.clone());
        self.db
            .write(move |txn| {
                let socket = socket.clone();
                Box::pin(async move {
                    store::attachments::set_socket(txn, attachment, &socket).await?;
                    store::volumes::transition(
                        txn,
                        id,
                        &["reserved", "attaching", "in-use"],
                        "attaching",
                        now,
                    )
                    .await
                    .map_err(|error| raced(error, "attached"))
                })
            })
            .await?;
        Ok(Connection {
            attachment_id: row.id,
            volume_id: row.volume_id,
            nbd_socket: reply.nbd_socket,
            nbd_export: row.secret,
            size: u64::try_from(volume.size).unwrap_or(0),
        })
    }

    /// The server holds the volume.
    pub async fn complete_attachment(
        &self,
        ctx: &RequestContext,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        let fence = fence_of(request.fence.clone(), "complete")?;
        let expected = &["reserved", "attaching", "in-use"];
        self.settle(ctx, &request, fence, expected, ("in-use", "attached"))
            .await
    }

    /// The server is to let go of the volume.
    pub async fn begin_detach(
        &self,
        ctx: &RequestContext,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        let fence = fence_of(request.fence.clone(), "begin_detach")?;
        let expected = &["in-use", "detaching"];
        self.settle(ctx, &request, fence, expected, ("detaching", "detaching"))
            .await
    }

    /// The server did not let go.
    pub async fn abort_detach(
        &self,
        ctx: &RequestContext,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        let fence = fence_of(request.fence.clone(), "abort_detach")?;
        let floor = floor(&fence);
        let expected = &["detaching", "in-use"];
        let settled = self
            .settle_with(
                ctx,
                &request,
                (fence, Some(floor)),
                expected,
                ("in-use", "attached"),
            )
            .await;
        match settled {
            // The same once more.
            Err(fault) if fault.code == FaultCode::Stale => {
                let row = self.attachment(ctx, &request.attachment_id).await?;
                match row.status.as_str() {
                    "attached" => Ok(render::attachment(&row)),
                    _ => Err(fault),
                }
            }
            settled => settled,
        }
    }

    /// Moves volume and attachment to these two states.
    async fn settle(
        &self,
        ctx: &RequestContext,
        request: &AttachmentRequest,
        fence: Fence,
        expected: &'static [&'static str],
        states: (&'static str, &'static str),
    ) -> Result<Attachment, Fault> {
        self.settle_with(ctx, request, (fence, None), expected, states)
            .await
    }

    /// The same; with a floor, what came before is refused from here on.
    async fn settle_with(
        &self,
        ctx: &RequestContext,
        request: &AttachmentRequest,
        (fence, floor): (Fence, Option<Fence>),
        expected: &'static [&'static str],
        (volume_status, status): (&'static str, &'static str),
    ) -> Result<Attachment, Fault> {
        ctx.require(Role::Member)?;
        let row = self.attachment(ctx, &request.attachment_id).await?;
        let (volume, id) = (volume_id(&row.volume_id)?, attachment_id(&row.id)?);
        let now = self.env.now();
        let settled = self
            .db
            .write(move |txn| {
                let (fence, floor) = (fence.clone(), floor.clone());
                Box::pin(async move {
                    let settled = FenceStore::once(txn, &key(id), &fence, move |txn| {
                        Box::pin(async move {
                            let mut row = store::attachments::find(txn, id)
                                .await?
                                .ok_or_else(|| DbError::Fault(no_attachment(id)))?;
                            if row.status == RELEASING {
                                return Err(DbError::Fault(no_attachment(id)));
                            }
                            store::volumes::transition(txn, volume, expected, volume_status, now)
                                .await
                                .map_err(|error| raced(error, status))?;
                            let first = row.attached_at == 0 && status == "attached";
                            let attached_at = first.then(|| now.as_micros());
                            store::attachments::set_status(txn, id, status, attached_at).await?;
                            row.status = status.to_owned();
                            row.attached_at = attached_at.unwrap_or(row.attached_at);
                            Ok(render::attachment(&row))
                        })
                    })
                    .await?;
                    if let Some(floor) = floor {
                        FenceStore::admit(txn, &key(id), &floor).await?;
                    }
                    Ok(settled)
                })
            })
            .await?;
        Ok(settled)
    }

    /// Ends the export, then the attachment: the volume is available only once
    /// nothing can write to it any more.
    pub async fn release_attachment(
        &self,
        ctx: &RequestContext,
        request: AttachmentRequest,
    ) -> Result<(), Fault> {
        ctx.require(Role::Member)?;
        let id = attachment_id(&request.attachment_id)?;
        let fence = fence_of(request.fence, "release")?;
        let found = store::attachments::find(self.db.read(), id).await?;
        if found.is_some_and(|row| !may_see(ctx, &row)) {
            // A foreign one looks like none, and none is released already.
            return Ok(());
        }
        let now = self.env.now();
        let released = self
            .db
            .write(move |txn| {
                let fence = fence.clone();
                Box::pin(async move { begin_release(txn, id, &fence, now).await })
            })
            .await?;
        match released {
            Some(row) => {
                match self.finish_release(row).await {
                    Ok(_) => Ok(()),
                    // Whoever asks again does so with a later epoch.
                    Err(fault) if fault.code == FaultCode::Stale => Err(fault),
                    Err(fault) => {
                        tracing::error!(attachment = %id, %fault, "an export is not ended yet");
                        Ok(())
                    }
                }
            }
            None => Ok(()),
        }
    }

    /// Ends the export of an attachment that is being released, and then the
    /// attachment. False if the storage host cannot be asked now.
    pub(crate) async fn finish_release(&self, row: attachment::Model) -> Result<bool, Fault> {
        let (volume, id) = (volume_id(&row.volume_id)?, attachment_id(&row.id)?);
        let kept = store::volumes::find(self.db.read(), Walls::All, volume).await?;
        if let Some(kept) = kept.filter(|kept| !kept.host.is_empty()) {
            let request = UnexportRequest {
                volume_id: row.volume_id,
                attachment_id: row.id,
                fence: Some(StepFence {
                    workflow_id: String::new(),
                    step: "release".into(),
                    epoch: row
                        .release_epoch
                        .and_then(|epoch| u64::try_from(epoch).ok())
                        .unwrap_or(0),
                }),
            };
            match self
                .storage(&kept.host)?
                .unexport(&self.internal(), request)
                .await
            {
                Ok(_) => {}
                Err(fault) if is_away(&fault) => {
                    tracing::info!(attachment = %id, host = kept.host, %fault, "an export is ended later");
                    return Ok(false);
                }
                Err(fault) => return Err(fault),
            }
        }
        let now = self.env.now();
        self.db
            .write(move |txn| {
                Box::pin(async move {
                    if !store::attachments::delete(txn, id).await? {
                        // Somebody else was faster; the volume may be taken again.
                        return Ok(());
                    }
                    match store::volumes::transition(txn, volume, HELD, "available", now).await {
                        // In error for this alone, or somebody reset the state by hand.
                        Err(DbError::Stale) => {
                            store::volumes::mend(txn, volume, EXPORT_OWED, now).await
                        }
                        other => other,
                    }
                })
            })
            .await?;
        Ok(true)
    }

    pub(crate) fn storage(&self, host: &str) -> Result<VolumeHostClient, Fault> {
        if host.is_empty() {
            return Err(Fault::conflict("The volume is not on any host yet."));
        }
        Ok(VolumeHostClient::new(self.bus.clone(), Target::host(host)))
    }
}

fn may_see(ctx: &RequestContext, row: &attachment::Model) -> bool {
    row.project_id.parse().is_ok_and(|owner| ctx.may_see(owner))
}

async fn take(
    txn: &DatabaseTransaction,
    id: VolumeId,
    volume: &store::volume::Model,
    row: attachment::Model,
    now: Timestamp,
) -> Result<Attachment, DbError> {
    let attachment = attachment_id(&row.id).map_err(DbError::Fault)?;
    if let Some(earlier) = store::attachments::find(txn, attachment).await? {
        return Ok(render::attachment(&earlier));
    }
    store::volumes::transition(txn, id, &["available"], "reserved", now)
        .await
        .map_err(|error| match error {
            DbError::Stale => DbError::Fault(wrong_status(volume, "attached")),
            other => other,
        })?;
    let reserved = render::attachment(&row);
    store::attachments::insert(txn, row).await?;
    Ok(reserved)
}

/// Writes down that the attachment ends, also if there is none yet: what is
/// late finds that out. Returns the row that is still to go.
async fn begin_release(
    txn: &DatabaseTransaction,
    id: AttachmentId,
    fence: &Fence,
    now: Timestamp,
) -> Result<Option<attachment::Model>, DbError> {
    let row = store::attachments::find(txn, id).await?;
    match FenceStore::admit(txn, &key(id), fence).await {
        Ok(_) => {}
        Err(DbError::Fault(fault)) if fault.code == FaultCode::Stale => {
            return match row {
                // The same once more.
                Some(row) if row.status != RELEASING => {
                    tracing::info!(attachment = row.id, "an overtaken worker released nothing");
                    Err(DbError::Fault(fault))
                }
                other => Ok(other),
            };
        }
        Err(error) => return Err(error),
    }
    FenceStore::admit(txn, &key(id), &floor(fence)).await?;
    let Some(mut row) = row else {
        return Ok(None);
    };
    let epoch = i64::try_from(fence.epoch).map_err(DbError::other)?;
    store::attachments::begin_release(txn, id, epoch).await?;
    row.status = RELEASING.to_owned();
    row.release_epoch = Some(epoch);
    let volume = volume_id(&row.volume_id).map_err(DbError::Fault)?;
    match store::volumes::transition(txn, volume, HELD, "detaching", now).await {
        // Somebody reset the state by hand.
        Err(DbError::Stale) | Ok(()) => Ok(Some(row)),
        Err(error) => Err(error),
    }
}

/// An export's name that nobody guesses: 48 letters and digits.
fn secret(env: &Env) -> String {
    let of: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    let count = u64::try_from(of.len()).unwrap_or(1);
    (0..48)
        .filter_map(|_| of.get(usize::try_from(env.rng.below(count)).ok()?))
        .collect()
}

/// What fences of an attachment are kept under.
fn key(id: AttachmentId) -> String {
    format!("attachment/{id}")
}

/// The step that asks for `what`; a step that asks for two things is two.
fn fence_of(fence: Option<StepFence>, what: &str) -> Result<Fence, Fault> {
    let fence =
        fence.ok_or_else(|| Fault::invalid("A change must say which workflow step it is for."))?;
    Ok(Fence {
        workflow_id: fence
            .workflow_id
            .parse()
            .map_err(|_| Fault::invalid("The workflow id is not valid."))?,
        step: format!("{}/{what}", fence.step),
        epoch: fence.epoch,
    })
}

/// Refuses what the same claim sent before: a step and its undoing may carry
/// the same epoch.
fn floor(fence: &Fence) -> Fence {
    Fence {
        epoch: fence.epoch.saturating_add(1),
        ..fence.clone()
    }
}

//! Lends a volume to a server: takes it, has it exported for this server
//! alone, issues desired state that holds it, and waits until the host says
//! that the server has it.
//!
//! From the moment that desired state holds the volume, any push may carry it
//! to the host, another workflow's too. So whichever step fails after that, the
//! way back is the same: desired state without the volume, the host lets go,
//! and only then the export ends.
//!
//! The row of the attachment is this workflow's until it ends: `attaching` all
//! the way, `attached` together with the workflow's own last row. On the way back
//! it is `leaving`, and `releasing` once the host was told so.

use std::sync::Weak;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_contracts::compute_host::VolumeConnection;
use yakumo_contracts::volume::{AttachmentRequest, ReserveAttachmentRequest};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{AttachmentId, Fault, FaultCode, ServerId, VolumeId};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::{
    LOOK_AGAIN, alive, complaint, context, fence, finish_action, is_away, is_overdue, power_is,
    push_desired, reached, row, row_in,
};
use crate::app::App;
use crate::app::spec::is_carried;
use crate::store::servers::{self as store, Expected, Server, ServerChange};
use crate::store::volumes::{self, ServerVolume};

/// The workflow's name.
pub const KIND: &str = "attach_volume";

/// What the workflow starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub server_id: ServerId,
    pub volume_id: VolumeId,
    pub attachment_id: AttachmentId,
    /// `/dev/vdb`.
    pub device: String,
    pub action_id: String,
}

/// Attaches a volume.
pub struct AttachVolume {
    app: Weak<App>,
}

impl AttachVolume {
    pub(super) fn new(app: Weak<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Workflow for AttachVolume {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &[
            "reserve_volume",
            "connect_volume",
            "push_desired",
            "wait_attached",
            "complete_attachment",
        ]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        match step {
            "reserve_volume" => reserve(&app, cx, &input).await,
            "connect_volume" => connect(&app, cx, &input).await,
            "push_desired" => {
                push_desired(&app, cx, input.server_id).await?;
                Ok(Outcome::done())
            }
            "wait_attached" => {
                let generation = cx.result("connect_volume")?;
                wait_for(&app, cx, input.server_id, generation, "take the volume").await
            }
            "complete_attachment" => {
                let request = request(cx, input.attachment_id);
                app.volumes
                    .complete_attachment(&context(cx), request)
                    .await?;
                Ok(Outcome::done())
            }
            _ => Err(StepError::Fail(Fault::internal("There is no such step."))),
        }
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        match step {
            "reserve_volume" => {
                release(&app, cx, input.attachment_id).await?;
                Ok(Outcome::done())
            }
            // The host lets go before the export ends.
            _ => let_go(&app, cx, &input).await,
        }
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        let Ok(input) = cx.input_as::<Input>() else {
            return Ok(());
        };
        settle(txn, input.server_id, input.attachment_id).await?;
        if let Some(app) = self.app.upgrade() {
            // Others may wait to see whether a complaint was about this.
            app.engine.wake(txn, &cx.resource).await?;
        }
        let event = "compute_attach_volume";
        finish_action(txn, cx, &input.action_id, event, end, cx.env.now()).await
    }
}

async fn reserve(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let server = row(cx, input.server_id).await?;
    let request = ReserveAttachmentRequest {
        volume_id: input.volume_id.to_string(),
        attachment_id: input.attachment_id.to_string(),
        server_id: server.id.clone(),
        host: server.host.clone().unwrap_or_default(),
        device: input.device.clone(),
        fence: fence(cx),
    };
    app.volumes
        .reserve_attachment(&context(cx), request)
        .await?;
    // A deletion that came in between has looked for attachments already.
    match attachment_of(cx, input.server_id, input.attachment_id).await? {
        Some(_) => Ok(Outcome::done()),
        None => Err(deleted_meanwhile()),
    }
}

async fn connect(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let request = request(cx, input.attachment_id);
    let connection = app
        .volumes
        .connect_attachment(&context(cx), request)
        .await?;
    let connection = VolumeConnection {
        serial: connection.volume_id.chars().take(20).collect(),
        volume_id: connection.volume_id,
        attachment_id: connection.attachment_id,
        nbd_socket: connection.nbd_socket,
        nbd_export: connection.nbd_export,
        device: input.device.trim_start_matches("/dev/").to_owned(),
    };
    let connection = serde_json::to_string(&connection)?;
    let issued = issue(
        cx,
        input.server_id,
        input.attachment_id,
        "attaching",
        Some(connection),
    )
    .await?;
    match issued {
        Some(generation) => Outcome::with(&generation),
        None => Err(deleted_meanwhile()),
    }
}

/// Makes the host let go of the volume, if it may ever have heard of it. A host
/// that is down, or that says nothing of it until long after the bound, is left
/// to the reconciler: what it still has goes when it hears of it, and the export
/// has ended by then.
async fn let_go(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let id = input.server_id;
    let attached = match attachment_of(cx, id, input.attachment_id).await? {
        Some(attached) if attached.connection.is_some() => attached,
        // No desired state has ever held it.
        _ => return Ok(Outcome::done()),
    };
    // The row says whether this was tried before, and whether the host was told:
    // whoever comes to it long after the bound gives it time all the same.
    let was_told = attached.state == "releasing";
    let was_tried = was_told || attached.state == "leaving";
    if !was_told {
        issue(cx, id, input.attachment_id, "leaving", None).await?;
    }
    let server = row(cx, id).await?;
    let Some(host) = server.host.clone().filter(|_| !has_let_go(&server)) else {
        return Ok(Outcome::done());
    };
    let overdue = is_overdue(app, cx).await?;
    match push_desired(app, cx, id).await {
        Ok(()) => {}
        Err(error) if error.fault().code == FaultCode::Stale => {}
        Err(StepError::Fail(fault)) => {
            tracing::warn!(server = %id, host, %fault, "the host does not have the server as it should");
            app.to_sync.add(&host);
            return Ok(Outcome::done());
        }
        Err(error) if is_away(error.fault()) && !app.host_is_up(&host).await? => {
            tracing::warn!(server = %id, host, "the host is down: it lets go of the volume later");
            app.to_sync.add(&host);
            return Ok(Outcome::done());
        }
        Err(error) if was_tried && overdue => {
            tracing::error!(server = %id, host, fault = %error.fault(), "the host cannot be told to let go of a volume: its export ends");
            app.to_sync.add(&host);
            return Ok(Outcome::done());
        }
        Err(error) => return Err(error),
    }
    // The report may have come while the message was on its way.
    if has_let_go(&row(cx, id).await?) {
        return Ok(Outcome::done());
    }
    if was_told && overdue {
        tracing::error!(server = %id, host, "the host does not let go of a volume: its export ends");
        app.to_sync.add(&host);
        return Ok(Outcome::done());
    }
    issue(cx, id, input.attachment_id, "releasing", None).await?;
    cx.waiting_for(format!("host {host} to let go of the volume"));
    Ok(Outcome::park(LOOK_AGAIN))
}

/// Whether the host is as the row says, or says that it never will be. A
/// complaint about power is answered by the workflow that changes the power.
fn has_let_go(server: &Server) -> bool {
    let refused = || {
        complaint(server, server.generation).is_some()
            && (server.workflow_id.is_none()
                || power_is(server, &server.desired_power, server.reboot_count))
    };
    server.deleted_at != 0 || reached(server, server.generation) || refused()
}

fn deleted_meanwhile() -> StepError {
    StepError::Fail(Fault::conflict("The server was deleted meanwhile."))
}

/// The attachment's row, if it is still there.
pub(super) async fn attachment_of(
    cx: &StepCx,
    server: ServerId,
    attachment: AttachmentId,
) -> Result<Option<ServerVolume>, StepError> {
    let rows = volumes::server_volume_list(cx.db.read(), vec![server.to_string()]).await?;
    Ok(rows.into_iter().find(|row| is_of(row, attachment)))
}

fn is_of(row: &ServerVolume, attachment: AttachmentId) -> bool {
    row.attachment_id.parse() == Ok(attachment)
}

/// Moves the attachment. The generation rises exactly when this changes what
/// desired state holds, so that one generation never means two things. Returns
/// the generation from which on it is so; nothing if there is no attachment.
pub(super) async fn issue(
    cx: &StepCx,
    server: ServerId,
    attachment: AttachmentId,
    state: &'static str,
    connection: Option<String>,
) -> Result<Option<i64>, StepError> {
    let now = cx.env.now();
    let generation = cx
        .write(move |txn| {
            let connection = connection.clone();
            Box::pin(async move {
                let rows = volumes::server_volume_list_in(txn, server).await?;
                let Some(before) = rows.into_iter().find(|row| is_of(row, attachment)) else {
                    return Ok(None);
                };
                let after = ServerVolume {
                    state: state.to_owned(),
                    connection: connection.clone().or_else(|| before.connection.clone()),
                    ..before.clone()
                };
                if after != before {
                    volumes::server_volume_change(txn, attachment, state, connection).await?;
                }
                let row = row_in(txn, server).await?;
                if row.deleted_at != 0 || is_carried(&before) == is_carried(&after) {
                    return Ok(Some(row.generation));
                }
                let generation = row.generation.saturating_add(1);
                let change =
                    ServerChange::at(now).desired(generation, &row.desired_power, row.reboot_count);
                let expected = Expected::anything().generation(row.generation);
                store::server_change(txn, server, &expected, change).await?;
                Ok(Some(generation))
            })
        })
        .await?;
    Ok(generation)
}

/// Waits until the host is as `generation` wants.
///
/// A host complains about a server as a whole. A complaint while its power is
/// not where it should be belongs to the workflow that changes the power; one
/// about exactly this generation is this workflow's, and so is one about a
/// later generation if nothing else is at work on the server.
pub(super) async fn wait_for(
    app: &App,
    cx: &StepCx,
    id: ServerId,
    generation: i64,
    what: &str,
) -> Result<Outcome, StepError> {
    let server = row(cx, id).await?;
    if server.deleted_at != 0 || server.desired_power == "absent" {
        return Err(deleted_meanwhile());
    }
    if let Some(fault) = complaint(&server, generation)
        && is_mine(app, cx, &server, generation).await?
    {
        return Err(StepError::Fail(fault));
    }
    if reached(&server, generation) {
        return Ok(Outcome::done());
    }
    cx.waiting_for(format!(
        "host {} to {what}",
        server.host.as_deref().unwrap_or("?")
    ));
    Ok(Outcome::park(LOOK_AGAIN))
}

async fn is_mine(
    app: &App,
    cx: &StepCx,
    server: &Server,
    generation: i64,
) -> Result<bool, StepError> {
    let powered = power_is(server, &server.desired_power, server.reboot_count);
    if !powered && server.workflow_id.is_some() {
        return Ok(false);
    }
    if server.seen_generation == generation {
        return Ok(true);
    }
    let others = app.engine.of_resource(&cx.resource).await?;
    Ok(others
        .iter()
        .all(|other| other.id == cx.workflow_id || other.finished_at.is_some()))
}

pub(super) fn request(cx: &StepCx, attachment: AttachmentId) -> AttachmentRequest {
    AttachmentRequest {
        attachment_id: attachment.to_string(),
        fence: fence(cx),
    }
}

/// Ends the export and the attachment, here and at the volume service.
pub(super) async fn release(
    app: &App,
    cx: &StepCx,
    attachment: AttachmentId,
) -> Result<(), StepError> {
    app.volumes
        .release_attachment(&super::internal(cx), request(cx, attachment))
        .await?;
    forget(cx, attachment).await
}

/// Forgets the attachment here.
pub(super) async fn forget(cx: &StepCx, attachment: AttachmentId) -> Result<(), StepError> {
    cx.write(move |txn| {
        Box::pin(async move { volumes::server_volume_delete(txn, attachment).await })
    })
    .await?;
    Ok(())
}

/// At the end of the workflow that moved it, an attachment that is still there
/// is a volume that the server has. Says whether it is still there.
pub(super) async fn settle(
    txn: &DatabaseTransaction,
    server: ServerId,
    attachment: AttachmentId,
) -> Result<bool, DbError> {
    let rows = volumes::server_volume_list_in(txn, server).await?;
    let Some(row) = rows.into_iter().find(|row| is_of(row, attachment)) else {
        return Ok(false);
    };
    if matches!(row.state.as_str(), "attaching" | "detaching") {
        volumes::server_volume_change(txn, attachment, "attached", None).await?;
    }
    Ok(true)
}

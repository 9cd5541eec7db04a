//! Removes a server in whatever state it is: calls off what is at work,
//! removes it from its host, gives volumes and ports back, and lets the host
//! forget it. There is no way back, and none is needed: each step is tried
//! until it works or the bound runs out.

use std::sync::Weak;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_contracts::network::ServerPortsRequest;
use yakumo_contracts::volume::AttachmentRequest;
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::server_state::{PowerState, ServerEvent, ServerState, VmState};
use yakumo_types::{AttachmentId, Fault, FaultCode, ServerId, WorkflowId};
use yakumo_workflow::{End, Engine, Outcome, StepCx, StepError, Workflow};

use super::{
    LOOK_AGAIN, alive, fence, finish_action, forget_on_host, is_at_work, part_fence,
    remove_from_host, row, row_in,
};
use crate::app::App;
use crate::app::reports::fault_document;
use crate::store::servers::{self as store, Expected, ServerChange, state_of};
use crate::store::volumes;

/// The workflow's name.
pub const KIND: &str = "delete_server";

/// What the workflow starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub server_id: ServerId,
    pub action_id: String,
    /// The workflow that was at work; it was called off.
    pub overtaken: Option<WorkflowId>,
}

/// Removes a server.
pub struct DeleteServer {
    app: Weak<App>,
}

impl DeleteServer {
    pub(super) fn new(app: Weak<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Workflow for DeleteServer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &[
            "cancel_build",
            "remove_from_host",
            "release_volumes",
            "release_ports",
            "confirm_absent",
        ]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        let id = input.server_id;
        match step {
            "cancel_build" => cancel_build(&app, cx, &input).await,
            "remove_from_host" => {
                if remove_from_host(&app, cx, id).await? {
                    Ok(Outcome::done())
                } else {
                    Ok(Outcome::park(LOOK_AGAIN))
                }
            }
            "release_volumes" => release_volumes(&app, cx, id).await,
            "release_ports" => {
                let request = ServerPortsRequest {
                    server_id: id.to_string(),
                    fence: fence(cx),
                };
                app.server_ports
                    .release_server_ports(&super::internal(cx), request)
                    .await?;
                Ok(Outcome::done())
            }
            "confirm_absent" => {
                forget_on_host(&app, cx, id).await?;
                Ok(Outcome::done())
            }
            _ => Err(StepError::Fail(Fault::internal("There is no such step."))),
        }
    }

    async fn undo(&self, _: &str, _: &StepCx) -> Result<Outcome, StepError> {
        // What was given back stays given back; asking again goes on from here.
        Ok(Outcome::done())
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
        let now = cx.env.now();
        finish_action(
            txn,
            cx,
            &input.action_id,
            "compute_terminate_instance",
            end,
            now,
        )
        .await?;
        let row = row_in(txn, input.server_id).await?;
        if !is_at_work(&row, cx) {
            return Ok(());
        }
        let before = state_of(&row);
        let change = ServerChange::at(now).workflow(None).stage("");
        let change = match end {
            End::Succeeded => change
                .state(
                    before
                        .after(ServerEvent::DeleteDone)
                        .unwrap_or(ServerState::resting(VmState::Deleted)),
                )
                .power(PowerState::NoState)
                .addresses("{}".into(), row.addresses_revision)
                .deleted(now),
            End::Failed(fault) => {
                // What was called off may still be taking back what it did.
                let left = match input.overtaken {
                    Some(id) if Engine::is_unfinished(txn, id).await? => Some(id),
                    _ => None,
                };
                let next = before
                    .after(ServerEvent::DeleteFailed)
                    .unwrap_or(ServerState::resting(VmState::Error));
                change
                    .workflow(left)
                    .state(next)
                    .fault(Some(fault_document(fault, now)))
            }
        };
        store::server_change(txn, input.server_id, &Expected::state(before), change).await
    }
}

/// Waits until the workflow that was at work has undone what it did.
async fn cancel_build(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let Some(overtaken) = input.overtaken else {
        return Ok(Outcome::done());
    };
    match app.engine.find(overtaken).await? {
        Some(view) if view.finished_at.is_none() => {
            cx.waiting_for("what was being done to the server to be undone");
            Ok(Outcome::park(LOOK_AGAIN))
        }
        _ => Ok(Outcome::done()),
    }
}

async fn release_volumes(app: &App, cx: &StepCx, id: ServerId) -> Result<Outcome, StepError> {
    let server = row(cx, id).await?;
    let attached = volumes::server_volume_list(cx.db.read(), vec![server.id]).await?;
    for volume in attached {
        let Ok(attachment) = volume.attachment_id.parse::<AttachmentId>() else {
            continue;
        };
        let request = AttachmentRequest {
            attachment_id: attachment.to_string(),
            fence: part_fence(cx.fence_for(&volume.attachment_id)),
        };
        match app
            .volumes
            .release_attachment(&super::internal(cx), request)
            .await
        {
            Ok(_) => {}
            Err(fault) if fault.code == FaultCode::NotFound => {}
            Err(fault) => return Err(fault.into()),
        }
        cx.write(move |txn| {
            Box::pin(async move { volumes::server_volume_delete(txn, attachment).await })
        })
        .await?;
    }
    Ok(Outcome::done())
}

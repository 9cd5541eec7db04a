//! Takes a volume back from a server: the host lets go first, then the export
//! ends, then the volume is available. If the guest does not let go within the
//! bound, the volume stays with the server and the action says why.
//!
//! Once the release has begun there is no way back, whatever the clock says:
//! it may have happened, and a connection to an export that is gone is worse
//! than a detachment that took too long.
//!
//! The attachment's row says how far it is: `detaching` (asked for; the host
//! has it still), `leaving` (desired state is without it), `releasing`, gone.
//! On the way back it is `attaching` until the workflow ends, so that nobody
//! can ask for the next detachment before this one is over.

use std::sync::Weak;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{AttachmentId, Fault, FaultCode, ServerId};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::attach_volume::{attachment_of, forget, issue, release, request, settle, wait_for};
use super::{alive, context, finish_action, push_back, push_desired, row};
use crate::app::App;

/// The workflow's name.
pub const KIND: &str = "detach_volume";

/// What the workflow starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub server_id: ServerId,
    pub attachment_id: AttachmentId,
    pub action_id: String,
}

/// Detaches a volume.
pub struct DetachVolume {
    app: Weak<App>,
}

impl DetachVolume {
    pub(super) fn new(app: Weak<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Workflow for DetachVolume {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &[
            "begin_detach",
            "push_desired",
            "wait_detached",
            "release_volume",
        ]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        match step {
            "begin_detach" => begin(&app, cx, &input).await,
            "push_desired" => {
                push_desired(&app, cx, input.server_id).await?;
                Ok(Outcome::done())
            }
            "wait_detached" => {
                let generation = cx.result("begin_detach")?;
                wait_for(
                    &app,
                    cx,
                    input.server_id,
                    generation,
                    "let go of the volume",
                )
                .await
            }
            "release_volume" => {
                issue(cx, input.server_id, input.attachment_id, "releasing", None).await?;
                release(&app, cx, input.attachment_id).await?;
                Ok(Outcome::done())
            }
            _ => Err(StepError::Fail(Fault::internal("There is no such step."))),
        }
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        if step != "begin_detach" {
            return Ok(Outcome::done());
        }
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        go_back(&app, cx, &input).await?;
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
        // What was asked for has happened if the volume is gone, even if it
        // took longer than it may.
        let end = match settle(txn, input.server_id, input.attachment_id).await? {
            true => end,
            false => &End::Succeeded,
        };
        if let Some(app) = self.app.upgrade() {
            // Others may wait to see whether a complaint was about this.
            app.engine.wake(txn, &cx.resource).await?;
        }
        let event = "compute_detach_volume";
        finish_action(txn, cx, &input.action_id, event, end, cx.env.now()).await
    }
}

async fn begin(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    app.volumes
        .begin_detach(&context(cx), request(cx, input.attachment_id))
        .await?;
    match issue(cx, input.server_id, input.attachment_id, "leaving", None).await? {
        Some(generation) => Outcome::with(&generation),
        None => Err(StepError::Fail(Fault::conflict(
            "The server was deleted meanwhile.",
        ))),
    }
}

/// The server keeps the volume, unless its release has begun.
async fn go_back(app: &App, cx: &StepCx, input: &Input) -> Result<(), StepError> {
    let (id, attachment) = (input.server_id, input.attachment_id);
    let server = row(cx, id).await?;
    if server.deleted_at != 0 || server.desired_power == "absent" {
        // The deletion gives the volume back.
        return Ok(());
    }
    let Some(attached) = attachment_of(cx, id, attachment).await? else {
        return Ok(());
    };
    if attached.state == "releasing" {
        return release(app, cx, attachment).await;
    }
    match app
        .volumes
        .abort_detach(&super::internal(cx), request(cx, attachment))
        .await
    {
        Ok(_) => {}
        Err(fault) if fault.code == FaultCode::NotFound => {
            // There is nothing to go back to: somebody has released it.
            issue(cx, id, attachment, "releasing", None).await?;
            push_back(app, cx, id).await?;
            return forget(cx, attachment).await;
        }
        // It was not on its way out over there.
        Err(fault) if fault.code == FaultCode::Conflict => {
            tracing::info!(server = %id, %attachment, %fault, "a detachment had not begun");
        }
        Err(fault) => return Err(fault.into()),
    }
    issue(cx, id, attachment, "attaching", None).await?;
    push_back(app, cx, id).await
}

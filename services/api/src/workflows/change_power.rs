//! Starts, stops, reboots, pauses and unpauses: the new desired state was
//! issued when the request was accepted; this tells the host and waits until
//! it is so.

use std::sync::Weak;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::server_state::{PowerState, ServerEvent, ServerState};
use yakumo_types::{Fault, ServerId};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::{
    LOOK_AGAIN, alive, complaint, finish_action, is_at_work, power_is, push_back, push_desired,
    reached, row, row_in,
};
use crate::app::App;
use crate::app::reports::fault_document;
use crate::store::servers::{self as store, Expected, Server, ServerChange, state_of};

/// The workflow's name.
pub const KIND: &str = "change_power";

/// What the workflow starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub server_id: ServerId,
    pub action_id: String,
    /// The generation that was issued for this.
    pub generation: i64,
    /// Where it leads.
    pub power: String,
    /// The reboots that must have been seen.
    pub reboot_count: i64,
    /// Where it comes from, for the way back.
    pub before_power: String,
}

/// Changes what a server does.
pub struct ChangePower {
    app: Weak<App>,
}

impl ChangePower {
    pub(super) fn new(app: Weak<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Workflow for ChangePower {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["push_desired", "wait_reached"]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        match step {
            "push_desired" => {
                push_desired(&app, cx, input.server_id).await?;
                Ok(Outcome::done())
            }
            "wait_reached" => wait_reached(cx, &input).await,
            _ => Err(StepError::Fail(Fault::internal("There is no such step."))),
        }
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        if step != "push_desired" {
            return Ok(Outcome::done());
        }
        let app = alive(&self.app)?;
        let input: Input = cx.input_as()?;
        let now = app.env.now();
        let (id, back) = (input.server_id, input.clone());
        cx.write(move |txn| {
            let input = back.clone();
            Box::pin(async move {
                let row = row_in(txn, id).await?;
                if row.deleted_at != 0 || !is_still_wanted(&row, &input) {
                    return Ok(());
                }
                let change = ServerChange::at(now).desired(
                    row.generation.saturating_add(1),
                    &input.before_power,
                    row.reboot_count,
                );
                let expected = Expected::anything().generation(row.generation);
                store::server_change(txn, id, &expected, change).await
            })
        })
        .await?;
        push_back(&app, cx, id).await?;
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
        let event = format!("compute_{}_instance", verb(&input));
        finish_action(txn, cx, &input.action_id, &event, end, now).await?;
        if let Some(app) = self.app.upgrade() {
            // A deletion waits for this moment, and workflows that move volumes
            // to see whether a complaint is about them.
            app.engine.wake(txn, &cx.resource).await?;
        }
        let row = row_in(txn, input.server_id).await?;
        if !is_at_work(&row, cx) {
            return Ok(());
        }
        let before = state_of(&row);
        let change = ServerChange::at(now).workflow(None).stage("");
        let change = match end {
            End::Succeeded => {
                let next = before
                    .after(ServerEvent::TaskDone)
                    .unwrap_or(ServerState::resting(before.vm));
                change
                    .state(next)
                    .power(PowerState::from_report(&row.seen_power))
                    .fault(None)
            }
            End::Failed(fault) => {
                let next = before
                    .after(ServerEvent::TaskFailed)
                    .unwrap_or(ServerState::resting(before.vm));
                change.state(next).fault(Some(fault_document(fault, now)))
            }
        };
        store::server_change(txn, input.server_id, &Expected::state(before), change).await
    }
}

fn verb(input: &Input) -> &'static str {
    match (input.power.as_str(), input.before_power.as_str()) {
        ("stopped", _) => "stop",
        ("paused", _) => "pause",
        ("running", "paused") => "unpause",
        ("running", "stopped") => "start",
        _ => "reboot",
    }
}

/// Whether the row still asks for what this action asked for, so that there is
/// something to take back. A volume that came or went meanwhile raised the
/// generation and left the power as it was; anybody else who issued power
/// (a deletion) holds.
fn is_still_wanted(row: &Server, input: &Input) -> bool {
    if input.power == input.before_power {
        return row.generation == input.generation;
    }
    row.desired_power == input.power
}

async fn wait_reached(cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let row = row(cx, input.server_id).await?;
    if let Some(fault) = complaint(&row, input.generation) {
        if power_is(&row, &input.power, input.reboot_count) {
            // It is about a volume that another workflow moves.
            return Ok(Outcome::done());
        }
        return Err(StepError::Fail(fault));
    }
    if reached(&row, input.generation) && row.seen_reboots >= input.reboot_count {
        return Ok(Outcome::done());
    }
    cx.waiting_for(format!(
        "host {} to make the server {}",
        row.host.as_deref().unwrap_or("?"),
        input.power
    ));
    Ok(Outcome::park(LOOK_AGAIN))
}

//! What takes more than a row: making and removing a volume's bytes.

mod create_volume;
mod delete_volume;

pub use create_volume::CreateVolume;
pub use delete_volume::DeleteVolume;

use serde_json::Value;
use yakumo_types::{Fault, VolumeId};
use yakumo_workflow::{StepCx, StepError};

use crate::app::{App, was_heard_lately};
use crate::store;

/// Makes a volume on a storage host.
pub const CREATE_VOLUME: &str = "create_volume";
/// Removes a volume from its storage host.
pub const DELETE_VOLUME: &str = "delete_volume";

/// Whether nobody has heard of the storage host lately.
async fn is_down(app: &App, host: &str) -> Result<bool, StepError> {
    let now = app.env.now();
    let row = store::storage_hosts::find(app.db.read(), host).await?;
    Ok(row.is_none_or(|row| !was_heard_lately(row.heard_at, now)))
}

fn subject(cx: &StepCx) -> Result<VolumeId, StepError> {
    cx.input
        .get("volume_id")
        .and_then(Value::as_str)
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| StepError::Fail(Fault::internal("The workflow names no volume.")))
}

fn fence(cx: &StepCx) -> yakumo_contracts::common::Fence {
    let fence = cx.fence();
    yakumo_contracts::common::Fence {
        workflow_id: fence.workflow_id.to_string(),
        step: fence.step,
        epoch: fence.epoch,
    }
}

#[cfg(test)]
mod tests;

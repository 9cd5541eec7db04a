//! The rules of the volume service: who may, what holds.

mod attachments;
mod hosts;
mod quotas;
mod render;
mod volumes;

pub(crate) use attachments::{EXPORT_OWED, HELD};
pub(crate) use hosts::was_heard_lately;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use yakumo_db::{Db, DbError};
use yakumo_rpc::Bus;
use yakumo_service::{Gather, Process};
use yakumo_types::{Env, Fault, FaultCode, RequestContext, VolumeId};
use yakumo_workflow::Engine;

use crate::config::Config;
use crate::store::{self, Walls, storage_host};

/// What every rule needs.
#[derive(Clone)]
pub struct App {
    /// Clock and chance.
    pub env: Env,
    /// The tables.
    pub db: Db,
    /// To the storage hosts.
    pub bus: Bus,
    /// For what takes more than a row.
    pub engine: Engine,
    /// The settings.
    pub config: Arc<Config>,
    /// What storage hosts said of themselves last.
    pub heard: Arc<Gather<storage_host::Model>>,
}

/// Between two writings of what storage hosts say of themselves.
const WRITE_HOSTS: Duration = Duration::from_secs(3);

pub(crate) fn volume_id(text: &str) -> Result<VolumeId, Fault> {
    text.parse().map_err(|_| no_volume(text))
}

pub(crate) fn no_volume(id: impl std::fmt::Display) -> Fault {
    Fault::not_found(format!("Volume {id} could not be found."))
}

/// Whether a fault means that the other side cannot be asked just now, rather
/// than that it refused.
pub(crate) fn is_away(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Unavailable | FaultCode::Timeout)
}

/// The words for a volume that is in the wrong state for what was asked.
pub(crate) fn wrong_status(volume: &store::volume::Model, what: &str) -> Fault {
    Fault::conflict(format!(
        "Volume {} is {}; it cannot be {what} now.",
        volume.id, volume.status
    ))
}

/// A compare-and-swap that lost means that somebody else was faster.
pub(crate) fn raced(error: DbError, what: &str) -> DbError {
    match error {
        DbError::Stale => DbError::Fault(Fault::conflict(format!(
            "The volume changed in the meantime; it cannot be {what} now."
        ))),
        other => other,
    }
}

impl App {
    /// Writes down what storage hosts say of themselves, until the process ends.
    pub async fn write_down_hosts(&self, process: &Process) {
        let write = |heard: BTreeMap<String, storage_host::Model>| {
            let db = self.db.clone();
            async move {
                let rows: Vec<storage_host::Model> = heard.into_values().collect();
                db.write(move |txn| {
                    let rows = rows.clone();
                    Box::pin(async move { store::storage_hosts::put(txn, rows).await })
                })
                .await?;
                Ok(())
            }
        };
        self.heard.write_down(process, WRITE_HOSTS, write).await;
    }

    /// Yakumo acting for itself.
    pub(crate) fn internal(&self) -> RequestContext {
        RequestContext::internal(self.env.id())
    }

    /// The volume within the walls, or 404: a foreign id looks like no id.
    pub(crate) async fn volume(
        &self,
        walls: Walls,
        id: VolumeId,
    ) -> Result<store::volume::Model, Fault> {
        store::volumes::find(self.db.read(), walls, id)
            .await?
            .ok_or_else(|| no_volume(id))
    }
}

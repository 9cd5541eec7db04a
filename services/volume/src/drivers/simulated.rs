//! A storage host without disks: it remembers what it was told.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use yakumo_types::{AttachmentId, Fault, VolumeId};

use super::{Export, Space, VolumeDriver};

/// Bookkeeping in place of bytes; for simulated hosts and tests.
#[derive(Debug, Default)]
pub struct SimulatedDriver {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    volumes: HashSet<VolumeId>,
    exports: HashMap<AttachmentId, VolumeId>,
}

impl SimulatedDriver {
    /// One that has these volumes already.
    pub fn with(volumes: impl IntoIterator<Item = VolumeId>) -> Self {
        let state = State {
            volumes: volumes.into_iter().collect(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl VolumeDriver for SimulatedDriver {
    async fn create(&self, volume: VolumeId, _size_gib: u64) -> Result<(), Fault> {
        self.state().volumes.insert(volume);
        Ok(())
    }

    async fn delete(&self, volume: VolumeId) -> Result<(), Fault> {
        let mut state = self.state();
        if state.exports.values().any(|exported| *exported == volume) {
            return Err(Fault::conflict("The volume is exported."));
        }
        state.volumes.remove(&volume);
        Ok(())
    }

    async fn export(&self, volume: VolumeId, export: &Export) -> Result<PathBuf, Fault> {
        let mut state = self.state();
        if !state.volumes.contains(&volume) {
            return Err(Fault::not_found(format!(
                "This host does not keep volume {volume}."
            )));
        }
        state.exports.insert(export.attachment_id, volume);
        Ok(PathBuf::from(format!(
            "/simulated/{}.sock",
            export.attachment_id
        )))
    }

    async fn unexport(&self, _volume: VolumeId, attachment: AttachmentId) -> Result<(), Fault> {
        self.state().exports.remove(&attachment);
        Ok(())
    }

    async fn is_exported(&self, _volume: VolumeId, attachment: AttachmentId) -> bool {
        self.state().exports.contains_key(&attachment)
    }

    async fn space(&self) -> Result<Space, Fault> {
        Ok(Space {
            free_gib: 1_000_000,
            total_gib: 1_000_000,
        })
    }
}

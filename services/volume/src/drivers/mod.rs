//! How a storage host keeps a volume's bytes and lets one server reach them.
//!
//! Every method may be repeated: a second time changes nothing and answers
//! the same.

mod file;
mod simulated;

use std::path::PathBuf;

use yakumo_types::{AttachmentId, Fault, VolumeId};

pub use file::FileDriver;
pub use simulated::SimulatedDriver;

/// One export of a volume: for one attachment, under an unguessable name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Export {
    /// The attachment that it is for.
    pub attachment_id: AttachmentId,
    /// The export's name, which a client must know.
    pub secret: String,
}

/// Room on a storage host, in GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free_gib: u64,
    /// What there is in all.
    pub total_gib: u64,
}

/// The type of a fault that a full disk has caused.
const NO_ROOM: &str = "NoRoom";

/// A full disk: what was asked for may be asked again once there is room.
pub(crate) fn no_room() -> Fault {
    Fault::unavailable("The storage host has no room left.").with_type(NO_ROOM)
}

/// Whether a full disk is what went wrong.
pub(crate) fn is_no_room(fault: &Fault) -> bool {
    fault.type_name() == Some(NO_ROOM)
}

/// What a storage host can do with volumes.
#[async_trait::async_trait]
pub trait VolumeDriver: Send + Sync + 'static {
    /// Makes an empty volume of `size_gib`; [`no_room`] when there is none.
    async fn create(&self, volume: VolumeId, size_gib: u64) -> Result<(), Fault>;

    /// Removes the volume's bytes; fine when there are none.
    async fn delete(&self, volume: VolumeId) -> Result<(), Fault>;

    /// Lets the holder of the secret reach the volume; returns the socket.
    async fn export(&self, volume: VolumeId, export: &Export) -> Result<PathBuf, Fault>;

    /// Ends an export; returns once nothing can write any more.
    async fn unexport(&self, volume: VolumeId, attachment: AttachmentId) -> Result<(), Fault>;

    /// Whether the export can be reached.
    async fn is_exported(&self, volume: VolumeId, attachment: AttachmentId) -> bool;

    /// Room that is left.
    async fn space(&self) -> Result<Space, Fault>;
}

//! What the agent keeps of one server on its own disk.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use yakumo_contracts::common::Fence;
use yakumo_contracts::compute_host::{DesiredServer, VolumeConnection};
use yakumo_types::{Fault, ServerId, Timestamp};

use crate::claims::Amount;
use crate::decision::{Disk, Memory, Plugged, Power, Reboot, Wish};

/// The layout of the file; raised when an old agent could not read a new one.
pub const FORMAT: u32 = 1;

/// How many workflows' epochs a server remembers. Workflows on one server
/// follow each other, so only the last few can still have live messages.
const FENCES: usize = 8;

/// A promise of resources, made for one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The generation that it was made for.
    pub generation: u64,
    /// What was promised.
    pub amount: Amount,
    /// The project that it counts for.
    pub project_id: String,
}

/// The highest epoch seen of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceMark {
    /// The workflow.
    pub workflow_id: String,
    /// Its highest epoch.
    pub epoch: u64,
}

/// Everything that the agent keeps of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The server; also the file's name.
    pub server_id: ServerId,
    /// What is promised to it.
    pub claim: Option<Claim>,
    /// The newest wish, as protobuf, so that it may grow fields.
    #[serde(with = "as_protobuf")]
    pub desired: Option<DesiredServer>,
    /// What the agent remembers besides.
    pub memory: Memory,
    /// Claims and wishes below this generation come too late.
    pub floor: u64,
    /// Epochs of the workflows that act on it, newest last.
    pub fences: Vec<FenceMark>,
    /// When the record last changed.
    pub changed_at: Timestamp,
}

impl Record {
    /// Of a server that was not heard of before.
    pub fn new(server_id: ServerId, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            server_id,
            claim: None,
            desired: None,
            memory: Memory::default(),
            floor: 0,
            fences: Vec::new(),
            changed_at: now,
        }
    }

    /// Refuses a message of a worker that was overtaken, and notes the epoch
    /// of one that was not.
    pub fn pass_fence(&mut self, fence: Option<&Fence>) -> Result<(), Fault> {
        let Some(fence) = fence.filter(|fence| !fence.workflow_id.is_empty()) else {
            return Ok(());
        };
        let known = self
            .fences
            .iter_mut()
            .find(|mark| mark.workflow_id == fence.workflow_id);
        match known {
            Some(mark) if fence.epoch < mark.epoch => Err(Fault::stale(format!(
                "Epoch {} of the workflow was overtaken by epoch {}.",
                fence.epoch, mark.epoch
            ))),
            Some(mark) => {
                mark.epoch = fence.epoch;
                Ok(())
            }
            None => {
                if self.fences.len() >= FENCES {
                    self.fences.remove(0);
                }
                self.fences.push(FenceMark {
                    workflow_id: fence.workflow_id.clone(),
                    epoch: fence.epoch,
                });
                Ok(())
            }
        }
    }

    /// Whether everything of the server is gone and only the tombstone is left.
    pub fn is_tombstone(&self) -> bool {
        self.memory.disk == Disk::Removed
    }

    /// Whether there is neither claim nor wish: only fences and the floor.
    pub fn is_bare(&self) -> bool {
        self.claim.is_none() && self.desired.is_none()
    }

    /// The part of the desired state that decisions depend on.
    pub fn wish(&self) -> Option<Wish> {
        self.desired.as_ref().map(wish)
    }
}

/// The part of a desired state that decisions depend on. The state was checked
/// when it was accepted; what is unreadable counts as not there.
pub fn wish(desired: &DesiredServer) -> Wish {
    use yakumo_contracts::compute_host::Power as Wire;
    let power = match desired.power() {
        Wire::Running => Power::Running,
        Wire::Paused => Power::Paused,
        Wire::Absent => Power::Absent,
        Wire::Stopped | Wire::Unspecified => Power::Stopped,
    };
    Wish {
        generation: desired.generation,
        power,
        reboot_count: desired.reboot_count,
        reboot: if desired.reboot_hard {
            Reboot::Hard
        } else {
            Reboot::Soft
        },
        volumes: volumes(desired).iter().filter_map(plugged).collect(),
        grace: std::time::Duration::from_secs(u64::from(desired.stop_timeout_seconds)),
    }
}

/// What a connection is when it is plugged in; nothing if it is unreadable.
pub fn plugged(connection: &VolumeConnection) -> Option<Plugged> {
    Some(Plugged {
        volume: connection.volume_id.parse().ok()?,
        socket: connection.nbd_socket.clone(),
    })
}

/// The volumes of a desired state.
pub fn volumes(desired: &DesiredServer) -> &[VolumeConnection] {
    desired.spec.as_ref().map_or(&[], |spec| &spec.volumes)
}

mod as_protobuf {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use prost::Message as _;
    use serde::de::Error as _;

    use super::{Deserialize, Deserializer, DesiredServer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(
        desired: &Option<DesiredServer>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        desired
            .as_ref()
            .map(|desired| STANDARD.encode(desired.encode_to_vec()))
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DesiredServer>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        DesiredServer::decode(bytes.as_slice())
            .map(Some)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_types::FaultCode;

    fn fence(workflow: &str, epoch: u64) -> Fence {
        Fence {
            workflow_id: workflow.into(),
            step: "set_desired".into(),
            epoch,
        }
    }

    #[test]
    fn a_lower_epoch_of_the_same_workflow_is_refused() {
        let mut record = Record::new(
            ServerId::from_uuid(uuid::Uuid::from_u128(1)),
            Timestamp::default(),
        );
        record.pass_fence(Some(&fence("a", 5))).unwrap();
        record.pass_fence(Some(&fence("a", 5))).unwrap();
        record.pass_fence(Some(&fence("b", 1))).unwrap();
        let fault = record.pass_fence(Some(&fence("a", 4))).unwrap_err();
        assert_eq!(fault.code, FaultCode::Stale);
        record.pass_fence(None).unwrap();
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut record = Record::new(
            ServerId::from_uuid(uuid::Uuid::from_u128(1)),
            Timestamp::from_secs(7),
        );
        record.desired = Some(DesiredServer {
            generation: 3,
            reboot_count: 2,
            ..DesiredServer::default()
        });
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}

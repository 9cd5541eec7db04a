//! What the storage agent must not forget: one small file for each volume,
//! written and synced before a change is answered.
//!
//! A removed volume leaves a tombstone for a while, in a folder beside: a
//! request to make it that was sent before its removal may still be on its way,
//! and must find out that it comes too late.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};
use yakumo_contracts::common::Fence;
use yakumo_types::{Fault, Timestamp, VolumeId};

use crate::drivers::{Export, is_no_room, no_room};

/// What is known of one volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// GiB.
    pub size_gib: u64,
    /// The one export, if there is one.
    pub export: Option<Export>,
    /// The newest epoch that made or removed the volume; older ones are refused.
    pub epoch: u64,
    /// The newest epoch that exported it: these workflows are another
    /// service's, and epochs of two databases do not compare.
    pub export_epoch: u64,
    /// When it was removed, in microseconds; 0 while it is kept.
    #[serde(default)]
    pub removed_at: i64,
}

impl Record {
    /// Whether this is only the memory of a volume.
    pub const fn is_tombstone(&self) -> bool {
        self.removed_at != 0
    }
}

/// Refuses a worker that was overtaken by another one, and remembers the
/// newest. Epochs order all workflows of one service.
pub fn admit(newest: &mut u64, fence: Option<&Fence>) -> Result<(), Fault> {
    let Some(fence) = fence else {
        return Err(Fault::invalid(
            "A change must say which workflow step it is for.",
        ));
    };
    if fence.epoch < *newest {
        return Err(Fault::stale(
            "The volume was changed by a newer workflow step.",
        ));
    }
    *newest = fence.epoch;
    Ok(())
}

/// Like [`admit`], for what ends something: from here on what came before is
/// refused even if it carries the same epoch, for a step and its undoing do. If
/// it has `ended` already, the same may be said once more.
pub fn admit_last(newest: &mut u64, fence: Option<&Fence>, ended: bool) -> Result<(), Fault> {
    let floor = fence.map(|fence| fence.epoch.saturating_add(1));
    if ended && floor == Some(*newest) {
        return Ok(());
    }
    admit(newest, fence)?;
    *newest = newest.saturating_add(1);
    Ok(())
}

/// Bytes that are kept on the disk for records that end something.
const RESERVE: usize = 64 * 1024;

type Slot = Arc<Mutex<Option<Record>>>;

/// All records of a host. Changes to one volume happen one after the other.
pub struct Records {
    folder: PathBuf,
    tombstones: PathBuf,
    reserve: PathBuf,
    slots: Mutex<HashMap<VolumeId, Slot>>,
}

impl Records {
    /// Reads what is in `folder` and the `tombstones`. A file that cannot be
    /// read is set aside and reported, since guessing would be worse than
    /// asking an operator.
    pub async fn load(folder: &Path, tombstones: &Path) -> std::io::Result<Self> {
        let mut slots = read(folder).await?;
        for (id, tombstone) in read(tombstones).await? {
            // Both are there after a crash in between; the newer one holds.
            let newer = slots
                .get(&id)
                .is_some_and(|record| record.epoch >= tombstone.epoch);
            if !newer {
                slots.insert(id, tombstone);
            }
        }
        let slots = slots
            .into_iter()
            .map(|(id, record)| (id, Arc::new(Mutex::new(Some(record)))))
            .collect();
        let records = Self {
            folder: folder.to_path_buf(),
            tombstones: tombstones.to_path_buf(),
            reserve: folder.with_file_name("reserve"),
            slots: Mutex::new(slots),
        };
        records.keep_reserve().await;
        Ok(records)
    }

    /// Takes some room on the disk as long as there is any.
    pub async fn keep_reserve(&self) {
        let file = self.reserve.clone();
        let kept = blocking(move || {
            if file.exists() {
                return Ok(());
            }
            yakumo_host::write_durably(&file, &[0; RESERVE], 0o600)
        });
        if let Err(error) = kept.await {
            // Often, for as long as the disk is full; whoever writes there says so.
            tracing::debug!(%error, "there is no room to keep for records");
        }
    }

    /// Like [`Records::save`], for what ends something: when the disk is full, the
    /// reserve makes room. What is on a full disk could not be let go otherwise.
    pub async fn save_end(&self, volume: VolumeId, record: &Record) -> Result<(), Fault> {
        match self.save(volume, record).await {
            Err(fault) if is_no_room(&fault) => {
                let file = self.reserve.clone();
                // Without one there is no room to be made, as it turns out below.
                let _ = blocking(move || yakumo_host::remove_durably(&file)).await;
                self.save(volume, record).await
            }
            other => other,
        }
    }

    /// The volume's record, held until the guard is dropped.
    pub async fn lock(&self, volume: VolumeId) -> OwnedMutexGuard<Option<Record>> {
        let slot = Arc::clone(self.slots.lock().await.entry(volume).or_default());
        slot.lock_owned().await
    }

    /// Makes the record durable.
    pub async fn save(&self, volume: VolumeId, record: &Record) -> Result<(), Fault> {
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|_| Fault::internal("A volume's record could not be written."))?;
        let name = format!("{volume}.json");
        let (path, other) = if record.is_tombstone() {
            (self.tombstones.join(&name), self.folder.join(&name))
        } else {
            (self.folder.join(&name), self.tombstones.join(&name))
        };
        let file = path.clone();
        let stored = blocking(move || {
            yakumo_host::write_durably(&file, &bytes, 0o600)?;
            yakumo_host::remove_durably(&other)
        });
        stored.await.map_err(|error| {
            tracing::error!(%error, file = %path.display(), "could not store a volume's record");
            match error.kind() {
                ErrorKind::StorageFull => no_room(),
                _ => Fault::unavailable("The storage host could not store the volume's record."),
            }
        })
    }

    /// Forgets what was removed longer than `age` ago, which must be longer
    /// than any request is on its way.
    pub async fn purge(&self, now: Timestamp, age: Duration) {
        let before = now.minus(age).as_micros();
        let mut old = Vec::new();
        {
            let mut slots = self.slots.lock().await;
            slots.retain(|id, slot| {
                // Whoever has the slot got it under this lock, so that nobody
                // can come to it while it goes.
                if Arc::strong_count(slot) != 1 {
                    return true;
                }
                let Ok(record) = slot.try_lock() else {
                    return true;
                };
                match record.as_ref() {
                    // Somebody asked about a volume that is not here.
                    None => false,
                    Some(record) if record.is_tombstone() && record.removed_at < before => {
                        old.push(*id);
                        false
                    }
                    Some(_) => true,
                }
            });
            // Under the lock as well: a volume of that id cannot come back
            // before its tombstone is gone.
            for id in old {
                let path = self.tombstones.join(format!("{id}.json"));
                if let Err(error) = blocking(move || yakumo_host::remove_durably(&path)).await {
                    // It is read again after the next start, and tried again.
                    tracing::warn!(volume = %id, %error, "a tombstone could not be removed");
                }
            }
        }
    }

    /// A copy of everything that is kept.
    pub async fn all(&self) -> Vec<(VolumeId, Record)> {
        let slots: Vec<_> = self
            .slots
            .lock()
            .await
            .iter()
            .map(|(id, slot)| (*id, Arc::clone(slot)))
            .collect();
        let mut all = Vec::with_capacity(slots.len());
        for (id, slot) in slots {
            let record = slot.lock().await.clone();
            if let Some(record) = record.filter(|record| !record.is_tombstone()) {
                all.push((id, record));
            }
        }
        all
    }
}

async fn read(folder: &Path) -> std::io::Result<HashMap<VolumeId, Record>> {
    tokio::fs::create_dir_all(folder).await?;
    let mut records = HashMap::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<VolumeId>().ok());
        let record = serde_json::from_slice::<Record>(&tokio::fs::read(&path).await?);
        match (id, record) {
            (Some(id), Ok(record)) => {
                records.insert(id, record);
            }
            _ => {
                tracing::error!(file = %path.display(), "a volume's record cannot be read and was set aside");
                tokio::fs::rename(&path, path.with_extension("unreadable")).await?;
            }
        }
    }
    Ok(records)
}

async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<()> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use yakumo_types::FaultCode;

    use super::*;

    fn fence(epoch: u64) -> Fence {
        Fence {
            workflow_id: "a".into(),
            step: "export".into(),
            epoch,
        }
    }

    #[test]
    fn a_worker_that_was_overtaken_is_refused() {
        let mut newest = 0;
        admit(&mut newest, Some(&fence(3))).unwrap();
        admit(&mut newest, Some(&fence(3))).unwrap();
        assert_eq!(
            admit(&mut newest, Some(&fence(2))).unwrap_err().code,
            FaultCode::Stale
        );
        admit(&mut newest, Some(&fence(4))).unwrap();
        assert!(admit(&mut newest, None).is_err());
    }

    #[test]
    fn what_was_ended_is_not_begun_again_by_the_same_claim() {
        let mut newest = 0;
        admit(&mut newest, Some(&fence(3))).unwrap();
        admit_last(&mut newest, Some(&fence(3)), false).unwrap();
        admit_last(&mut newest, Some(&fence(3)), true).unwrap();
        assert_eq!(
            admit(&mut newest, Some(&fence(3))).unwrap_err().code,
            FaultCode::Stale
        );
        assert_eq!(
            admit_last(&mut newest, Some(&fence(2)), true)
                .unwrap_err()
                .code,
            FaultCode::Stale
        );
        // The next claim begins it anew, and is not ended by the one before.
        admit(&mut newest, Some(&fence(4))).unwrap();
        assert_eq!(
            admit_last(&mut newest, Some(&fence(3)), false)
                .unwrap_err()
                .code,
            FaultCode::Stale
        );
        assert!(admit_last(&mut 0, None, true).is_err());
    }

    #[tokio::test]
    async fn a_tombstone_outlives_a_restart_and_goes_when_it_is_old_and_nobody_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, removed) = (folder.path().join("records"), folder.path().join("tombs"));
        let id = VolumeId::from_uuid(uuid::Uuid::from_u128(1));
        let live = Record {
            epoch: 5,
            ..Record::default()
        };
        let tombstone = Record {
            epoch: 6,
            removed_at: 1_000_000,
            ..Record::default()
        };
        let now = Timestamp::from_micros(10_000_000);
        let files = |folder: &Path| std::fs::read_dir(folder).unwrap().count();

        let records = Records::load(&kept, &removed).await.unwrap();
        records.save(id, &live).await.unwrap();
        records.save(id, &tombstone).await.unwrap();
        assert_eq!((files(&kept), files(&removed)), (0, 1));

        let records = Records::load(&kept, &removed).await.unwrap();
        assert!(records.all().await.is_empty());
        let held = records.lock(id).await;
        assert_eq!(*held, Some(tombstone.clone()));
        records.purge(now, Duration::from_secs(1)).await;
        assert_eq!(files(&removed), 1, "somebody holds it");
        drop(held);
        records.purge(now, Duration::from_secs(60)).await;
        assert_eq!(files(&removed), 1, "it is young");
        records.purge(now, Duration::from_secs(1)).await;
        assert_eq!(files(&removed), 0);
        assert_eq!(*records.lock(id).await, None);

        // A crash between the two files of a change leaves both.
        records.save(id, &tombstone).await.unwrap();
        let bytes = serde_json::to_vec(&live).unwrap();
        std::fs::write(kept.join(format!("{id}.json")), bytes).unwrap();
        let records = Records::load(&kept, &removed).await.unwrap();
        assert_eq!(*records.lock(id).await, Some(tombstone));
    }

    /// A host that was upgraded finds the records of the last release.
    #[test]
    fn the_previous_releases_records_are_read() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous/record.json");
        let sample = Record {
            size_gib: 1,
            export: Some(Export {
                attachment_id: yakumo_types::AttachmentId::from_uuid(uuid::Uuid::from_u128(1)),
                secret: "secret".into(),
            }),
            epoch: 2,
            export_epoch: 3,
            removed_at: 4,
        };
        yakumo_testing::recorded::is_still_read(&file, &sample).unwrap();
    }
}

//! Files in folders of a folder: `<root>/<first two digits>/<blob>`, and
//! `<blob>.part` while it is written. A finished file appears by a rename
//! after an fsync, so there is never a half-written one under its final name.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::{Blob, BlobId, BlobWriter, ImageStore};
use crate::app::inspect::ReadAt;

const PART: &str = "part";

/// Image data in local (or network) files.
#[derive(Debug)]
pub struct FileStore {
    root: PathBuf,
}

impl FileStore {
    /// Uses `root`, which is made if it is not there.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    fn folder(&self, blob: BlobId) -> PathBuf {
        let name = blob.to_string();
        self.root.join(name.get(..2).unwrap_or("00"))
    }

    fn path(&self, blob: BlobId) -> PathBuf {
        self.folder(blob).join(blob.to_string())
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl ImageStore for FileStore {
    fn name(&self) -> &'static str {
        "file"
    }

    fn begin(&self, blob: BlobId) -> io::Result<Box<dyn BlobWriter>> {
        let folder = self.folder(blob);
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            sync_folder(&self.root)?;
        }
        let path = self.path(blob);
        let part = path.with_extension(PART);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        Ok(Box::new(FileWriter {
            data: FileBlob { file, length: 0 },
            early: EarlySync::default(),
            part: Some(part),
            path,
        }))
    }

    fn open(&self, blob: BlobId) -> io::Result<Box<dyn Blob>> {
        let file = File::open(self.path(blob))?;
        let length = file.metadata()?.len();
        Ok(Box::new(FileBlob { file, length }))
    }

    fn remove(&self, blob: BlobId) -> io::Result<()> {
        let path = self.path(blob);
        for path in [path.with_extension(PART), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn list(&self, after: Option<BlobId>, limit: usize) -> io::Result<Vec<BlobId>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.file_name());
            }
        }
        folders.sort();
        let first = after.map(|blob| blob.to_string().chars().take(2).collect::<String>());
        let mut found = Vec::new();
        for folder in folders {
            if first
                .as_deref()
                .is_some_and(|first| folder.to_string_lossy().as_ref() < first)
            {
                continue;
            }
            // A set: a finished file and a left-over part are one blob.
            let mut blobs = BTreeSet::new();
            for entry in fs::read_dir(self.root.join(&folder))? {
                let name = entry?.file_name();
                let name = name.to_string_lossy();
                let stem = name.strip_suffix(".part").unwrap_or(&name);
                if let Some(blob) = BlobId::parse(stem)
                    && after.is_none_or(|after| blob > after)
                {
                    blobs.insert(blob);
                }
            }
            found.extend(blobs);
            if found.len() >= limit {
                found.truncate(limit);
                break;
            }
        }
        Ok(found)
    }
}

struct FileBlob {
    file: File,
    length: u64,
}

impl ReadAt for FileBlob {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

struct FileWriter {
    data: FileBlob,
    early: EarlySync,
    /// The path to remove when this is dropped; none after the rename.
    part: Option<PathBuf>,
    path: PathBuf,
}

impl BlobWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.data.file.write_all(bytes)?;
        self.data.length += bytes.len() as u64;
        self.early.written(&self.data.file, bytes.len() as u64)
    }

    fn written(&self) -> &dyn Blob {
        &self.data
    }

    fn commit(mut self: Box<Self>) -> io::Result<()> {
        self.early.finish()?;
        self.data.file.sync_all()?;
        if let Some(part) = &self.part {
            fs::rename(part, &self.path)?;
        }
        self.part = None;
        self.path.parent().map_or(Ok(()), sync_folder)
    }
}

/// Bytes after which the disk is told to begin.
const SYNC_STEP: u64 = 32 << 20;

/// Lets the disk write while the client still sends; otherwise all of a large
/// image would go to the disk at the end, while the client waits.
#[derive(Default)]
struct EarlySync {
    waiting: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl EarlySync {
    fn written(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.waiting += bytes;
        if self.waiting < SYNC_STEP {
            return Ok(());
        }
        self.waiting = 0;
        let (order, _) = match &self.thread {
            Some(thread) => thread,
            None => {
                let file = file.try_clone()?;
                let (send, receive) = sync_channel(1);
                let thread = thread::Builder::new()
                    .name("image sync".to_owned())
                    // The system tells a failed write once, so it must not be
                    // dropped: `finish` asks for it.
                    .spawn(move || receive.iter().try_for_each(|()| file.sync_data()))?;
                self.thread.insert((send, thread))
            }
        };
        // One order waits already, or the thread has failed: both are fine here.
        let _ = order.try_send(());
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.thread.take() {
            None => Ok(()),
            Some((order, thread)) => {
                drop(order);
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the sync thread panicked")))
            }
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // What stays is found by the reconciler.
            let _ = fs::remove_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn blob(number: u128) -> BlobId {
        BlobId::from(Uuid::from_u128(number << 64))
    }

    #[test]
    fn a_blob_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(folder.path()).unwrap();
        let mut writer = store.begin(blob(1)).unwrap();
        writer.write(b"hello ").unwrap();
        writer.write(b"world").unwrap();
        assert_eq!(writer.written().bytes(3, 100).unwrap(), b"lo world");
        assert!(store.open(blob(1)).is_err());
        writer.commit().unwrap();
        let reader = store.open(blob(1)).unwrap();
        store.remove(blob(1)).unwrap();
        assert_eq!(reader.bytes(0, 100).unwrap(), b"hello world");
        assert!(store.open(blob(1)).is_err());
        store.remove(blob(1)).unwrap();
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(folder.path()).unwrap();
        let mut writer = store.begin(blob(1)).unwrap();
        writer.write(b"half").unwrap();
        assert_eq!(store.list(None, 10).unwrap(), [blob(1)]);
        drop(writer);
        assert!(store.list(None, 10).unwrap().is_empty());
    }

    #[test]
    fn a_listing_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(folder.path()).unwrap();
        for number in [1, 1 << 60, 2, 1 << 61] {
            store.begin(blob(number)).unwrap().commit().unwrap();
        }
        let mut seen = Vec::new();
        while let [blob] = store.list(seen.last().copied(), 1).unwrap()[..] {
            seen.push(blob);
        }
        assert_eq!(seen, [blob(1), blob(2), blob(1 << 60), blob(1 << 61)]);
    }
}

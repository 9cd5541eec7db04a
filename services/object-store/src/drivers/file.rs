//! One node, one disk: `<root>/incoming/<blob>` and, once settled,
//! `<root>/data/<ab>/<cd>/<blob>`, so that no folder grows beyond what a file
//! system likes. 65,536 folders hold a hundred million objects by some
//! thousand each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use yakumo_types::{Clock, Timestamp};

use super::{Backend, Blob, BlobId, BlobWriter};

/// Data in local files.
pub struct FileBackend {
    incoming: PathBuf,
    data: PathBuf,
    clock: Arc<dyn Clock>,
}

impl FileBackend {
    /// Uses `root`, which is made if it is not there. `clock` tells the age of
    /// files.
    pub fn open(root: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let backend = Self {
            incoming: root.join("incoming"),
            data: root.join("data"),
            clock,
        };
        fs::create_dir_all(&backend.incoming)?;
        fs::create_dir_all(&backend.data)?;
        Ok(backend)
    }

    fn arriving(&self, blob: BlobId) -> PathBuf {
        self.incoming.join(blob.to_string())
    }

    fn settled(&self, blob: BlobId) -> PathBuf {
        let name = blob.to_string();
        self.data
            .join(name.get(..2).unwrap_or("00"))
            .join(name.get(2..4).unwrap_or("00"))
            .join(name)
    }
}

impl Backend for FileBackend {
    fn begin(&self, blob: BlobId) -> io::Result<Box<dyn BlobWriter>> {
        let path = self.arriving(blob);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Box::new(FileWriter {
            file,
            folder: self.incoming.clone(),
            path: Some(path),
        }))
    }

    fn settle(&self, blob: BlobId) -> io::Result<()> {
        let to = self.settled(blob);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::rename(self.arriving(blob), to) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn open(&self, blob: BlobId) -> io::Result<Box<dyn Blob>> {
        // It may be settled between the first look and the second one.
        for path in [self.settled(blob), self.arriving(blob), self.settled(blob)] {
            match File::open(path) {
                Ok(file) => return Ok(Box::new(FileBlob { file })),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::NotFound.into())
    }

    fn remove(&self, blob: BlobId) -> io::Result<()> {
        for path in [self.arriving(blob), self.settled(blob)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn incoming(&self, limit: usize) -> io::Result<Vec<(BlobId, Duration)>> {
        let now = self.clock.now();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.incoming)? {
            if found.len() >= limit {
                break;
            }
            let entry = entry?;
            let Some(blob) = BlobId::parse(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Settled or discarded just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let written = metadata
                .modified()?
                .duration_since(std::time::UNIX_EPOCH)
                .map(|since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
                .unwrap_or(0);
            found.push((blob, now.since(Timestamp::from_micros(written))));
        }
        Ok(found)
    }
}

struct FileBlob {
    file: File,
}

impl Blob for FileBlob {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self
                .file
                .read_at(rest, offset.saturating_add(filled as u64))
            {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

struct FileWriter {
    file: File,
    folder: PathBuf,
    /// The path to remove when this is dropped; none once it is sealed.
    path: Option<PathBuf>,
}

impl BlobWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn seal(mut self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        self.path = None;
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What stays is found by the reconciler.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn blob(number: u128) -> BlobId {
        BlobId::from(Uuid::from_u128(number))
    }

    fn read(backend: &FileBackend, id: BlobId) -> Vec<u8> {
        let mut buffer = vec![0; 100];
        let blob = backend.open(id).unwrap();
        let count = blob.read_at(&mut buffer, 0).unwrap();
        buffer.truncate(count);
        buffer
    }

    #[test]
    fn a_blob_can_be_read_once_it_is_sealed_and_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let backend = FileBackend::open(folder.path(), yakumo_service::system_env().clock).unwrap();
        let mut writer = backend.begin(blob(1)).unwrap();
        writer.write(b"data").unwrap();
        writer.seal().unwrap();
        assert_eq!(read(&backend, blob(1)), b"data");
        assert_eq!(backend.incoming(10).unwrap().len(), 1);
        let reader = backend.open(blob(1)).unwrap();
        backend.settle(blob(1)).unwrap();
        backend.settle(blob(1)).unwrap();
        assert_eq!(read(&backend, blob(1)), b"data");
        assert!(backend.incoming(10).unwrap().is_empty());

        let mut copy = backend.begin(blob(2)).unwrap();
        copy.append(&*reader).unwrap();
        copy.seal().unwrap();
        backend.remove(blob(1)).unwrap();
        backend.remove(blob(1)).unwrap();
        assert!(backend.open(blob(1)).is_err());
        assert_eq!(read(&backend, blob(2)), b"data");
        drop(backend.begin(blob(3)).unwrap());
        assert!(backend.open(blob(3)).is_err());
        assert_eq!(backend.incoming(10).unwrap().len(), 1);
    }
}

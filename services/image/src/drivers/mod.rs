//! Where image data lives. The file store is the embedded default; an object
//! store and Ceph RBD take the same place.
//!
//! Data is written once under a fresh [`BlobId`] and never changed, so a
//! reader needs no lock: deleting a file that is being read takes it away when
//! the last reader is done. Which blob belongs to which image is the
//! database's business alone; a blob that no row names is litter and the
//! reconciler removes it.
//!
//! All of it blocks: call it from a blocking thread.

pub mod file;

use std::fmt;
use std::io;

use uuid::Uuid;

use crate::app::inspect::ReadAt;

/// Names the data of one upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(Uuid);

impl BlobId {
    /// The blob of that name, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl From<Uuid> for BlobId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), out)
    }
}

/// Stored bytes, open for reading.
pub trait Blob: ReadAt + Send + Sync {}

impl<T: ReadAt + Send + Sync> Blob for T {}

/// Bytes on their way in. Dropping it discards them.
pub trait BlobWriter: Send {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// What was written so far.
    fn written(&self) -> &dyn Blob;

    /// Makes the bytes durable and readable under the blob's name.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// Keeps image data.
pub trait ImageStore: Send + Sync + 'static {
    /// For logs and for `/v2/info/stores`.
    fn name(&self) -> &'static str;

    /// Starts a blob; nobody can read it before it is committed.
    fn begin(&self, blob: BlobId) -> io::Result<Box<dyn BlobWriter>>;

    /// Opens a committed blob; `NotFound` if there is none.
    fn open(&self, blob: BlobId) -> io::Result<Box<dyn Blob>>;

    /// Removes a blob and what an unfinished upload left of it; it is no
    /// error if there is none.
    fn remove(&self, blob: BlobId) -> io::Result<()>;

    /// Up to `limit` blobs, finished or not, in order of their ids, behind
    /// `after`.
    fn list(&self, after: Option<BlobId>, limit: usize) -> io::Result<Vec<BlobId>>;
}

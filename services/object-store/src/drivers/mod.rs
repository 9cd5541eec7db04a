//! Where objects' data lives.
//!
//! [`Backend`] is the seam behind which one node's disk becomes a ring of
//! nodes with replicas: data is written once under a fresh [`BlobId`], never
//! changed, read from anywhere in it, and removed. What an object is called,
//! who may read it and which blob it has is the index's business alone.
//!
//! Writing has two steps. [`BlobWriter::seal`] makes the data durable; it can
//! be read from then on, and counts as *incoming*. [`Backend::settle`] ends
//! that, once the index names the blob. After a crash in between, only the
//! few incoming blobs have to be compared with the index, not all there are.

pub mod file;

use std::fmt;
use std::io;
use std::time::Duration;

use uuid::Uuid;

/// Names the data of one object.
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
pub trait Blob: Send + Sync {
    /// Fills `buffer` from `offset` as far as there are bytes; returns how
    /// many there were.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Bytes on their way in. Dropping it before [`BlobWriter::seal`] discards them.
pub trait BlobWriter: Send {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Appends all of another blob.
    fn append(&mut self, from: &dyn Blob) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            let count = from.read_at(&mut buffer, offset)?;
            if count == 0 {
                return Ok(());
            }
            self.write(buffer.get(..count).unwrap_or_default())?;
            offset += count as u64;
        }
    }

    /// Makes the bytes durable and readable.
    fn seal(self: Box<Self>) -> io::Result<()>;
}

/// Keeps objects' data. All of it blocks: call it from a blocking thread.
pub trait Backend: Send + Sync + 'static {
    /// Starts a blob.
    fn begin(&self, blob: BlobId) -> io::Result<Box<dyn BlobWriter>>;

    /// The index names the blob now. It is no error if that is done already.
    fn settle(&self, blob: BlobId) -> io::Result<()>;

    /// Opens a sealed blob; `NotFound` if there is none.
    fn open(&self, blob: BlobId) -> io::Result<Box<dyn Blob>>;

    /// Removes a blob in any state; it is no error if there is none.
    fn remove(&self, blob: BlobId) -> io::Result<()>;

    /// Blobs that are not settled, each with the time that passed since it was
    /// last written to; at most `limit`.
    fn incoming(&self, limit: usize) -> io::Result<Vec<(BlobId, Duration)>>;
}

//! Objects' data, in and out, in constant memory.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use md5::{Digest, Md5};
use tokio::task::JoinHandle;
use yakumo_types::{Fault, FaultCode};

use super::{ObjectStore, blocking, storage_fault};
use crate::drivers::{Backend, Blob, BlobId, BlobWriter};

/// Bytes that are hashed and written at a time.
const BATCH_BYTES: usize = 1 << 20;
/// The same for bodies that come in crumbs.
const BATCH_PIECES: usize = 1_024;
/// Bytes that are read at a time.
const READ_CHUNK: usize = 512 * 1024;
/// Pieces that are read ahead.
const AHEAD: usize = 3;
/// Objects up to here are read at once, without a stream.
const SMALL: u64 = 64 * 1024;

/// The body ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
pub struct BodyCut;

/// Data that is durable, and not an object's yet. Dropping it leaves it to the
/// reconciler.
pub struct Incoming {
    /// None for no bytes.
    pub blob: Option<Held>,
    /// Bytes.
    pub size: u64,
    /// MD5, hexadecimal.
    pub etag: String,
}

/// Keeps the reconciler from a blob while it is in the making.
pub struct Held {
    /// The blob.
    pub id: BlobId,
    store: ObjectStore,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.store.active.remove(&self.id);
    }
}

/// The part of the data that is wanted: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl ObjectStore {
    /// A fresh blob that the reconciler leaves alone.
    pub(super) fn hold(&self) -> Held {
        let id = BlobId::from(self.process.env.rng.uuid());
        self.active.insert(id);
        Held {
            id,
            store: self.clone(),
        }
    }

    /// Takes a body in. 413 over the limit; a body that is cut off leaves
    /// nothing.
    pub(super) async fn receive(
        &self,
        body: impl Stream<Item = Result<Bytes, BodyCut>> + Send,
    ) -> Result<Incoming, Fault> {
        let limit = self.config.max_object_bytes;
        let idle = self.idle_timeout();
        let mut body = pin!(body);
        let mut intake: Option<Intake> = None;
        let mut size: u64 = 0;
        loop {
            let piece = match tokio::time::timeout(idle, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(BodyCut))) => {
                    return Err(Fault::invalid("The upload was cut off."));
                }
                Ok(None) => break,
                Err(_) => return Err(Fault::invalid("The upload stood still for too long.")),
            };
            if piece.is_empty() {
                continue;
            }
            size += piece.len() as u64;
            if size > limit {
                return Err(too_large(limit));
            }
            // An object without bytes has no file.
            let intake =
                intake.get_or_insert_with(|| Intake::new(Arc::clone(&self.backend), self.hold()));
            intake.push(piece).await?;
        }
        match intake {
            None => Ok(Incoming {
                blob: None,
                size: 0,
                etag: hex::encode(Md5::digest(b"")),
            }),
            Some(intake) => intake.finish(size).await,
        }
    }

    /// Makes a second blob of the same bytes.
    pub(super) async fn duplicate(&self, from: BlobId) -> Result<Held, Fault> {
        let held = self.hold();
        let (backend, id) = (Arc::clone(&self.backend), held.id);
        blocking(move || {
            let source = backend.open(from)?;
            let mut writer = backend.begin(id)?;
            writer.append(&*source)?;
            writer.seal()
        })
        .await?
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::not_found("The source went away."),
            _ => storage_fault(&error),
        })?;
        Ok(held)
    }

    /// The object has its row: the blob is no longer incoming. What fails here
    /// is mended by the reconciler.
    pub(super) async fn settle(&self, held: Option<Held>) {
        let Some(held) = held else {
            return;
        };
        let (backend, id) = (Arc::clone(&self.backend), held.id);
        if let Ok(Err(error)) = blocking(move || backend.settle(id)).await {
            tracing::warn!(%error, blob = %id, "a blob waits to be settled");
        }
    }

    /// The object did not get its row: removes the data.
    pub(super) async fn discard(&self, held: Option<Held>) {
        let Some(held) = held else {
            return;
        };
        let (backend, id) = (Arc::clone(&self.backend), held.id);
        if let Ok(Err(error)) = blocking(move || backend.remove(id)).await {
            tracing::warn!(%error, blob = %id, "a blob waits to be removed");
        }
    }

    /// Opens data; nothing if it is gone.
    pub(super) async fn open(&self, blob: BlobId) -> Result<Option<Data>, Fault> {
        let backend = Arc::clone(&self.backend);
        match blocking(move || backend.open(blob)).await? {
            Ok(blob) => Ok(Some(Data { blob: blob.into() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(storage_fault(&error)),
        }
    }
}

pub(super) fn too_large(limit: u64) -> Fault {
    Fault::too_large(format!(
        "The object is larger than {limit} bytes, the most that one may have."
    ))
}

/// A body on its way to the disk. Batches of pieces are hashed and written side
/// by side while the next batch comes in. Both are short visits to blocking
/// threads: a client that stands still holds no thread.
struct Intake {
    backend: Arc<dyn Backend>,
    held: Held,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    writing: Option<JoinHandle<io::Result<Box<dyn BlobWriter>>>>,
    hashing: Option<JoinHandle<Md5>>,
}

impl Intake {
    fn new(backend: Arc<dyn Backend>, held: Held) -> Self {
        Self {
            backend,
            held,
            batch: Vec::new(),
            batch_bytes: 0,
            writing: None,
            hashing: None,
        }
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), Fault> {
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_PIECES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands the batch over, once the one before it is done.
    async fn flush(&mut self) -> Result<(), Fault> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (writer, hash) = self.settled().await?;
        let (backend, blob, pieces) = (Arc::clone(&self.backend), self.held.id, batch.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => backend.begin(blob)?,
            };
            pieces.iter().try_for_each(|piece| writer.write(piece))?;
            Ok(writer)
        }));
        self.hashing = Some(tokio::task::spawn_blocking(move || {
            let mut hash = hash.unwrap_or_default();
            batch.iter().for_each(|piece| hash.update(piece));
            hash
        }));
        Ok(())
    }

    /// Waits for the batch that is being worked on.
    async fn settled(&mut self) -> Result<(Option<Box<dyn BlobWriter>>, Option<Md5>), Fault> {
        let ended = |error: tokio::task::JoinError| {
            tracing::error!(%error, "a thread of an upload ended badly");
            Fault::internal("An unexpected error has occurred.")
        };
        let writer = match self.writing.take() {
            None => None,
            Some(task) => {
                let written = task.await.map_err(ended)?;
                Some(written.map_err(|error| storage_fault(&error))?)
            }
        };
        let hash = match self.hashing.take() {
            None => None,
            Some(task) => Some(task.await.map_err(ended)?),
        };
        Ok((writer, hash))
    }

    async fn finish(mut self, size: u64) -> Result<Incoming, Fault> {
        self.flush().await?;
        let (writer, hash) = self.settled().await?;
        if let Some(writer) = writer {
            blocking(move || writer.seal())
                .await?
                .map_err(|error| storage_fault(&error))?;
        }
        Ok(Incoming {
            blob: Some(self.held),
            size,
            etag: hex::encode(hash.unwrap_or_default().finalize()),
        })
    }
}

/// Open data. It stays readable while the object is overwritten or removed.
pub struct Data {
    blob: Arc<dyn Blob>,
}

impl Data {
    /// Streams a part. A piece that cannot be read ends the stream with an
    /// error, so that no client takes half an object for a whole one.
    pub async fn stream(
        self,
        range: ByteRange,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, Fault> {
        let length = range.end.saturating_sub(range.start);
        if length <= SMALL {
            let bytes = blocking(move || read(&*self.blob, range.start, length))
                .await?
                .map_err(|error| storage_fault(&error))?;
            return Ok(stream::iter([Ok(bytes)]).boxed());
        }
        let step = READ_CHUNK as u64;
        let pieces = stream::iter(0..length.div_ceil(step))
            .map(move |index| {
                let blob = Arc::clone(&self.blob);
                let offset = range.start + index * step;
                let wanted = (range.end - offset).min(step);
                async move {
                    tokio::task::spawn_blocking(move || read(&*blob, offset, wanted))
                        .await
                        .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
                }
            })
            .buffered(AHEAD);
        Ok(pieces.boxed())
    }
}

fn read(blob: &dyn Blob, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(READ_CHUNK)];
    let count = blob.read_at(&mut buffer, offset)?;
    if count < buffer.len() {
        tracing::error!("stored data is shorter than its row says");
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Bytes::from(buffer))
}

impl ByteRange {
    /// All of `size` bytes.
    pub fn whole(size: u64) -> Self {
        Self {
            start: 0,
            end: size,
        }
    }

    /// Reads the header `Range` for `size` bytes. `None` where it asks for
    /// nothing that is served in part (other units, nonsense, several ranges:
    /// HTTP lets a server answer those with the whole). 416 for a range outside.
    pub fn parse(header: &str, size: u64) -> Result<Option<Self>, Fault> {
        let Some(text) = header.trim().strip_prefix("bytes=") else {
            return Ok(None);
        };
        let Some((first, last)) = text.split_once('-') else {
            return Ok(None);
        };
        let (first, last) = (first.trim(), last.trim());
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(first) || !digits(last) || (first.is_empty() && last.is_empty()) {
            return Ok(None);
        }
        // Numbers beyond 64 bits are beyond every object too.
        let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
        let range = match (first, last) {
            ("", length) => Self {
                start: size.saturating_sub(number(length)),
                end: size,
            },
            (first, "") => Self {
                start: number(first),
                end: size,
            },
            (first, last) if number(last) < number(first) => return Ok(None),
            (first, last) => Self {
                start: number(first),
                end: number(last).saturating_add(1).min(size),
            },
        };
        if range.start >= range.end {
            return Err(Fault::new(
                FaultCode::RangeNotSatisfiable,
                format!("The range lies outside of the {size} bytes."),
            ));
        }
        Ok(Some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let range = |header| ByteRange::parse(header, 10).map_err(|fault| fault.code);
        let part = |start, end| Ok(Some(ByteRange { start, end }));
        assert_eq!(range("bytes=0-3"), part(0, 4));
        assert_eq!(range("bytes=4-"), part(4, 10));
        assert_eq!(range("bytes=-4"), part(6, 10));
        assert_eq!(range("bytes=-40"), part(0, 10));
        assert_eq!(range("bytes=8-99999999999999999999"), part(8, 10));
        for outside in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(range(outside), Err(FaultCode::RangeNotSatisfiable));
        }
        for ignored in ["lines=1-2", "bytes=0-1,3-4", "bytes=-", "bytes=3-1"] {
            assert_eq!(range(ignored), Ok(None), "{ignored}");
        }
        assert!(ByteRange::parse("bytes=0-", 0).is_err());
    }
}

//! Image data on its way in, in constant memory.
//!
//! ```text
//!                 ┌─▶ MD5      ─┐
//!  client ─▶ here ├─▶ SHA-512  ─┼─▶ inspect, commit ─▶ the row becomes active
//!                 └─▶ file     ─┘
//! ```
//! Three blocking threads with short queues, so that both hashes and the file
//! are worked on at once and a slow one holds the client back. The pieces are
//! reference-counted: an upload holds a few megabytes however large it is.
//!
//! The work runs as a task of the process, not of the request: when the client
//! goes away the body ends with an error, and the same code cleans up. What a
//! crash leaves is found by the reconcilers.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use md5::{Digest, Md5};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use yakumo_db::DbError;
use yakumo_types::{Fault, FaultCode, ImageId, RequestContext};

use super::images::not_found;
use super::inspect::{self, Refusal, SNIFF_LENGTH};
use super::model::{Image, Status, Stored};
use super::pace::Pace;
use super::{Images, storage_fault};
use crate::drivers::{BlobId, BlobWriter, ImageStore};
use crate::store::{Viewer, images as rows, uploads};

/// Pieces that wait for each of the three threads.
const QUEUE: usize = 8;

/// What comes out of a body.
pub type BodyPiece = Result<Bytes, BodyCut>;

/// The body ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
pub struct BodyCut;

impl Images {
    /// Takes the data of a queued image. `announced` is the length that the
    /// client gave.
    ///
    /// 409 unless the image is queued, 400 without formats, 413 over a limit,
    /// 415 where the data is not what was declared; whenever it fails the image
    /// is queued again and nothing of the data stays.
    pub async fn upload(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        announced: Option<u64>,
        body: impl Stream<Item = BodyPiece> + Send + 'static,
    ) -> Result<(), Fault> {
        let image = self.find_own(ctx, id).await?.image;
        if image.disk_format.is_none() || image.container_format.is_none() {
            return Err(uploads::without_formats());
        }
        if image.status != Status::Queued {
            return Err(not_queued(&image));
        }
        let limit = self.room_for(&image).await?;
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let slot = Arc::clone(&self.uploads)
            .try_acquire_owned()
            .map_err(|_| Fault::unavailable("Too many images are being uploaded."))?;
        let blob = BlobId::from(self.process.env.rng.uuid());
        // What is in the row now, not what was read before: it may have been
        // changed in between.
        let disk_format = match uploads::take(&self.db, id, blob, self.process.env.now()).await {
            Ok(disk_format) => disk_format,
            Err(DbError::Stale) => {
                return Err(match self.show(ctx, id).await {
                    Ok(image) => not_queued(&image),
                    Err(fault) => fault,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let (send, receive) = oneshot::channel();
        let this = self.clone();
        let upload = Upload {
            id,
            blob,
            disk_format,
            limit,
        };
        let work = async move {
            let outcome = this.take_in(&upload, body).await;
            drop(slot);
            // Nobody listens if the client went away.
            let _ = send.send(outcome);
        };
        self.process.spawn("image_upload", work.in_current_span());
        receive
            .await
            .unwrap_or_else(|_| Err(Fault::internal("The upload ended in an unexpected way.")))
    }

    /// Bytes that the image may have, by its own limit and by what its
    /// owner's quota leaves now. The quota is not reserved: of uploads that run
    /// side by side, those that do not fit any more are refused at their end.
    async fn room_for(&self, image: &Image) -> Result<u64, Fault> {
        let used = rows::bytes_of(&self.db, image.owner).await?;
        let left = self.config.quota_bytes.saturating_sub(used);
        if left == 0 {
            return Err(Fault::over_quota(
                "The project's images hold as many bytes as they may.",
            ));
        }
        Ok(self.config.max_image_bytes.min(left))
    }

    async fn take_in(
        &self,
        upload: &Upload,
        body: impl Stream<Item = BodyPiece> + Send + 'static,
    ) -> Result<(), Fault> {
        let done = CancellationToken::new();
        let lost = CancellationToken::new();
        self.keep_alive(upload, done.clone(), lost.clone());
        let received = tokio::select! {
            received = self.receive(upload, body) => received,
            () = lost.cancelled() => Err(gone()),
        };
        let outcome = match received {
            Ok(stored) => self.finish(upload, &stored).await,
            Err(fault) => Err(fault),
        };
        done.cancel();
        match outcome {
            Ok(()) => Ok(()),
            Err(fault) => self.undo(upload, fault).await,
        }
    }

    async fn finish(&self, upload: &Upload, stored: &Stored) -> Result<(), Fault> {
        let now = self.process.env.now();
        let most = self.config.quota_bytes;
        match uploads::finish(&self.db, upload.id, upload.blob, stored, most, now).await {
            Ok(()) => {
                metrics::counter!("yakumo_image_bytes_total", "direction" => "in")
                    .increment(stored.size);
                tracing::info!(image = %upload.id, bytes = stored.size, "image data stored");
                Ok(())
            }
            Err(DbError::Stale) => Err(gone()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the image back and removes the data; what fails here is mended by
    /// the reconcilers. Returns what the client is told: usually `fault`.
    ///
    /// The row decides. A commit whose answer was lost may have made the image
    /// active, and then its data must stay; an image that was deleted meanwhile
    /// takes its data with it, under the feet of whoever writes it.
    async fn undo(&self, upload: &Upload, fault: Fault) -> Result<(), Fault> {
        let now = self.process.env.now();
        match uploads::give_back(&self.db, upload.id, upload.blob, now).await {
            Ok(true) => {
                let (data, blob) = (Arc::clone(&self.data), upload.blob);
                if !matches!(super::blocking(move || data.remove(blob)).await, Ok(Ok(()))) {
                    self.sweep.nudge();
                }
                return Err(fault);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, image = %upload.id, "a failed upload waits to be given back");
                return Err(fault);
            }
        }
        self.sweep.nudge();
        let found = rows::find(&self.db, Viewer::Admin(None), upload.id).await;
        match found {
            Ok(Some(found)) if found.image.blob == Some(upload.blob) => Ok(()),
            Ok(_) => Err(gone()),
            Err(_) => Err(fault),
        }
    }

    /// Renews the lease until `done`; cancels `lost` when it is gone.
    fn keep_alive(&self, upload: &Upload, done: CancellationToken, lost: CancellationToken) {
        let this = self.clone();
        let (id, blob) = (upload.id, upload.blob);
        let every = Duration::from_secs(self.config.upload_lease_seconds.max(3)) / 4;
        self.process.spawn("image_upload_lease", async move {
            loop {
                tokio::select! {
                    () = this.process.env.clock.sleep(every) => {}
                    () = done.cancelled() => return,
                }
                let now = this.process.env.now();
                match uploads::renew(&this.db, id, blob, now).await {
                    Err(DbError::Stale) => {
                        lost.cancel();
                        return;
                    }
                    // The database is away: the lease may still last.
                    Err(error) => tracing::warn!(%error, image = %id, "cannot renew an upload"),
                    Ok(()) => {}
                }
            }
        });
    }

    async fn receive(
        &self,
        upload: &Upload,
        body: impl Stream<Item = BodyPiece> + Send + 'static,
    ) -> Result<Stored, Fault> {
        let idle = self.idle_timeout();
        let clock = &self.process.env.clock;
        let mut pace = Pace::new(self.config.min_upload_rate, idle);
        let mut pipeline = Pipeline::start(
            Arc::clone(&self.data),
            upload.blob,
            upload.disk_format.clone(),
            self.config.max_virtual_bytes,
        );
        let mut body = pin!(body);
        let mut start = Start::Collecting(BytesMut::new());
        let mut size: u64 = 0;
        loop {
            let asked = clock.monotonic();
            let piece = match tokio::time::timeout(idle, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(BodyCut))) => {
                    return Err(Fault::invalid("The upload was cut off."));
                }
                Ok(None) => break,
                Err(_) => return Err(Fault::invalid("The upload stood still for too long.")),
            };
            size += piece.len() as u64;
            if size > upload.limit {
                return Err(too_large(upload.limit));
            }
            pace.waited(clock.monotonic().saturating_sub(asked));
            pace.check(size)?;
            if piece.is_empty() {
                continue;
            }
            start.check(&piece, &upload.disk_format)?;
            if pipeline.push(piece).await.is_err() {
                // One of the threads gave up; it says why.
                break;
            }
        }
        pipeline.finish(size).await
    }
}

/// One upload, once it has its image.
struct Upload {
    id: ImageId,
    blob: BlobId,
    disk_format: String,
    limit: u64,
}

fn not_queued(image: &Image) -> Fault {
    match image.status {
        Status::Saving => Fault::conflict("Somebody else is uploading the data of this image."),
        Status::Queued => not_found(image.id),
        Status::Active | Status::Deactivated => Fault::conflict(
            "The image has its data already; that never changes. Make another image.",
        ),
    }
}

fn too_large(limit: u64) -> Fault {
    Fault::too_large(format!(
        "The data is larger than the {limit} bytes that are left for it."
    ))
}

fn gone() -> Fault {
    Fault::new(
        FaultCode::Gone,
        "The image was deleted, or taken away, while its data was uploaded.",
    )
}

/// Looks at the first bytes before the rest comes.
enum Start {
    Collecting(BytesMut),
    Seen,
}

impl Start {
    fn check(&mut self, piece: &Bytes, disk_format: &str) -> Result<(), Fault> {
        let Self::Collecting(seen) = self else {
            return Ok(());
        };
        let missing = SNIFF_LENGTH.saturating_sub(seen.len()).min(piece.len());
        seen.extend_from_slice(piece.get(..missing).unwrap_or_default());
        if seen.len() < SNIFF_LENGTH {
            return Ok(());
        }
        inspect::check_start(disk_format, seen).map_err(refused)?;
        *self = Self::Seen;
        Ok(())
    }
}

fn refused(refusal: Refusal) -> Fault {
    match &refusal {
        Refusal::Mismatch { .. } => Fault::unsupported_media(refusal.to_string()),
        Refusal::Unsafe { .. } => Fault::invalid(refusal.to_string()),
        Refusal::Io(error) => storage_fault(error),
    }
}

enum Piece {
    Data(Bytes),
    /// The body is whole. Without it the writer throws everything away.
    End,
}

/// The three threads of one upload.
struct Pipeline {
    writer: mpsc::Sender<Piece>,
    md5: mpsc::Sender<Bytes>,
    sha512: mpsc::Sender<Bytes>,
    written: JoinHandle<Result<Written, Fault>>,
    md5_done: JoinHandle<String>,
    sha512_done: JoinHandle<String>,
}

struct Written {
    virtual_size: u64,
}

impl Pipeline {
    fn start(
        data: Arc<dyn ImageStore>,
        blob: BlobId,
        disk_format: String,
        max_virtual: u64,
    ) -> Self {
        let (writer, to_write) = mpsc::channel(QUEUE);
        let (md5, to_md5) = mpsc::channel(QUEUE);
        let (sha512, to_sha512) = mpsc::channel(QUEUE);
        Self {
            writer,
            md5,
            sha512,
            written: tokio::task::spawn_blocking(move || {
                write(&*data, blob, &disk_format, max_virtual, to_write)
            }),
            md5_done: tokio::task::spawn_blocking(move || hash_md5(to_md5)),
            sha512_done: tokio::task::spawn_blocking(move || hash_sha512(to_sha512)),
        }
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), ()> {
        self.md5.send(piece.clone()).await.map_err(|_| ())?;
        self.sha512.send(piece.clone()).await.map_err(|_| ())?;
        self.writer.send(Piece::Data(piece)).await.map_err(|_| ())
    }

    async fn finish(self, size: u64) -> Result<Stored, Fault> {
        let Self {
            writer,
            md5,
            sha512,
            written,
            md5_done,
            sha512_done,
        } = self;
        drop((md5, sha512));
        // If the writer is gone its result says why.
        let _ = writer.send(Piece::End).await;
        drop(writer);
        let ended = |error: tokio::task::JoinError| {
            tracing::error!(%error, "a thread of an upload ended badly");
            Fault::internal("An unexpected error has occurred.")
        };
        let written = written.await.map_err(ended)??;
        Ok(Stored {
            size,
            virtual_size: written.virtual_size,
            md5: md5_done.await.map_err(ended)?,
            sha512: sha512_done.await.map_err(ended)?,
        })
    }
}

fn write(
    data: &dyn ImageStore,
    blob: BlobId,
    disk_format: &str,
    max_virtual: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Written, Fault> {
    let storage = |error: io::Error| storage_fault(&error);
    let mut writer: Box<dyn BlobWriter> = data.begin(blob).map_err(storage)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => writer.write(&bytes).map_err(storage)?,
            Some(Piece::End) => break,
            // Cut off: dropping the writer discards what it has.
            None => return Err(Fault::invalid("The upload was cut off.")),
        }
    }
    let virtual_size = inspect::inspect(disk_format, writer.written()).map_err(refused)?;
    if virtual_size > max_virtual {
        return Err(Fault::too_large(format!(
            "The disk inside the image has {virtual_size} bytes; {max_virtual} is the most."
        )));
    }
    writer.commit().map_err(storage)?;
    Ok(Written { virtual_size })
}

fn hash_md5(mut pieces: mpsc::Receiver<Bytes>) -> String {
    let mut hash = Md5::new();
    while let Some(piece) = pieces.blocking_recv() {
        hash.update(&piece);
    }
    hex::encode(hash.finalize())
}

fn hash_sha512(mut pieces: mpsc::Receiver<Bytes>) -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA512);
    while let Some(piece) = pieces.blocking_recv() {
        hash.update(&piece);
    }
    hex::encode(hash.finish())
}

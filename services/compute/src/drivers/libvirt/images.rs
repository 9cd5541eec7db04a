//! The host's cache of images: what disks are made from, each fetched once.
//!
//! A cached image is a file named by the SHA-512 of its bytes. It appears
//! under that name only when every byte was checked, and never changes
//! afterwards: disks are copy-on-write layers above it. Servers that want the
//! same image at the same time wait for one download. A download that was cut
//! off, by the network or by a crash, goes on where it ended.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha512};
use tonic::Code;
use tonic::transport::Endpoint;
use tracing::{Instrument, info, info_span, warn};
use yakumo_contracts::compute_host::ImageSource;
use yakumo_contracts::grpc::image::FetchRequest;
use yakumo_contracts::grpc::image::image_data_client::ImageDataClient;
use yakumo_types::Env;

use crate::config::{ImagesConfig, seconds};
use crate::drivers::{DriverError, InUse, Stage};

/// How often one call of [`ImageCache::ensure`] takes a cut-off download up.
const ATTEMPTS: u32 = 5;

/// Chunks between the network and the disk; each is at most a MiB.
const IN_FLIGHT: usize = 8;

/// The cache of one host.
pub(super) struct ImageCache {
    folder: PathBuf,
    endpoint: String,
    config: ImagesConfig,
    env: Env,
    /// Who fetches what; gone when nobody does.
    fetching: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// How a download ended short of success.
enum Broken {
    /// Taking it up again makes sense.
    Off(anyhow::Error),
    /// It does not.
    For(DriverError),
}

impl ImageCache {
    /// A cache in `folder`, which is there already. Images are fetched from
    /// `endpoint`, or from where their ticket says if that is empty.
    pub(super) fn new(folder: PathBuf, endpoint: String, config: ImagesConfig, env: Env) -> Self {
        Self {
            folder,
            endpoint,
            config,
            env,
            fetching: Mutex::default(),
        }
    }

    /// Where the image of this checksum is, or will be.
    pub(super) fn path(&self, sha512: &str) -> PathBuf {
        self.folder.join(sha512)
    }

    fn part(&self, sha512: &str) -> PathBuf {
        self.folder.join(format!("{sha512}.part"))
    }

    /// The image's file, fetched if it is not there. May be dropped at any
    /// point: what was written is taken up later.
    pub(super) async fn ensure(
        &self,
        image: &ImageSource,
        stage: &Stage,
    ) -> Result<PathBuf, DriverError> {
        let path = self.path(&image.sha512);
        let turn = self.turn(&image.sha512);
        // Whoever comes second finds the file when it is its turn.
        let _turn = turn.lock().await;
        if touch(&path).map_err(disk_failed)? {
            metrics::counter!("yakumo_compute_images_total", "from" => "cache").increment(1);
            return Ok(path);
        }
        stage.set("fetching_image");
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let pause = Duration::from_millis(250).saturating_mul(1 << attempt);
                self.env.clock.sleep(pause).await;
            }
            match self
                .fetch(image)
                .instrument(info_span!("fetch image"))
                .await
            {
                Ok(()) => {
                    info!(
                        image = image.image_id,
                        bytes = image.size,
                        "the image was fetched"
                    );
                    metrics::counter!("yakumo_compute_images_total", "from" => "network")
                        .increment(1);
                    return Ok(path);
                }
                Err(Broken::Off(error)) => {
                    warn!(
                        image = image.image_id, attempt, error = ?error,
                        "fetching the image was cut off"
                    );
                    last = Some(error);
                }
                Err(Broken::For(error)) => return Err(error),
            }
        }
        Err(DriverError::later(
            "The image could not be fetched.",
            last.unwrap_or_else(|| anyhow::anyhow!("no attempt was made")),
        ))
    }

    fn turn(&self, sha512: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = fetching.get(sha512).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        fetching.insert(sha512.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn fetch(&self, image: &ImageSource) -> Result<(), Broken> {
        let part = self.part(&image.sha512);
        let opened = tokio::task::spawn_blocking(move || Sink::open(&part)).await;
        let sink = match opened {
            Ok(Ok(sink)) if sink.written <= image.size => sink,
            Ok(Ok(sink)) => sink
                .restart()
                .map_err(|error| Broken::For(disk_failed(error)))?,
            Ok(Err(error)) => return Err(Broken::For(disk_failed(error))),
            Err(error) => return Err(Broken::Off(error.into())),
        };
        let offset = sink.written;
        let (chunks, mut incoming) = tokio::sync::mpsc::channel::<Bytes>(IN_FLIGHT);
        let limit = image.size;
        // Writing and hashing block; they run beside the download.
        let writer = tokio::task::spawn_blocking(move || {
            let mut sink = sink;
            while let Some(chunk) = incoming.blocking_recv() {
                sink.write(&chunk, limit)?;
            }
            Ok::<_, io::Error>(sink)
        });
        let downloaded = if offset < image.size {
            self.download(image, offset, &chunks).await
        } else {
            Ok(())
        };
        drop(chunks);
        let sink = match writer.await {
            Ok(Ok(sink)) => sink,
            Ok(Err(error)) => return Err(Broken::For(disk_failed(error))),
            Err(error) => return Err(Broken::Off(error.into())),
        };
        downloaded?;
        if sink.written < image.size {
            return Err(Broken::Off(anyhow::anyhow!(
                "the stream ended after {} of {} bytes",
                sink.written,
                image.size
            )));
        }
        let path = self.path(&image.sha512);
        let wanted = image.sha512.clone();
        match tokio::task::spawn_blocking(move || sink.finish(&wanted, &path)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Broken::Off(anyhow::anyhow!(
                "the bytes do not have the image's checksum; starting over"
            ))),
            Ok(Err(error)) => Err(Broken::For(disk_failed(error))),
            Err(error) => Err(Broken::Off(error.into())),
        }
    }

    async fn download(
        &self,
        image: &ImageSource,
        offset: u64,
        chunks: &tokio::sync::mpsc::Sender<Bytes>,
    ) -> Result<(), Broken> {
        let stall = seconds(self.config.stall_seconds);
        let address = if self.endpoint.is_empty() {
            image.endpoint.clone()
        } else {
            self.endpoint.clone()
        };
        let endpoint = Endpoint::from_shared(address)
            .map_err(|error| {
                Broken::For(DriverError::never(
                    "The image service's address is unreadable.",
                    error,
                ))
            })?
            .connect_timeout(stall);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Broken::Off(error.into()))?;
        let request = FetchRequest {
            image_id: image.image_id.clone(),
            ticket: image.ticket.clone(),
            offset,
        };
        let mut client = ImageDataClient::new(channel);
        let answer = tokio::time::timeout(stall, client.fetch(request))
            .await
            .map_err(|_| stalled())?;
        let mut stream = answer.map_err(|status| refused(&status))?.into_inner();
        loop {
            let next = tokio::time::timeout(stall, stream.message())
                .await
                .map_err(|_| stalled())?;
            let Some(chunk) = next.map_err(|status| refused(&status))? else {
                return Ok(());
            };
            if chunks.send(chunk.data.into()).await.is_err() {
                // The writer says why.
                return Ok(());
            }
        }
    }

    /// Removes images that no disk is made from, by age and by size, and
    /// downloads that nobody took up for a day.
    pub(super) async fn tidy(&self, in_use: &InUse) -> Result<(), DriverError> {
        let folder = self.folder.clone();
        let in_use = in_use.images.clone();
        let busy: Vec<String> = {
            let fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching
                .iter()
                .filter(|(_, turn)| turn.strong_count() > 0)
                .map(|(sha512, _)| sha512.clone())
                .collect()
        };
        let now = self.env.now();
        let oldest = now.minus(Duration::from_secs(
            u64::from(self.config.unused_hours).saturating_mul(3600),
        ));
        let room = self.config.unused_gib.saturating_mul(1 << 30);
        let work = move || {
            let mut unused = Vec::new();
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let sha512 = name.strip_suffix(".part").unwrap_or(&name);
                if in_use.contains(sha512) || busy.iter().any(|busy| busy == sha512) {
                    continue;
                }
                let metadata = entry.metadata()?;
                unused.push((touched(&metadata), metadata.len(), entry.path()));
            }
            // The longest unused first.
            unused.sort();
            let mut kept: u64 = unused.iter().map(|(_, size, _)| size).sum();
            for (used, size, path) in unused {
                if used < oldest.as_secs() || kept > room {
                    std::fs::remove_file(&path)?;
                    kept = kept.saturating_sub(size);
                    info!(image = %path.display(), "an unused image was removed from the cache");
                }
            }
            Ok::<_, io::Error>(())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(disk_failed),
            Err(error) => Err(DriverError::later("The host is stopping.", error)),
        }
    }
}

fn touched(metadata: &std::fs::Metadata) -> i64 {
    std::os::unix::fs::MetadataExt::mtime(metadata)
}

fn stalled() -> Broken {
    Broken::Off(anyhow::anyhow!("nothing came for too long"))
}

fn refused(status: &tonic::Status) -> Broken {
    let error = anyhow::anyhow!("the image service answered {status}");
    match status.code() {
        Code::NotFound => Broken::For(DriverError::never("The image is gone.", error)),
        Code::Unauthenticated | Code::PermissionDenied => Broken::For(DriverError::never(
            "The host is no longer allowed to fetch the image.",
            error,
        )),
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
            Broken::For(DriverError::never("The image cannot be fetched.", error))
        }
        _ => Broken::Off(error),
    }
}

fn disk_failed(error: io::Error) -> DriverError {
    let fault = if error.kind() == io::ErrorKind::StorageFull {
        "The host's disk is full."
    } else {
        "The host's disk could not be used."
    };
    DriverError::later(fault, error)
}

/// Notes that the image was used just now; says whether it is there.
fn touch(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => {
            // Through the descriptor: the file itself is read-only.
            nix::sys::stat::futimens(
                &file,
                &nix::sys::time::TimeSpec::UTIME_NOW,
                &nix::sys::time::TimeSpec::UTIME_NOW,
            )?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file that is being fetched, and the hash of what it holds.
struct Sink {
    path: PathBuf,
    file: File,
    hash: Sha512,
    written: u64,
}

impl Sink {
    /// Takes up what an earlier download left.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut hash = Sha512::new();
        let mut written = 0u64;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(buffer.get(..read).unwrap_or_default());
            written = written.saturating_add(u64::try_from(read).unwrap_or(0));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            hash,
            written,
        })
    }

    /// Throws away what is there.
    fn restart(self) -> io::Result<Self> {
        self.file.set_len(0)?;
        drop(self.file);
        Self::open(&self.path)
    }

    fn write(&mut self, chunk: &[u8], limit: u64) -> io::Result<()> {
        let grown = self
            .written
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if grown > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes came than the image has",
            ));
        }
        self.file.write_all(chunk)?;
        self.hash.update(chunk);
        self.written = grown;
        Ok(())
    }

    /// Gives the file its name if it is what it should be, and removes it
    /// otherwise.
    fn finish(self, wanted: &str, path: &Path) -> io::Result<bool> {
        if hex::encode(self.hash.finalize()) != wanted {
            drop(self.file);
            std::fs::remove_file(&self.path)?;
            return Ok(false);
        }
        // QEMU may run as another user, and nobody may change it any more.
        self.file
            .set_permissions(std::fs::Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn sha512(bytes: &[u8]) -> String {
        hex::encode(Sha512::digest(bytes))
    }

    #[test]
    fn a_download_is_taken_up_where_it_ended_and_checked_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("x.part");
        let mut sink = Sink::open(&part).unwrap();
        sink.write(b"hello ", 11).unwrap();
        drop(sink);
        let mut sink = Sink::open(&part).unwrap();
        assert_eq!(sink.written, 6);
        assert!(sink.write(b"world!!", 11).is_err());
        sink.write(b"world", 11).unwrap();
        let path = folder.path().join("x");
        assert!(sink.finish(&sha512(b"hello world"), &path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        assert!(!part.exists());

        let mut sink = Sink::open(&part).unwrap();
        sink.write(b"hello WORLD", 11).unwrap();
        assert!(!sink.finish(&sha512(b"hello world"), &path).unwrap());
        assert!(!part.exists());
    }

    #[tokio::test]
    async fn unused_images_go_by_age_and_by_size_and_used_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(
            folder.path().to_owned(),
            String::new(),
            ImagesConfig {
                unused_gib: 0,
                ..ImagesConfig::default()
            },
            yakumo_service::system_env(),
        );
        for name in ["used", "unused", "cut-off.part"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let in_use = InUse {
            images: BTreeSet::from(["used".to_owned()]),
            ..InUse::default()
        };
        cache.tidy(&in_use).await.unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["used"]);
    }
}

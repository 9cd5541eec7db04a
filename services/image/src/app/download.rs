//! Image data on its way out, in constant memory: a few pieces are read ahead.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use yakumo_types::{Fault, FaultCode, ImageId, RequestContext};

use super::model::{Image, Status, Stored};
use super::{Images, blocking, storage_fault};
use crate::drivers::{Blob, BlobId};

/// Bytes that are read at a time.
pub const READ_CHUNK: usize = 512 * 1024;
/// Pieces that are read ahead.
const AHEAD: usize = 3;

/// The part of the data that is wanted: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

/// Open data of an image. It stays readable while the image is deleted.
pub struct Data {
    blob: Arc<dyn Blob>,
    /// What is known about it.
    pub stored: Stored,
}

impl Images {
    /// An image with its open data; no data if the image is not active yet.
    /// Forbidden for a deactivated image, but to administrators.
    pub async fn download(
        &self,
        ctx: &RequestContext,
        id: ImageId,
    ) -> Result<(Image, Option<Data>), Fault> {
        let image = self.show(ctx, id).await?;
        if image.status == Status::Deactivated && !ctx.is_admin() {
            return Err(Fault::forbidden(format!("Image {id} is deactivated.")));
        }
        let (Some(stored), Some(blob)) = (image.stored.clone(), image.blob) else {
            return Ok((image, None));
        };
        let data = self.open(blob, stored).await?;
        Ok((image, Some(data)))
    }

    pub(super) async fn open(&self, blob: BlobId, stored: Stored) -> Result<Data, Fault> {
        let store = Arc::clone(&self.data);
        let opened = blocking(move || store.open(blob)).await?;
        match opened {
            Ok(blob) => Ok(Data {
                blob: blob.into(),
                stored,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Deleted just now, or lost; the log tells which.
                tracing::error!(%blob, "the data of an image is not there");
                Err(Fault::not_found("The image's data is not there."))
            }
            Err(error) => Err(storage_fault(&error)),
        }
    }
}

impl Data {
    /// The whole data.
    pub fn whole(&self) -> ByteRange {
        ByteRange {
            start: 0,
            end: self.stored.size,
        }
    }

    /// Streams a part in pieces of at most [`READ_CHUNK`] bytes. A piece that
    /// cannot be read ends the stream with an error, so that a client does not
    /// take half an image for a whole one.
    ///
    /// Each piece is read by its own short visit to a blocking thread: a client
    /// that stops reading holds a few pieces and no thread.
    pub fn stream(
        self,
        range: ByteRange,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let step = READ_CHUNK as u64;
        let count = (range.end - range.start).div_ceil(step);
        stream::iter(0..count)
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
            .buffered(AHEAD)
    }
}

fn read(blob: &dyn Blob, offset: u64, wanted: u64) -> io::Result<Bytes> {
    let length = usize::try_from(wanted).unwrap_or(READ_CHUNK);
    let bytes = blob.bytes(offset, length).inspect_err(|error| {
        tracing::error!(%error, "image data cannot be read");
    })?;
    if bytes.len() < length {
        tracing::error!("image data is shorter than its row says");
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    metrics::counter!("yakumo_image_bytes_total", "direction" => "out").increment(wanted);
    Ok(Bytes::from(bytes))
}

impl ByteRange {
    /// Reads the header `Range` for data of `size` bytes. `None` where the
    /// header asks for nothing that is served in part (other units, several
    /// ranges): the whole data is the answer then. 416 for a range outside.
    pub fn parse(header: &str, size: u64) -> Result<Option<Self>, Fault> {
        let Some(text) = header.trim().strip_prefix("bytes=") else {
            return Ok(None);
        };
        if text.contains(',') {
            return Ok(None);
        }
        let Some((first, last)) = text.split_once('-') else {
            return Ok(None);
        };
        let (first, last) = (first.trim(), last.trim());
        let outside = || {
            Fault::new(
                FaultCode::RangeNotSatisfiable,
                format!("The range lies outside of the {size} bytes."),
            )
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(first) || !digits(last) || (first.is_empty() && last.is_empty()) {
            return Ok(None);
        }
        // Numbers beyond 64 bits are beyond every image too.
        let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
        let range = if first.is_empty() {
            let length = number(last);
            if length == 0 {
                return Err(outside());
            }
            Self {
                start: size.saturating_sub(length),
                end: size,
            }
        } else {
            let end = match last {
                "" => size,
                last => number(last).saturating_add(1).min(size),
            };
            let start = number(first);
            if !last.is_empty() && number(last) < start {
                return Ok(None);
            }
            Self { start, end }
        };
        if range.start >= size {
            return Err(outside());
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
        assert_eq!(range("bytes=10-"), Err(FaultCode::RangeNotSatisfiable));
        assert_eq!(range("bytes=-0"), Err(FaultCode::RangeNotSatisfiable));
        for ignored in [
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=x-3",
            "bytes=-",
            "bytes=3-1",
            "bytes",
        ] {
            assert_eq!(range(ignored), Ok(None), "{ignored}");
        }
    }
}

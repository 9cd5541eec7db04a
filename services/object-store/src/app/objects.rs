//! Objects. Data first, row second: an object is never seen without its bytes.
//! Overwriting gives the row a new blob in the transaction that turns the old
//! one into garbage, so readers get either the old object or the new one.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use yakumo_db::DbError;
use yakumo_types::Fault;

use super::conditions::{Conditions, Verdict};
use super::data::{BodyCut, Data, Held, too_large};
use super::names::check_object;
use super::{Access, Caller, ObjectStore, metadata};
use crate::store::Metadata;
use crate::store::containers::Container;
use crate::store::objects::{self as rows, Object, Quota};

/// How often a read is tried again whose data was overwritten under its feet.
const ATTEMPTS: usize = 8;

/// What the head of a PUT says about the object.
#[derive(Debug, Clone, Default)]
pub struct PutHeaders {
    /// The media type; guessed from the name without one.
    pub content_type: Option<String>,
    /// Other headers that are given back.
    pub headers: Metadata,
    /// What the client keeps with it.
    pub metadata: Metadata,
    /// The MD5 that the client expects.
    pub etag: Option<String>,
    /// Seconds since the epoch after which it is gone.
    pub delete_at: Option<i64>,
    /// What must hold of the object that is there.
    pub conditions: Conditions,
}

/// What was copied.
pub struct Copied {
    /// The new object.
    pub object: Object,
    /// The one that it was made from.
    pub source: Object,
}

/// An object on its way out.
pub struct Download {
    /// The object.
    pub object: Object,
    /// What the conditions come to.
    pub verdict: Verdict,
    /// Its data; none where there are no bytes, or none are wanted.
    pub data: Option<Data>,
}

fn not_found() -> Fault {
    Fault::not_found("The object could not be found.")
}

impl ObjectStore {
    fn is_gone(&self, object: &Object) -> bool {
        let now = self.process.env.now().as_secs();
        object.delete_at.is_some_and(|end| end <= now)
    }

    async fn find_object(&self, container: &Container, name: &str) -> Result<Object, Fault> {
        rows::find(&self.db, &container.id, name)
            .await?
            .filter(|object| !self.is_gone(object))
            .ok_or_else(not_found)
    }

    /// An object without its data.
    pub async fn head_object(
        &self,
        caller: &Caller,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<Download, Fault> {
        let container = self.container_for(caller, container, Access::Read).await?;
        let object = self.find_object(&container, name).await?;
        let verdict = conditions.for_read(&object)?;
        Ok(Download {
            object,
            verdict,
            data: None,
        })
    }

    /// An object with its open data.
    pub async fn get_object(
        &self,
        caller: &Caller,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<Download, Fault> {
        let container = self.container_for(caller, container, Access::Read).await?;
        for _ in 0..ATTEMPTS {
            let object = self.find_object(&container, name).await?;
            let verdict = conditions.for_read(&object)?;
            let wanted = object.blob.filter(|_| verdict == Verdict::Give);
            let Some(blob) = wanted else {
                return Ok(Download {
                    object,
                    verdict,
                    data: None,
                });
            };
            if let Some(data) = self.open(blob).await? {
                return Ok(Download {
                    object,
                    verdict,
                    data: Some(data),
                });
            }
            // Overwritten or removed since the row was read: look again.
        }
        tracing::error!(
            container = container.name,
            name,
            "an object's data is missing"
        );
        Err(Fault::unavailable("The object's data cannot be read."))
    }

    /// Stores an object.
    ///
    /// 404 without the container, 412 where a condition does not hold, 413
    /// over a limit, 422 where the data is not what the client says.
    pub async fn put_object(
        &self,
        caller: &Caller,
        container: &str,
        name: &str,
        headers: PutHeaders,
        announced: Option<u64>,
        body: impl Stream<Item = Result<Bytes, BodyCut>> + Send,
    ) -> Result<Object, Fault> {
        let container = self.container_for(caller, container, Access::Write).await?;
        check_object(name)?;
        metadata::check(&headers.metadata)?;
        self.check_end(headers.delete_at)?;
        if announced.is_some_and(|length| length > self.config.max_object_bytes) {
            return Err(too_large(self.config.max_object_bytes));
        }
        // Asked again with the row in hand; this only spares a useless upload.
        let there = rows::find(&self.db, &container.id, name).await?;
        headers
            .conditions
            .for_write(there.as_ref().filter(|object| !self.is_gone(object)))?;
        let incoming = self.receive(body).await?;
        if headers.etag.is_some_and(|etag| etag != incoming.etag) {
            self.discard(incoming.blob).await;
            return Err(Fault::unprocessable(
                "The data does not have the MD5 that the header ETag says.",
            ));
        }
        let object = Object {
            name: name.to_owned(),
            blob: incoming.blob.as_ref().map(|held| held.id),
            size: incoming.size,
            etag: incoming.etag,
            content_type: headers
                .content_type
                .unwrap_or_else(|| guess_type(name).to_owned()),
            headers: headers.headers,
            metadata: headers.metadata,
            updated_at: self.process.env.now(),
            delete_at: headers.delete_at,
        };
        self.commit(&container, object, incoming.blob, headers.conditions)
            .await
    }

    /// Stores a copy of an object that the caller may read. `headers` replace
    /// the source's own where they are given; with `fresh` its metadata is
    /// left behind.
    #[allow(clippy::too_many_arguments)]
    pub async fn copy_object(
        &self,
        from: (&Caller, &str, &str),
        to: (&Caller, &str, &str),
        read_conditions: &Conditions,
        headers: PutHeaders,
        fresh: bool,
    ) -> Result<Copied, Fault> {
        let (reader, source_container, source_name) = from;
        let (writer, container, name) = to;
        let container = self.container_for(writer, container, Access::Write).await?;
        check_object(name)?;
        self.check_end(headers.delete_at)?;
        let source_container = self
            .container_for(reader, source_container, Access::Read)
            .await?;
        let source = self.find_object(&source_container, source_name).await?;
        read_conditions.for_read(&source)?;
        let mut object = Object {
            name: name.to_owned(),
            updated_at: self.process.env.now(),
            delete_at: headers.delete_at.or(source.delete_at),
            ..source.clone()
        };
        if fresh {
            object.metadata.clear();
        }
        object.metadata.extend(headers.metadata);
        object.headers.extend(headers.headers);
        metadata::check(&object.metadata)?;
        if let Some(content_type) = headers.content_type {
            object.content_type = content_type;
        }
        let held = match source.blob {
            None => None,
            Some(blob) => Some(self.duplicate(blob).await?),
        };
        object.blob = held.as_ref().map(|held| held.id);
        object.updated_at = self.process.env.now();
        let stored = self
            .commit(&container, object, held, headers.conditions)
            .await?;
        Ok(Copied {
            object: stored,
            source,
        })
    }

    async fn commit(
        &self,
        container: &Container,
        object: Object,
        held: Option<Held>,
        conditions: Conditions,
    ) -> Result<Object, Fault> {
        let now = self.process.env.now().as_secs();
        let quota = Quota {
            bytes: metadata::quota(&container.metadata, "quota-bytes"),
            count: metadata::quota(&container.metadata, "quota-count"),
        };
        let id = self.process.env.rng.uuid().to_string();
        let check = Arc::new(move |there: Option<&Object>| {
            let there = there.filter(|object| object.delete_at.is_none_or(|end| end > now));
            conditions.for_write(there)
        });
        let put = rows::put(&self.db, &container.id, id, &object, quota, check).await;
        match put {
            Ok(()) => {
                self.settle(held).await;
                self.sweep.nudge();
                Ok(object)
            }
            Err(error) => {
                // After a lost answer to the commit the row may be there: only
                // the reconciler may decide about the data then.
                match &error {
                    DbError::Unavailable => drop(held),
                    _ => self.discard(held).await,
                }
                match error {
                    DbError::NotFound => Err(Fault::not_found("The container was removed.")),
                    error => Err(error.into()),
                }
            }
        }
    }

    /// Replaces metadata, and those headers that are given.
    pub async fn update_object(
        &self,
        caller: &Caller,
        container: &str,
        name: &str,
        headers: PutHeaders,
    ) -> Result<(), Fault> {
        let container = self.container_for(caller, container, Access::Write).await?;
        self.find_object(&container, name).await?;
        metadata::check(&headers.metadata)?;
        self.check_end(headers.delete_at)?;
        let now = self.process.env.now();
        let updated = rows::update(&self.db, &container.id, name, now, move |object| {
            object.metadata.clone_from(&headers.metadata);
            object.delete_at = headers.delete_at;
            if let Some(content_type) = &headers.content_type {
                object.content_type.clone_from(content_type);
            }
            // Like metadata, these are what the last request said.
            object.headers.clone_from(&headers.headers);
            Ok(())
        })
        .await;
        match updated {
            Err(DbError::NotFound) => Err(not_found()),
            other => Ok(other?),
        }
    }

    /// Removes an object; whoever reads it reads on to the end.
    pub async fn delete_object(
        &self,
        caller: &Caller,
        container: &str,
        name: &str,
        conditions: Conditions,
    ) -> Result<(), Fault> {
        let container = self.container_for(caller, container, Access::Write).await?;
        self.find_object(&container, name).await?;
        let now = self.process.env.now();
        let check = Arc::new(move |there: Option<&Object>| conditions.for_write(there));
        match rows::delete(&self.db, &container.id, name, now, check).await {
            Ok(()) => {
                self.sweep.nudge();
                Ok(())
            }
            Err(DbError::NotFound) => Err(not_found()),
            Err(error) => Err(error.into()),
        }
    }

    fn check_end(&self, delete_at: Option<i64>) -> Result<(), Fault> {
        if delete_at.is_some_and(|end| end <= self.process.env.now().as_secs()) {
            return Err(Fault::invalid("X-Delete-At in past."));
        }
        Ok(())
    }
}

/// The media type that a name's ending suggests.
fn guess_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "txt" | "log" | "conf" | "ini" | "md" => "text/plain",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "csv" => "text/csv",
        "js" => "text/javascript",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "tar" => "application/x-tar",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

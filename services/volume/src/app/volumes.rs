//! Making, showing, changing and removing volumes.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use uuid::Uuid;
use yakumo_contracts::volume::{
    CreateVolumeRequest, ListStorageHostsReply, ListVolumeTypesReply, ListVolumesReply,
    ListVolumesRequest, StorageHost, UpdateVolumeRequest, Volume, VolumeType,
};
use yakumo_db::DbError;
use yakumo_db::idempotency::{Once, gone};
use yakumo_types::{
    Fault, IdempotencyKey, RequestContext, VolumeId, VolumeTypeId, check_description, check_name,
};

use super::{App, no_volume, raced, render, volume_id, was_heard_lately};
use crate::store::volumes::{Filter, Sort, SortColumn};
use crate::store::{self, Walls};
use crate::workflows::{CREATE_VOLUME, DELETE_VOLUME};

/// Rows in one page at the most.
const MAX_PAGE: u32 = 1000;
/// Bytes of volumes in one reply at the most; the bus takes 1 MiB.
const MAX_REPLY: usize = 900 * 1024;
const MAX_METADATA: usize = 128;
/// Bytes of all keys and values of one volume at the most: as many items as
/// there may be, of the longest, in ASCII.
const MAX_METADATA_BYTES: usize = 64 * 1024;
/// States that a volume may be removed in.
const DELETABLE: &[&str] = &["available", "error", "error_deleting"];

impl App {
    /// Accepts a volume: the row and the workflow that makes it commit at once.
    pub async fn create_volume(
        &self,
        ctx: &RequestContext,
        mut request: CreateVolumeRequest,
    ) -> Result<Volume, Fault> {
        let project = ctx.require_member()?.to_string();
        let key = request.idempotency_key.take().map(IdempotencyKey::from);
        let once = Once::new(ctx, "create_volume", key.as_ref(), self.env.now());
        if let Some(id) = once.made_one(&self.db).await? {
            return self.show_volume(ctx, &id).await.map_err(gone);
        }
        let row = self.new_row(ctx, &project, request)?;
        let deadline = Duration::from_secs(self.config.workflow_timeout_seconds);
        let (app, ctx, volume) = (self.clone(), ctx.clone(), row.clone());
        self.db
            .write(move |txn| {
                let (app, ctx, row) = (app.clone(), ctx.clone(), volume.clone());
                let once = once.clone();
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    store::quotas::lock(txn, &row.project_id).await?;
                    app.check_quota(txn, &row.project_id, u64::try_from(row.size).unwrap_or(0))
                        .await?;
                    let id = row.id.clone();
                    store::volumes::insert(txn, row).await?;
                    let input = json!({ "volume_id": id });
                    app.engine
                        .submit(txn, CREATE_VOLUME, &id, input, &ctx, deadline)
                        .await?;
                    Ok(())
                })
            })
            .await?;
        Ok(render::volume(row, Vec::new()))
    }

    fn new_row(
        &self,
        ctx: &RequestContext,
        project: &str,
        request: CreateVolumeRequest,
    ) -> Result<store::volume::Model, Fault> {
        if !request.name.is_empty() {
            check_name("The volume's name", &request.name, 255)?;
        }
        check_description("The volume's description", &request.description, 255)?;
        if request.size == 0 || request.size > self.config.max_volume_gigabytes {
            return Err(Fault::invalid(format!(
                "The size of a volume is 1 to {} GiB.",
                self.config.max_volume_gigabytes
            )));
        }
        let volume_type = if request.volume_type.is_empty() {
            &self.config.volume_type
        } else {
            &request.volume_type
        };
        if *volume_type != self.config.volume_type {
            return Err(Fault::not_found(format!(
                "Volume type {volume_type} could not be found."
            )));
        }
        let zone = if request.availability_zone.is_empty() {
            &self.config.availability_zone
        } else {
            &request.availability_zone
        };
        if *zone != self.config.availability_zone {
            return Err(Fault::invalid(format!(
                "Availability zone {zone:?} is not valid for volumes."
            )));
        }
        check_metadata(&request.metadata)?;
        let now = self.env.now().as_micros();
        Ok(store::volume::Model {
            id: self.env.id::<VolumeId>().to_string(),
            project_id: project.to_owned(),
            user_id: ctx.user_id.to_string(),
            name: request.name,
            description: request.description,
            size: i64::try_from(request.size)
                .map_err(|_| Fault::invalid("The volume is too large."))?,
            status: "creating".into(),
            volume_type: volume_type.clone(),
            availability_zone: zone.clone(),
            host: String::new(),
            metadata: to_json(&request.metadata)?,
            fault: String::new(),
            created_at: now,
            updated_at: now,
            deleted_at: 0,
        })
    }

    /// One page of volumes with their attachments, in two queries.
    pub async fn list_volumes(
        &self,
        ctx: &RequestContext,
        request: ListVolumesRequest,
    ) -> Result<ListVolumesReply, Fault> {
        let walls = match (request.all_projects, ctx.is_admin()) {
            (true, true) if request.project_id.is_empty() => Walls::All,
            (true, true) => Walls::Project(
                request
                    .project_id
                    .parse()
                    .map_err(|_| Fault::invalid("The project id is not valid."))?,
            ),
            _ => Walls::Project(ctx.require_reader()?),
        };
        let sort = Sort {
            column: match request.sort_key.as_str() {
                "" | "created_at" => SortColumn::CreatedAt,
                "id" => SortColumn::Id,
                "name" | "display_name" => SortColumn::Name,
                "size" => SortColumn::Size,
                "status" => SortColumn::Status,
                other => {
                    return Err(Fault::invalid(format!(
                        "Volumes cannot be sorted by {other:?}."
                    )));
                }
            },
            ascending: request.sort_ascending,
        };
        let filter = Filter {
            name: (!request.name.is_empty()).then_some(request.name),
            status: (!request.status.is_empty()).then_some(request.status),
            ids: request.ids,
        };
        let page = request.page.unwrap_or_default();
        let limit = if page.limit == 0 {
            MAX_PAGE
        } else {
            page.limit.min(MAX_PAGE)
        };
        let marker =
            match page.marker.as_str() {
                "" => None,
                id => {
                    let known = async { self.volume(walls, volume_id(id)?).await };
                    Some(known.await.map_err(|_| {
                        Fault::invalid(format!("The marker {id:?} names no volume."))
                    })?)
                }
            };
        let wanted = u64::from(limit) + 1;
        let mut rows = store::volumes::list(
            self.db.read(),
            walls,
            &filter,
            sort,
            marker.as_ref(),
            wanted,
        )
        .await?;
        let mut more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        if more {
            rows.pop();
        }
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let mut attachments: HashMap<String, Vec<_>> = HashMap::new();
        for row in store::attachments::of_volumes(self.db.read(), &ids).await? {
            attachments
                .entry(row.volume_id.clone())
                .or_default()
                .push(render::attachment(&row));
        }
        let mut volumes: Vec<Volume> = rows
            .into_iter()
            .map(|row| {
                let own = attachments.remove(&row.id).unwrap_or_default();
                render::volume(row, own)
            })
            .collect();
        more |= fit(&mut volumes);
        Ok(ListVolumesReply { volumes, more })
    }

    /// One volume.
    pub async fn show_volume(&self, ctx: &RequestContext, id: &str) -> Result<Volume, Fault> {
        let row = self.volume(Walls::of(ctx)?, volume_id(id)?).await?;
        let attachments =
            store::attachments::of_volumes(self.db.read(), std::slice::from_ref(&row.id)).await?;
        Ok(render::volume(
            row,
            attachments.iter().map(render::attachment).collect(),
        ))
    }

    /// Name, description and metadata can be changed in every state.
    pub async fn update_volume(
        &self,
        ctx: &RequestContext,
        request: UpdateVolumeRequest,
    ) -> Result<Volume, Fault> {
        ctx.require_member()?;
        let walls = Walls::of(ctx)?;
        let id = volume_id(&request.id)?;
        if let Some(name) = request.name.as_deref().filter(|name| !name.is_empty()) {
            check_name("The volume's name", name, 255)?;
        }
        if let Some(description) = &request.description {
            check_description("The volume's description", description, 255)?;
        }
        let now = self.env.now();
        self.db
            .write(move |txn| {
                let request = request.clone();
                Box::pin(async move {
                    let row = store::volumes::find(txn, walls, id)
                        .await?
                        .ok_or(DbError::Fault(no_volume(id)))?;
                    let mut change = store::volumes::change_of(id, now);
                    let mut metadata = if request.replace_metadata {
                        HashMap::new()
                    } else {
                        render::metadata(&row.metadata)
                    };
                    for key in &request.remove_metadata {
                        if metadata.remove(key).is_none() {
                            return Err(DbError::Fault(Fault::not_found(format!(
                                "Metadata item {key} was not found."
                            ))));
                        }
                    }
                    metadata.extend(request.set_metadata);
                    check_metadata(&metadata).map_err(DbError::Fault)?;
                    store::volumes::put_metadata(
                        &mut change,
                        to_json(&metadata).map_err(DbError::Fault)?,
                    );
                    store::volumes::put_texts(&mut change, request.name, request.description);
                    store::volumes::update(txn, change).await
                })
            })
            .await?;
        self.show_volume(ctx, &id.to_string()).await
    }

    /// Accepts the removal of a volume that nothing uses.
    pub async fn delete_volume(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_member()?;
        let row = self.volume(Walls::of(ctx)?, volume_id(id)?).await?;
        if !DELETABLE.contains(&row.status.as_str()) {
            // The API's reference answers 400 here, not 409.
            return Err(Fault::invalid(format!(
                "Invalid volume: Volume status must be available or error, and must not be attached to a server; it is {}.",
                row.status
            )));
        }
        let id = volume_id(&row.id)?;
        let deadline = Duration::from_secs(self.config.workflow_timeout_seconds);
        let now = self.env.now();
        let (app, ctx) = (self.clone(), ctx.clone());
        self.db
            .write(move |txn| {
                let (app, ctx) = (app.clone(), ctx.clone());
                Box::pin(async move {
                    store::volumes::transition(txn, id, DELETABLE, "deleting", now)
                        .await
                        .map_err(|error| raced(error, "deleted"))?;
                    let input = json!({ "volume_id": id });
                    app.engine
                        .submit(txn, DELETE_VOLUME, &id.to_string(), input, &ctx, deadline)
                        .await?;
                    Ok(())
                })
            })
            .await?;
        Ok(())
    }
}

/// Drops volumes from the end of a page until it fits into one message, but
/// never all of them. Whether any were dropped.
fn fit(volumes: &mut Vec<Volume>) -> bool {
    let mut room = MAX_REPLY;
    let mut fits = 0;
    for volume in volumes.iter() {
        // With the bytes that say how long it is.
        let size = volume.encoded_len() + 8;
        if size > room && fits > 0 {
            break;
        }
        room = room.saturating_sub(size);
        fits += 1;
    }
    let all = volumes.len();
    volumes.truncate(fits);
    fits < all
}

fn check_metadata(metadata: &HashMap<String, String>) -> Result<(), Fault> {
    if metadata.len() > MAX_METADATA {
        return Err(Fault::invalid(format!(
            "A volume has {MAX_METADATA} metadata items at the most."
        )));
    }
    let size: usize = metadata
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_METADATA_BYTES {
        return Err(Fault::invalid(format!(
            "All metadata of a volume together has {MAX_METADATA_BYTES} bytes at the most."
        )));
    }
    for (key, value) in metadata {
        check_name("A metadata key", key, 255)?;
        check_description("A metadata value", value, 255)?;
    }
    Ok(())
}

fn to_json(metadata: &HashMap<String, String>) -> Result<String, Fault> {
    serde_json::to_string(metadata).map_err(|_| Fault::invalid("The metadata cannot be stored."))
}

impl App {
    /// The one volume type that there is.
    pub fn list_volume_types(&self, ctx: &RequestContext) -> Result<ListVolumeTypesReply, Fault> {
        ctx.require_reader()?;
        // A name-based id: the same on every replica and after every start.
        let id = VolumeTypeId::from_uuid(Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            self.config.volume_type.as_bytes(),
        ));
        Ok(ListVolumeTypesReply {
            types: vec![VolumeType {
                id: id.to_string(),
                name: self.config.volume_type.clone(),
                description: "qcow2 files on a storage host".into(),
                is_public: true,
                extra_specs: HashMap::new(),
            }],
        })
    }

    /// The hosts that store volumes, for administrators.
    pub async fn list_storage_hosts(
        &self,
        ctx: &RequestContext,
    ) -> Result<ListStorageHostsReply, Fault> {
        ctx.require_admin()?;
        let hosts = store::storage_hosts::list(self.db.read()).await?;
        let now = self.env.now();
        Ok(ListStorageHostsReply {
            hosts: hosts
                .into_iter()
                .map(|row| StorageHost {
                    host: row.host,
                    host_id: row.host_id,
                    free_gib: u64::try_from(row.free_gib).unwrap_or(0),
                    total_gib: u64::try_from(row.total_gib).unwrap_or(0),
                    availability_zone: row.availability_zone,
                    heard_at: row.heard_at,
                    reachable_everywhere: row.reachable_everywhere,
                    alive: Some(was_heard_lately(row.heard_at, now)),
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_too_large_loses_its_end() {
        let page = |size: usize| -> Vec<Volume> {
            (0..10)
                .map(|number| Volume {
                    name: number.to_string(),
                    metadata: [("k".to_owned(), "x".repeat(size))].into(),
                    ..Volume::default()
                })
                .collect()
        };
        let mut small = page(100);
        assert!(!fit(&mut small));
        assert_eq!(small.len(), 10);
        let mut large = page(MAX_REPLY / 4);
        assert!(fit(&mut large));
        let names: Vec<_> = large.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["0", "1", "2"]);
        let mut huge = page(MAX_REPLY * 2);
        assert!(fit(&mut huge));
        assert_eq!(
            huge.len(),
            1,
            "a page without volumes would be the last one"
        );
    }

    #[test]
    fn metadata_is_bounded_as_a_whole() {
        let full = |value: &str| -> HashMap<String, String> {
            let key = |n: usize| format!("{n:0>255}");
            (0..MAX_METADATA)
                .map(|n| (key(n), value.repeat(255)))
                .collect()
        };
        assert!(check_metadata(&full("x")).is_ok());
        let fault = check_metadata(&full("雲")).unwrap_err();
        assert!(fault.message.contains("65536 bytes"), "{}", fault.message);
    }
}

//! The table `objects`, and the counters that hang on it.

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseTransaction, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};
use yakumo_db::{Db, DbError, ExpectOne as _};
use yakumo_types::{Fault, Timestamp};

use super::entity::object::{Column, Entity, Model};
use super::entity::{container, garbage};
use super::{Metadata, from_bytes, from_json, signed, to_json, unsigned};
use crate::app::listing::Bounds;
use crate::drivers::BlobId;

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its data; none for an object without bytes.
    pub blob: Option<BlobId>,
    /// Bytes.
    pub size: u64,
    /// MD5, hexadecimal.
    pub etag: String,
    /// The media type.
    pub content_type: String,
    /// Other headers that are given back, by their lower-case names.
    pub headers: Metadata,
    /// What the client keeps with it.
    pub metadata: Metadata,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// Seconds since the epoch after which it is gone.
    pub delete_at: Option<i64>,
}

/// Bounds that a container's owner has set, checked when an object is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quota {
    /// Bytes in the container.
    pub bytes: Option<u64>,
    /// Objects in the container.
    pub count: Option<u64>,
}

/// What must hold of the object that is there when another one is stored or
/// removed in its place.
pub type Check = std::sync::Arc<dyn Fn(Option<&Object>) -> Result<(), Fault> + Send + Sync>;

/// The object, if there is one of that name.
pub async fn find(db: &Db, container: &str, name: &str) -> Result<Option<Object>, DbError> {
    let row = Entity::find()
        .filter(Column::ContainerId.eq(container))
        .filter(Column::Name.eq(name.as_bytes().to_vec()))
        .one(db.read())
        .await?;
    row.map(from_row).transpose()
}

/// One stretch of a container's objects, in the order and within the bounds
/// that are asked for.
pub async fn list(
    db: &Db,
    container: &str,
    bounds: &Bounds,
    limit: u64,
) -> Result<Vec<Object>, DbError> {
    let mut select = Entity::find().filter(Column::ContainerId.eq(container));
    if let Some((bound, inclusive)) = &bounds.low {
        let bound = bound.clone();
        select = select.filter(match inclusive {
            true => Column::Name.gte(bound),
            false => Column::Name.gt(bound),
        });
    }
    if let Some(bound) = &bounds.high {
        select = select.filter(Column::Name.lt(bound.clone()));
    }
    let select = match bounds.reverse {
        false => select.order_by_asc(Column::Name),
        true => select.order_by_desc(Column::Name),
    };
    let rows = select.limit(limit).all(db.read()).await?;
    rows.into_iter().map(from_row).collect()
}

/// Stores an object in the place of one of the same name, whose data becomes
/// garbage. `NotFound` if the container is gone, `OverQuota` by its owner's
/// bounds, and whatever `check` says.
pub async fn put(
    db: &Db,
    container: &str,
    id: String,
    object: &Object,
    quota: Quota,
    check: Check,
) -> Result<(), DbError> {
    let container = container.to_owned();
    let object = object.clone();
    db.write(move |txn| {
        let (container, id) = (container.clone(), id.clone());
        let (object, check) = (object.clone(), check.clone());
        Box::pin(async move {
            touch(txn, &container, object.updated_at).await?;
            let old = find_in(txn, &container, &object.name).await?;
            let old_object = old.clone().map(from_row).transpose()?;
            check(old_object.as_ref())?;
            let mut row = to_row(id, &container, &object)?;
            let more_objects = i64::from(old.is_none());
            let more_bytes = row.size - old.as_ref().map_or(0, |old| old.size);
            match old {
                None => {
                    Entity::insert(row.into_active_model().reset_all())
                        .exec_without_returning(txn)
                        .await?;
                }
                Some(old) => {
                    throw_away(txn, &old.blob_id).await?;
                    row.id = old.id;
                    Entity::update(row.into_active_model().reset_all())
                        .exec(txn)
                        .await?;
                }
            }
            count(txn, &container, more_objects, more_bytes, quota).await
        })
    })
    .await
}

/// Removes an object; `NotFound` if there is none, and whatever `check` says.
pub async fn delete(
    db: &Db,
    container: &str,
    name: &str,
    now: Timestamp,
    check: Check,
) -> Result<(), DbError> {
    let (container, name) = (container.to_owned(), name.to_owned());
    db.write(move |txn| {
        let (container, name, check) = (container.clone(), name.clone(), check.clone());
        Box::pin(async move {
            touch(txn, &container, now).await?;
            let old = find_in(txn, &container, &name)
                .await?
                .ok_or(DbError::NotFound)?;
            check(Some(&from_row(old.clone())?))?;
            throw_away(txn, &old.blob_id).await?;
            Entity::delete_by_id(old.id).exec(txn).await?;
            count(txn, &container, -1, -old.size, Quota::default()).await
        })
    })
    .await
}

/// Replaces what a client may change of an object without its data, by
/// `change`, in one transaction.
pub async fn update(
    db: &Db,
    container: &str,
    name: &str,
    now: Timestamp,
    change: impl Fn(&mut Object) -> Result<(), DbError> + Clone + Send + Sync + 'static,
) -> Result<(), DbError> {
    let (container, name) = (container.to_owned(), name.to_owned());
    db.write(move |txn| {
        let (container, name, change) = (container.clone(), name.clone(), change.clone());
        Box::pin(async move {
            touch(txn, &container, now).await?;
            let old = find_in(txn, &container, &name)
                .await?
                .ok_or(DbError::NotFound)?;
            let id = old.id.clone();
            let mut object = from_row(old)?;
            change(&mut object)?;
            object.updated_at = now;
            let row = to_row(id, &container, &object)?;
            Entity::update(row.into_active_model().reset_all())
                .exec(txn)
                .await?;
            Ok(())
        })
    })
    .await
}

/// Up to `limit` objects that are to be gone at `now` (seconds), each with its
/// container.
pub async fn expired(db: &Db, now: i64, limit: u64) -> Result<Vec<(String, String)>, DbError> {
    let rows: Vec<(String, Vec<u8>)> = Entity::find()
        .select_only()
        .column(Column::ContainerId)
        .column(Column::Name)
        .filter(Column::DeleteAt.gt(0))
        .filter(Column::DeleteAt.lte(now))
        .order_by_asc(Column::DeleteAt)
        .limit(limit)
        .into_tuple()
        .all(db.read())
        .await?;
    rows.into_iter()
        .map(|(container, name)| Ok((container, from_bytes(name)?)))
        .collect()
}

/// Those of the blobs that an object has.
pub async fn known_blobs(db: &Db, blobs: &[BlobId]) -> Result<Vec<BlobId>, DbError> {
    let names: Vec<String> = blobs.iter().map(ToString::to_string).collect();
    let rows: Vec<String> = Entity::find()
        .select_only()
        .column(Column::BlobId)
        .filter(Column::BlobId.is_in(names))
        .into_tuple()
        .all(db.read())
        .await?;
    Ok(rows.iter().filter_map(|blob| BlobId::parse(blob)).collect())
}

/// Takes the container's row, so that changes in it follow each other.
async fn touch(txn: &DatabaseTransaction, container: &str, now: Timestamp) -> Result<(), DbError> {
    container::Entity::update_many()
        .col_expr(container::Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(container::Column::Id.eq(container))
        .exec(txn)
        .await?
        .or_not_found()
}

async fn count(
    txn: &DatabaseTransaction,
    container: &str,
    objects: i64,
    bytes: i64,
    quota: Quota,
) -> Result<(), DbError> {
    use container::Column;
    let mut update = container::Entity::update_many()
        .col_expr(
            Column::ObjectCount,
            Expr::col(Column::ObjectCount).add(objects),
        )
        .col_expr(Column::BytesUsed, Expr::col(Column::BytesUsed).add(bytes))
        .filter(Column::Id.eq(container));
    if let (Some(most), true) = (quota.count, objects > 0) {
        update = update.filter(Column::ObjectCount.lte(signed(most) - objects));
    }
    if let (Some(most), true) = (quota.bytes, bytes > 0) {
        update = update.filter(Column::BytesUsed.lte(signed(most) - bytes));
    }
    update
        .exec(txn)
        .await?
        .or_not_found()
        .map_err(|_| Fault::over_quota("The container's quota does not allow it.").into())
}

async fn find_in(
    txn: &DatabaseTransaction,
    container: &str,
    name: &str,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::ContainerId.eq(container))
        .filter(Column::Name.eq(name.as_bytes().to_vec()))
        .one(txn)
        .await?)
}

async fn throw_away(txn: &DatabaseTransaction, blob: &str) -> Result<(), DbError> {
    if blob.is_empty() {
        return Ok(());
    }
    let row = garbage::Model {
        blob_id: blob.to_owned(),
    };
    garbage::Entity::insert(row.into_active_model().reset_all())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

fn to_row(id: String, container: &str, object: &Object) -> Result<Model, DbError> {
    Ok(Model {
        id,
        container_id: container.to_owned(),
        name: object.name.as_bytes().to_vec(),
        blob_id: object.blob.map(|blob| blob.to_string()).unwrap_or_default(),
        size: signed(object.size),
        etag: object.etag.clone(),
        content_type: object.content_type.clone(),
        headers: to_json(&object.headers)?,
        metadata: to_json(&object.metadata)?,
        updated_at: object.updated_at.as_micros(),
        delete_at: object.delete_at.unwrap_or(0),
    })
}

fn from_row(row: Model) -> Result<Object, DbError> {
    Ok(Object {
        name: from_bytes(row.name)?,
        blob: BlobId::parse(&row.blob_id),
        size: unsigned(row.size),
        etag: row.etag,
        content_type: row.content_type,
        headers: from_json(&row.headers)?,
        metadata: from_json(&row.metadata)?,
        updated_at: Timestamp::from_micros(row.updated_at),
        delete_at: (row.delete_at > 0).then_some(row.delete_at),
    })
}

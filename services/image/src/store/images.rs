//! The tables `images`, `image_tags` and `image_properties`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::sea_query::{Expr, ExprTrait as _, Query, Value};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter, QuerySelect, Select,
};
use yakumo_db::idempotency::Once;
use yakumo_db::{Db, DbError, ExpectOne as _, keyset};
use yakumo_types::{Fault, ImageId, ProjectId, Timestamp};

use super::entity::{image, member, property, tag};
use super::{Viewer, quotas};
use crate::app::model::{Image, Status, Stored, Visibility};
use crate::app::query::{Comparison, Direction, ListQuery, SortKey};
use crate::drivers::BlobId;

/// An image together with the revision that it was read at, which a change
/// must still find.
#[derive(Debug, Clone)]
pub struct Revised {
    /// The image.
    pub image: Image,
    /// See [`update`].
    pub revision: i64,
}

/// Who may see an image: its owner, everybody if it is public or community,
/// and its members.
fn visible_to(viewer: Viewer) -> Condition {
    match viewer {
        Viewer::Admin(_) => Condition::all(),
        Viewer::Project(project) => Condition::any()
            .add(image::Column::Owner.eq(project.to_string()))
            .add(image::Column::Visibility.eq(Visibility::Public.word()))
            .add(image::Column::Visibility.eq(Visibility::Community.word()))
            .add(shared_with(project, None)),
    }
}

fn shared_with(project: ProjectId, status: Option<&str>) -> Condition {
    let mut members = Query::select();
    members
        .column(member::Column::ImageId)
        .from(member::Entity)
        .and_where(member::Column::ProjectId.eq(project.to_string()));
    if let Some(status) = status {
        members.and_where(member::Column::Status.eq(status));
    }
    Condition::all()
        .add(image::Column::Visibility.eq(Visibility::Shared.word()))
        .add(image::Column::Id.in_subquery(members.to_owned()))
}

/// What stands in a viewer's listing: less than it may see, since foreign
/// community images and those that it did not accept are left out unless
/// asked for.
fn listed_for(viewer: Viewer, query: &ListQuery) -> Condition {
    let accepted = match (query.every_member_status, query.member_status) {
        (true, _) => None,
        (false, Some(status)) => Some(status.word()),
        (false, None) => Some("accepted"),
    };
    let every = match viewer {
        Viewer::Admin(_) => Condition::all(),
        Viewer::Project(project) => {
            let mut any = Condition::any()
                .add(image::Column::Owner.eq(project.to_string()))
                .add(image::Column::Visibility.eq(Visibility::Public.word()))
                .add(shared_with(project, accepted));
            if query.every_visibility || query.visibility == Some(Visibility::Community) {
                any = any.add(image::Column::Visibility.eq(Visibility::Community.word()));
            }
            any
        }
    };
    let mut all = Condition::all().add(every);
    if let Some(visibility) = query.visibility {
        all = all.add(image::Column::Visibility.eq(visibility.word()));
    }
    if let (Viewer::Admin(Some(project)), Some(_)) = (viewer, query.member_status) {
        all = all.add(shared_with(project, accepted));
    }
    all
}

/// Adds a fresh image; `Conflict` if its id is taken, `OverQuota` if its owner
/// has `most` images already. See [`Once::keep`] for what `once` is.
pub async fn insert(db: &Db, fresh: &Image, most: u64, once: &Once) -> Result<(), DbError> {
    let row = to_row(fresh, 0);
    let (fresh, once) = (fresh.clone(), once.clone());
    db.write(move |txn| {
        let (row, fresh, once) = (row.clone(), fresh.clone(), once.clone());
        Box::pin(async move {
            once.keep(txn, std::slice::from_ref(&row.id)).await?;
            quotas::lock(txn, &row.owner).await?;
            let count = image::Entity::find()
                .filter(image::Column::Owner.eq(row.owner.as_str()))
                .count(txn)
                .await?;
            if count >= most {
                return Err(Fault::over_quota(format!(
                    "The project has {count} images; it must not have more than {most}."
                ))
                .into());
            }
            image::Entity::insert(row.into_active_model().reset_all())
                .exec_without_returning(txn)
                .await?;
            write_tags(txn, fresh.id, &fresh.tags).await?;
            write_properties(txn, fresh.id, &fresh.properties).await
        })
    })
    .await
}

/// Bytes that a project's images hold.
pub async fn bytes_of(db: &Db, project: ProjectId) -> Result<u64, DbError> {
    bytes_within(db.read(), &project.to_string()).await
}

/// The same within a transaction, for one that holds [`quotas::lock`].
pub(super) async fn bytes_within(db: &impl ConnectionTrait, project: &str) -> Result<u64, DbError> {
    // One number per image rather than SUM, whose type differs between databases.
    let sizes: Vec<i64> = image::Entity::find()
        .select_only()
        .column(image::Column::Size)
        .filter(image::Column::Owner.eq(project))
        .filter(image::Column::Size.gt(0))
        .into_tuple()
        .all(db)
        .await?;
    Ok(sizes
        .into_iter()
        .filter_map(|size| u64::try_from(size).ok())
        .fold(0, u64::saturating_add))
}

/// The image, if the viewer may see it.
pub async fn find(db: &Db, viewer: Viewer, id: ImageId) -> Result<Option<Revised>, DbError> {
    let row = image::Entity::find_by_id(id.to_string())
        .filter(visible_to(viewer))
        .one(db.read())
        .await?;
    match row {
        None => Ok(None),
        Some(row) => {
            let revision = row.revision;
            let images = complete(db.read(), vec![row]).await?;
            Ok(images
                .into_iter()
                .next()
                .map(|image| Revised { image, revision }))
        }
    }
}

/// Those of the images that the viewer may see.
pub async fn find_many(db: &Db, viewer: Viewer, ids: &[ImageId]) -> Result<Vec<Image>, DbError> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = image::Entity::find()
        .filter(image::Column::Id.is_in(ids))
        .filter(visible_to(viewer))
        .all(db.read())
        .await?;
    complete(db.read(), rows).await
}

/// One page. `Invalid` if the marker is no image that the viewer may see.
pub async fn list(db: &Db, viewer: Viewer, query: &ListQuery) -> Result<Vec<Image>, DbError> {
    let marker = match query.marker {
        None => None,
        Some(id) => Some(
            image::Entity::find_by_id(id.to_string())
                .filter(visible_to(viewer))
                .one(db.read())
                .await?
                .ok_or_else(|| {
                    Fault::invalid(format!("The marker {id} is not the id of an image."))
                })?,
        ),
    };
    if query.limit == 0 {
        return Ok(Vec::new());
    }
    let select = filtered(
        image::Entity::find().filter(listed_for(viewer, query)),
        query,
    );
    let keys: Vec<(image::Column, yakumo_db::Direction)> = query
        .sort
        .iter()
        .map(|(key, direction)| (column_of(*key), direction_of(*direction)))
        .collect();
    let values: Option<Vec<Value>> = marker.map(|row| {
        query
            .sort
            .iter()
            .map(|(key, _)| value_of(&row, *key))
            .collect()
    });
    let rows = keyset(select, &keys, values.as_deref(), Some(query.limit))
        .all(db.read())
        .await?;
    complete(db.read(), rows).await
}

fn filtered(mut select: Select<image::Entity>, query: &ListQuery) -> Select<image::Entity> {
    use image::Column;
    if !query.ids.is_empty() {
        select = select.filter(Column::Id.is_in(query.ids.iter().map(ToString::to_string)));
    }
    for (column, words) in [
        (Column::Name, &query.names),
        (Column::DiskFormat, &query.disk_formats),
        (Column::ContainerFormat, &query.container_formats),
    ] {
        if !words.is_empty() {
            select = select.filter(column.is_in(words.iter().map(String::as_str)));
        }
    }
    if !query.statuses.is_empty() {
        select = select.filter(Column::Status.is_in(query.statuses.iter().map(|it| it.word())));
    }
    if let Some(owner) = query.owner {
        select = select.filter(Column::Owner.eq(owner.to_string()));
    }
    if let Some(checksum) = &query.checksum {
        select = select.filter(Column::Checksum.eq(checksum.as_str()));
    }
    if let Some(hash) = &query.hash {
        select = select.filter(Column::Hash.eq(hash.as_str()));
    }
    if let Some(protected) = query.protected {
        select = select.filter(Column::Protected.eq(protected));
    }
    select = select.filter(Column::Hidden.eq(query.hidden));
    if let Some(size) = query.size_min {
        select = select.filter(Column::Size.gte(number(size)));
    }
    if let Some(size) = query.size_max {
        select = select.filter(Column::Size.lte(number(size)));
        select = select.filter(Column::Size.gte(0));
    }
    if let Some(disk) = query.min_disk {
        select = select.filter(Column::MinDisk.eq(number(disk)));
    }
    if let Some(ram) = query.min_ram {
        select = select.filter(Column::MinRam.eq(number(ram)));
    }
    for (column, comparisons) in [
        (Column::CreatedAt, &query.created_at),
        (Column::UpdatedAt, &query.updated_at),
    ] {
        for (comparison, time) in comparisons {
            select = select.filter(compared(column, *comparison, *time));
        }
    }
    for wanted in &query.tags {
        let tagged = Query::select()
            .column(tag::Column::ImageId)
            .from(tag::Entity)
            .and_where(tag::Column::Tag.eq(wanted.as_str()))
            .to_owned();
        select = select.filter(Column::Id.in_subquery(tagged));
    }
    for (name, value) in &query.properties {
        let having = Query::select()
            .column(property::Column::ImageId)
            .from(property::Entity)
            .and_where(property::Column::Name.eq(name.as_str()))
            .and_where(property::Column::Value.eq(value.as_str()))
            .to_owned();
        select = select.filter(Column::Id.in_subquery(having));
    }
    select
}

/// A client writes seconds, rows hold microseconds: a second is a range.
fn compared(column: image::Column, comparison: Comparison, time: Timestamp) -> Condition {
    let start = time.as_micros();
    let end = start.saturating_add(1_000_000);
    match comparison {
        Comparison::Equal => Condition::all().add(column.gte(start)).add(column.lt(end)),
        Comparison::NotEqual => Condition::any().add(column.lt(start)).add(column.gte(end)),
        Comparison::Greater => Condition::all().add(column.gte(end)),
        Comparison::GreaterOrEqual => Condition::all().add(column.gte(start)),
        Comparison::Less => Condition::all().add(column.lt(start)),
        Comparison::LessOrEqual => Condition::all().add(column.lt(end)),
    }
}

fn column_of(key: SortKey) -> image::Column {
    match key {
        SortKey::Name => image::Column::Name,
        SortKey::Status => image::Column::Status,
        SortKey::ContainerFormat => image::Column::ContainerFormat,
        SortKey::DiskFormat => image::Column::DiskFormat,
        SortKey::Size => image::Column::Size,
        SortKey::Id => image::Column::Id,
        SortKey::CreatedAt => image::Column::CreatedAt,
        SortKey::UpdatedAt => image::Column::UpdatedAt,
    }
}

fn value_of(row: &image::Model, key: SortKey) -> Value {
    match key {
        SortKey::Name => row.name.as_str().into(),
        SortKey::Status => row.status.as_str().into(),
        SortKey::ContainerFormat => row.container_format.as_str().into(),
        SortKey::DiskFormat => row.disk_format.as_str().into(),
        SortKey::Size => row.size.into(),
        SortKey::Id => row.id.as_str().into(),
        SortKey::CreatedAt => row.created_at.into(),
        SortKey::UpdatedAt => row.updated_at.into(),
    }
}

fn direction_of(direction: Direction) -> yakumo_db::Direction {
    match direction {
        Direction::Ascending => yakumo_db::Direction::Ascending,
        Direction::Descending => yakumo_db::Direction::Descending,
    }
}

/// Writes what a client may change. [`DbError::Stale`] if the image is not at
/// `revision` any more.
pub async fn update(db: &Db, changed: &Image, revision: i64) -> Result<(), DbError> {
    let row = to_row(changed, revision + 1);
    let changed = changed.clone();
    db.write(move |txn| {
        let (row, changed) = (row.clone(), changed.clone());
        Box::pin(async move {
            use image::Column;
            image::Entity::update_many()
                .col_expr(Column::Owner, Expr::value(row.owner))
                .col_expr(Column::Name, Expr::value(row.name))
                .col_expr(Column::Visibility, Expr::value(row.visibility))
                .col_expr(Column::Protected, Expr::value(row.protected))
                .col_expr(Column::Hidden, Expr::value(row.hidden))
                .col_expr(Column::DiskFormat, Expr::value(row.disk_format))
                .col_expr(Column::ContainerFormat, Expr::value(row.container_format))
                .col_expr(Column::MinDisk, Expr::value(row.min_disk))
                .col_expr(Column::MinRam, Expr::value(row.min_ram))
                .col_expr(Column::Revision, Expr::value(row.revision))
                .col_expr(Column::UpdatedAt, Expr::value(row.updated_at))
                .filter(Column::Id.eq(row.id))
                .filter(Column::Revision.eq(revision))
                .exec(txn)
                .await?
                .or_stale()?;
            let id = changed.id.to_string();
            tag::Entity::delete_many()
                .filter(tag::Column::ImageId.eq(id.as_str()))
                .exec(txn)
                .await?;
            property::Entity::delete_many()
                .filter(property::Column::ImageId.eq(id.as_str()))
                .exec(txn)
                .await?;
            write_tags(txn, changed.id, &changed.tags).await?;
            write_properties(txn, changed.id, &changed.properties).await
        })
    })
    .await
}

/// Moves an image between `active` and `deactivated`.
pub async fn set_status(
    db: &Db,
    id: ImageId,
    from: Status,
    to: Status,
    now: Timestamp,
) -> Result<(), DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            use image::Column;
            image::Entity::update_many()
                .col_expr(Column::Status, Expr::value(to.word()))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .col_expr(Column::Revision, Expr::col(Column::Revision).add(1))
                .filter(Column::Id.eq(id.to_string()))
                .filter(Column::Status.eq(from.word()))
                .exec(txn)
                .await?
                .or_stale()
        })
    })
    .await
}

/// Removes an image that is not protected, at the revision it was read at.
/// What hangs on it goes with it; its blob is litter from here on.
pub async fn delete(db: &Db, id: ImageId, revision: i64) -> Result<(), DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            image::Entity::delete_many()
                .filter(image::Column::Id.eq(id.to_string()))
                .filter(image::Column::Revision.eq(revision))
                .filter(image::Column::Protected.eq(false))
                .exec(txn)
                .await?
                .or_stale()
        })
    })
    .await
}

async fn write_tags(
    txn: &impl ConnectionTrait,
    id: ImageId,
    tags: &[String],
) -> Result<(), DbError> {
    if tags.is_empty() {
        return Ok(());
    }
    let rows = tags.iter().map(|tag| {
        tag::Model {
            image_id: id.to_string(),
            tag: tag.clone(),
        }
        .into_active_model()
        .reset_all()
    });
    tag::Entity::insert_many(rows)
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

async fn write_properties(
    txn: &impl ConnectionTrait,
    id: ImageId,
    properties: &BTreeMap<String, String>,
) -> Result<(), DbError> {
    if properties.is_empty() {
        return Ok(());
    }
    let rows = properties.iter().map(|(name, value)| {
        property::Model {
            image_id: id.to_string(),
            name: name.clone(),
            value: value.clone(),
        }
        .into_active_model()
        .reset_all()
    });
    property::Entity::insert_many(rows)
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Adds tags and properties to a page of rows, by two queries in all.
async fn complete(
    db: &impl ConnectionTrait,
    rows: Vec<image::Model>,
) -> Result<Vec<Image>, DbError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut tags: HashMap<String, BTreeSet<String>> = HashMap::new();
    for row in tag::Entity::find()
        .filter(tag::Column::ImageId.is_in(ids.iter().copied()))
        .all(db)
        .await?
    {
        tags.entry(row.image_id).or_default().insert(row.tag);
    }
    let mut properties: HashMap<String, BTreeMap<String, String>> = HashMap::new();
    for row in property::Entity::find()
        .filter(property::Column::ImageId.is_in(ids.iter().copied()))
        .all(db)
        .await?
    {
        properties
            .entry(row.image_id)
            .or_default()
            .insert(row.name, row.value);
    }
    rows.into_iter()
        .map(|row| {
            let tags = tags.remove(&row.id).unwrap_or_default();
            let properties = properties.remove(&row.id).unwrap_or_default();
            from_row(row, tags.into_iter().collect(), properties)
        })
        .collect()
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn to_row(image: &Image, revision: i64) -> image::Model {
    let stored = image.stored.as_ref();
    image::Model {
        id: image.id.to_string(),
        owner: image.owner.to_string(),
        name: image.name.clone().unwrap_or_default(),
        status: image.status.word().to_owned(),
        visibility: image.visibility.word().to_owned(),
        protected: image.protected,
        hidden: image.hidden,
        disk_format: image.disk_format.clone().unwrap_or_default(),
        container_format: image.container_format.clone().unwrap_or_default(),
        min_disk: number(image.min_disk),
        min_ram: number(image.min_ram),
        size: stored.map_or(-1, |stored| number(stored.size)),
        virtual_size: stored.map_or(-1, |stored| number(stored.virtual_size)),
        checksum: stored.map(|stored| stored.md5.clone()).unwrap_or_default(),
        hash: stored
            .map(|stored| stored.sha512.clone())
            .unwrap_or_default(),
        blob_id: image.blob.map(|blob| blob.to_string()).unwrap_or_default(),
        upload_seen_at: 0,
        revision,
        created_at: image.created_at.as_micros(),
        updated_at: image.updated_at.as_micros(),
    }
}

fn from_row(
    row: image::Model,
    tags: Vec<String>,
    properties: BTreeMap<String, String>,
) -> Result<Image, DbError> {
    let unreadable = |what: &str, value: &str| {
        DbError::other(format!("image {}: unknown {what} {value:?}", row.id))
    };
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let stored = match (u64::try_from(row.size), u64::try_from(row.virtual_size)) {
        (Ok(size), Ok(virtual_size)) => Some(Stored {
            size,
            virtual_size,
            md5: row.checksum.clone(),
            sha512: row.hash.clone(),
        }),
        _ => None,
    };
    Ok(Image {
        id: row.id.parse().map_err(|_| unreadable("id", &row.id))?,
        owner: row
            .owner
            .parse()
            .map_err(|_| unreadable("owner", &row.owner))?,
        name: filled(&row.name),
        status: Status::parse(&row.status).ok_or_else(|| unreadable("status", &row.status))?,
        visibility: Visibility::parse(&row.visibility)
            .ok_or_else(|| unreadable("visibility", &row.visibility))?,
        protected: row.protected,
        hidden: row.hidden,
        disk_format: filled(&row.disk_format),
        container_format: filled(&row.container_format),
        min_disk: u64::try_from(row.min_disk).unwrap_or(0),
        min_ram: u64::try_from(row.min_ram).unwrap_or(0),
        stored,
        blob: BlobId::parse(&row.blob_id),
        properties,
        tags,
        created_at: Timestamp::from_micros(row.created_at),
        updated_at: Timestamp::from_micros(row.updated_at),
    })
}

//! The table `volumes`.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Set,
};
use yakumo_db::DbError;
use yakumo_types::{Timestamp, VolumeId};

use super::Walls;
use super::volume::{ActiveModel, Column, Entity, Model};

/// What a listing is cut down to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact name.
    pub name: Option<String>,
    /// Exact status.
    pub status: Option<String>,
    /// Only these ids.
    pub ids: Vec<String>,
}

/// How a listing is ordered. Ties are broken by id.
#[derive(Debug, Clone, Copy)]
pub struct Sort {
    /// The column.
    pub column: SortColumn,
    /// Smallest first.
    pub ascending: bool,
}

/// What a listing can be ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SortColumn {
    CreatedAt,
    Id,
    Name,
    Size,
    Status,
}

fn alive(walls: Walls) -> Condition {
    let condition = Condition::all().add(Column::DeletedAt.eq(0_i64));
    match walls {
        Walls::All => condition,
        Walls::Project(project) => condition.add(Column::ProjectId.eq(project.to_string())),
    }
}

/// Inserts a volume.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The volume, unless it is gone or outside the walls.
pub async fn find(
    db: &impl ConnectionTrait,
    walls: Walls,
    id: VolumeId,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find()
        .filter(alive(walls))
        .filter(Column::Id.eq(id.to_string()))
        .one(db)
        .await?)
}

/// Rows by id, those of deleted volumes among them.
pub async fn any_by_id(db: &impl ConnectionTrait, ids: &[String]) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// Up to `limit` volumes after the id `after` that are in one of these states
/// since before `before`.
pub async fn unchanged_since(
    db: &impl ConnectionTrait,
    statuses: &[&str],
    before: Timestamp,
    after: &str,
    limit: u64,
) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(alive(Walls::All))
        .filter(Column::Status.is_in(statuses.iter().copied()))
        .filter(Column::UpdatedAt.lt(before.as_micros()))
        .filter(Column::Id.gt(after))
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(db)
        .await?)
}

/// Up to `limit` volumes after `marker` in the wanted order.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: Walls,
    filter: &Filter,
    sort: Sort,
    marker: Option<&Model>,
    limit: u64,
) -> Result<Vec<Model>, DbError> {
    let mut query = Entity::find().filter(alive(walls));
    if let Some(name) = &filter.name {
        query = query.filter(Column::Name.eq(name));
    }
    if let Some(status) = &filter.status {
        query = query.filter(Column::Status.eq(status));
    }
    if !filter.ids.is_empty() {
        query = query.filter(Column::Id.is_in(&filter.ids));
    }
    if let Some(marker) = marker {
        query = query.filter(after(sort, marker));
    }
    let column = match sort.column {
        SortColumn::CreatedAt => Column::CreatedAt,
        SortColumn::Id => Column::Id,
        SortColumn::Name => Column::Name,
        SortColumn::Size => Column::Size,
        SortColumn::Status => Column::Status,
    };
    query = if sort.ascending {
        query.order_by_asc(column).order_by_asc(Column::Id)
    } else {
        query.order_by_desc(column).order_by_desc(Column::Id)
    };
    Ok(query.limit(limit).all(db).await?)
}

fn after(sort: Sort, marker: &Model) -> Condition {
    macro_rules! beyond {
        ($column:expr, $value:expr) => {{
            let value = $value;
            let (past, past_id) = if sort.ascending {
                ($column.gt(value.clone()), Column::Id.gt(marker.id.clone()))
            } else {
                ($column.lt(value.clone()), Column::Id.lt(marker.id.clone()))
            };
            Condition::any()
                .add(past)
                .add(Condition::all().add($column.eq(value)).add(past_id))
        }};
    }
    match sort.column {
        SortColumn::CreatedAt => beyond!(Column::CreatedAt, marker.created_at),
        SortColumn::Id => beyond!(Column::Id, marker.id.clone()),
        SortColumn::Name => beyond!(Column::Name, marker.name.clone()),
        SortColumn::Size => beyond!(Column::Size, marker.size),
        SortColumn::Status => beyond!(Column::Status, marker.status.clone()),
    }
}

/// How many volumes a project has, and how many GiB in them.
pub async fn usage(db: &impl ConnectionTrait, project: &str) -> Result<(u64, u64), DbError> {
    #[derive(FromQueryResult)]
    struct Usage {
        size: i64,
    }
    // Sizes are few and small; adding them here spares three dialects of
    // numeric sums.
    let sizes = Entity::find()
        .select_only()
        .column(Column::Size)
        .filter(Column::DeletedAt.eq(0_i64))
        .filter(Column::ProjectId.eq(project))
        .into_model::<Usage>()
        .all(db)
        .await?;
    let gigabytes = sizes
        .iter()
        .filter_map(|row| u64::try_from(row.size).ok())
        .sum();
    Ok((u64::try_from(sizes.len()).unwrap_or(u64::MAX), gigabytes))
}

/// Moves a volume from one of the `expected` states to `status`; `Stale` if it
/// is in none of them any more.
pub async fn transition(
    db: &impl ConnectionTrait,
    id: VolumeId,
    expected: &[&str],
    status: &str,
    now: Timestamp,
) -> Result<(), DbError> {
    let moved = Entity::update_many()
        .col_expr(Column::Status, Expr::value(status))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(id.to_string()))
        .filter(Column::DeletedAt.eq(0_i64))
        .filter(Column::Status.is_in(expected.iter().copied()))
        .exec(db)
        .await?;
    if moved.rows_affected == 0 {
        Err(DbError::Stale)
    } else {
        Ok(())
    }
}

/// Changes some columns of a volume.
pub async fn update(db: &impl ConnectionTrait, changes: ActiveModel) -> Result<(), DbError> {
    changes.update(db).await?;
    Ok(())
}

/// Notes the storage host that was chosen for a volume.
pub async fn set_host(db: &impl ConnectionTrait, id: VolumeId, host: &str) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Host, Expr::value(host))
        .filter(Column::Id.eq(id.to_string()))
        .exec(db)
        .await?;
    Ok(())
}

/// How many volumes a storage host keeps, and the ids of some.
pub async fn kept_by(
    db: &impl ConnectionTrait,
    host: &str,
    limit: u64,
) -> Result<(u64, Vec<String>), DbError> {
    let kept = || {
        Entity::find()
            .filter(Column::Host.eq(host))
            .filter(Column::DeletedAt.eq(0_i64))
    };
    let count = kept().count(db).await?;
    let some = kept()
        .select_only()
        .column(Column::Id)
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok((count, some))
}

/// Marks a volume as failed, with the reason.
pub async fn fail(
    db: &impl ConnectionTrait,
    id: VolumeId,
    status: &str,
    why: &str,
    now: Timestamp,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(status))
        .col_expr(
            Column::Fault,
            Expr::value(why.chars().take(1000).collect::<String>()),
        )
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(id.to_string()))
        .exec(db)
        .await?;
    Ok(())
}

/// Makes a volume available that is in error for this reason and no other.
pub async fn mend(
    db: &impl ConnectionTrait,
    id: VolumeId,
    why: &str,
    now: Timestamp,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value("available"))
        .col_expr(Column::Fault, Expr::value(""))
        .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(id.to_string()))
        .filter(Column::DeletedAt.eq(0_i64))
        .filter(Column::Status.eq("error"))
        .filter(Column::Fault.eq(why))
        .exec(db)
        .await?;
    Ok(())
}

/// The volume is gone; its row stays for the records.
pub async fn mark_deleted(
    db: &impl ConnectionTrait,
    id: VolumeId,
    now: Timestamp,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value("deleted"))
        .col_expr(Column::DeletedAt, Expr::value(now.as_micros()))
        .filter(Column::Id.eq(id.to_string()))
        .filter(Column::DeletedAt.eq(0_i64))
        .exec(db)
        .await?;
    Ok(())
}

/// An active model that changes nothing yet but the time of the change.
pub fn change_of(id: VolumeId, now: Timestamp) -> ActiveModel {
    ActiveModel {
        id: Set(id.to_string()),
        updated_at: Set(now.as_micros()),
        ..Default::default()
    }
}

/// Sets the metadata, as JSON, in a change.
pub fn put_metadata(change: &mut ActiveModel, metadata: String) {
    change.metadata = Set(metadata);
}

/// Sets name and description in a change, where given.
pub fn put_texts(change: &mut ActiveModel, name: Option<String>, description: Option<String>) {
    if let Some(name) = name {
        change.name = Set(name);
    }
    if let Some(description) = description {
        change.description = Set(description);
    }
}

/// Forgets volumes that were deleted before `before`; how many.
pub async fn purge(db: &impl ConnectionTrait, before: i64, limit: u64) -> Result<u64, DbError> {
    let ids: Vec<String> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::DeletedAt.gt(0_i64))
        .filter(Column::DeletedAt.lt(before))
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let gone = Entity::delete_many()
        .filter(Column::Id.is_in(ids))
        .exec(db)
        .await?;
    Ok(gone.rows_affected)
}

/// One page, by id, of the volumes that a storage host should have whole.
pub async fn settled_on(
    db: &impl ConnectionTrait,
    host: &str,
    after: &str,
    limit: u64,
) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::Host.eq(host))
        .filter(Column::DeletedAt.eq(0_i64))
        .filter(Column::Status.is_in(["available", "in-use"]))
        .filter(Column::Id.gt(after))
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(db)
        .await?)
}

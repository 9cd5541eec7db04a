//! The table `attachments`.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use yakumo_db::DbError;
use yakumo_types::{AttachmentId, VolumeId};

use super::attachment::{ActiveModel, Column, Entity, Model};

/// The state of an attachment whose end is written down.
pub const RELEASING: &str = "releasing";

/// Takes the volume; `Conflict` if another attachment has it.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The attachment, if it is there.
pub async fn find(db: &impl ConnectionTrait, id: AttachmentId) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(id.to_string()).one(db).await?)
}

/// The attachments of a page of volumes, in one query.
pub async fn of_volumes(
    db: &impl ConnectionTrait,
    volumes: &[String],
) -> Result<Vec<Model>, DbError> {
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::VolumeId.is_in(volumes))
        .all(db)
        .await?)
}

/// Sets the state of an attachment.
pub async fn set_status(
    db: &impl ConnectionTrait,
    id: AttachmentId,
    status: &str,
    attached_at: Option<i64>,
) -> Result<(), DbError> {
    let mut update = Entity::update_many().col_expr(Column::Status, Expr::value(status));
    if let Some(time) = attached_at {
        update = update.col_expr(Column::AttachedAt, Expr::value(time));
    }
    update
        .filter(Column::Id.eq(id.to_string()))
        .exec(db)
        .await?;
    Ok(())
}

/// Notes where the export can be reached.
pub async fn set_socket(
    db: &impl ConnectionTrait,
    id: AttachmentId,
    socket: &str,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Socket, Expr::value(socket))
        .filter(Column::Id.eq(id.to_string()))
        .exec(db)
        .await?;
    Ok(())
}

/// Writes down that the attachment ends, and the epoch of who says so.
pub async fn begin_release(
    db: &impl ConnectionTrait,
    id: AttachmentId,
    epoch: i64,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(RELEASING))
        .col_expr(Column::ReleaseEpoch, Expr::value(epoch))
        .filter(Column::Id.eq(id.to_string()))
        .exec(db)
        .await?;
    Ok(())
}

/// Some of the attachments whose end is written down.
pub async fn releasing(db: &impl ConnectionTrait, limit: u64) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::Status.eq(RELEASING))
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(db)
        .await?)
}

/// Whether the end of the volume's attachment is written down, and owed; it is
/// until the transaction ends.
pub async fn is_releasing(db: &impl ConnectionTrait, volume: VolumeId) -> Result<bool, DbError> {
    let row = Entity::find()
        .filter(Column::VolumeId.eq(volume.to_string()))
        .filter(Column::Status.eq(RELEASING))
        .lock_exclusive()
        .one(db)
        .await?;
    Ok(row.is_some())
}

/// Gives the volume back; false if it had been given back before.
pub async fn delete(db: &impl ConnectionTrait, id: AttachmentId) -> Result<bool, DbError> {
    let deleted = Entity::delete_by_id(id.to_string()).exec(db).await?;
    Ok(deleted.rows_affected > 0)
}

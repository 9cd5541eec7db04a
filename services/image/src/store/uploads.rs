//! Who writes the data of which image.
//!
//! An uploader takes an image by moving it from `queued` to `saving` and
//! naming the fresh blob that it will write. From then on every write is
//! conditional on that blob, so one that was thought dead and continues can do
//! nothing. While it works it renews `upload_seen_at`; the reconciler gives an
//! image back whose uploader was not seen for a while.

use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use yakumo_db::{Db, DbError, ExpectOne as _};
use yakumo_types::{Fault, ImageId, Timestamp};

use super::entity::image::{Column, Entity};
use super::images::{bytes_within, number};
use super::quotas;
use crate::app::model::{Status, Stored};
use crate::drivers::BlobId;

/// Takes a queued image for one uploader; `Stale` if it is not queued.
///
/// Returns the disk format that the data must have, as it stands in the row
/// that was taken: it cannot change while the image is `saving`. A fault if
/// the formats are not set.
pub async fn take(db: &Db, id: ImageId, blob: BlobId, now: Timestamp) -> Result<String, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(Status::Saving.word()))
                .col_expr(Column::BlobId, Expr::value(blob.to_string()))
                .col_expr(Column::UploadSeenAt, Expr::value(now.as_micros()))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .col_expr(Column::Revision, Expr::col(Column::Revision).add(1))
                .filter(Column::Id.eq(id.to_string()))
                .filter(Column::Status.eq(Status::Queued.word()))
                .exec(txn)
                .await?
                .or_stale()?;
            let taken = Entity::find_by_id(id.to_string())
                .one(txn)
                .await?
                .ok_or(DbError::Stale)?;
            if taken.disk_format.is_empty() || taken.container_format.is_empty() {
                return Err(without_formats().into());
            }
            Ok(taken.disk_format)
        })
    })
    .await
}

/// What is said to those who upload before they said what.
pub fn without_formats() -> Fault {
    Fault::invalid(
        "The properties disk_format and container_format must be set before data is uploaded.",
    )
}

/// Says that the uploader lives; `Stale` if the image is not its own any more.
pub async fn renew(db: &Db, id: ImageId, blob: BlobId, now: Timestamp) -> Result<(), DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            Entity::update_many()
                .col_expr(Column::UploadSeenAt, Expr::value(now.as_micros()))
                .filter(Column::Id.eq(id.to_string()))
                .filter(Column::BlobId.eq(blob.to_string()))
                .filter(Column::Status.eq(Status::Saving.word()))
                .exec(txn)
                .await?
                .or_stale()
        })
    })
    .await
}

/// The data is there and durable: the image is active. `Stale` if the image
/// was deleted or taken away meanwhile, `OverQuota` if its owner's images would
/// hold more than `most` bytes: what fitted at the start need not fit any more.
pub async fn finish(
    db: &Db,
    id: ImageId,
    blob: BlobId,
    stored: &Stored,
    most: u64,
    now: Timestamp,
) -> Result<(), DbError> {
    let stored = stored.clone();
    db.write(move |txn| {
        let stored = stored.clone();
        Box::pin(async move {
            let row = Entity::find_by_id(id.to_string())
                .lock_exclusive()
                .one(txn)
                .await?
                .ok_or(DbError::Stale)?;
            quotas::lock(txn, &row.owner).await?;
            let used = bytes_within(txn, &row.owner).await?;
            if used.saturating_add(stored.size) > most {
                return Err(Fault::over_quota(format!(
                    "The project's images hold {used} bytes; with this one they would hold \
                     more than {most}."
                ))
                .into());
            }
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(Status::Active.word()))
                .col_expr(Column::Size, Expr::value(number(stored.size)))
                .col_expr(
                    Column::VirtualSize,
                    Expr::value(number(stored.virtual_size)),
                )
                .col_expr(Column::Checksum, Expr::value(stored.md5))
                .col_expr(Column::Hash, Expr::value(stored.sha512))
                .col_expr(Column::UploadSeenAt, Expr::value(0_i64))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .col_expr(Column::Revision, Expr::col(Column::Revision).add(1))
                .filter(Column::Id.eq(id.to_string()))
                .filter(Column::BlobId.eq(blob.to_string()))
                .filter(Column::Status.eq(Status::Saving.word()))
                .exec(txn)
                .await?
                .or_stale()
        })
    })
    .await
}

/// The upload failed: the image waits for data again. Returns whether the
/// image was still this uploader's, and does nothing otherwise.
pub async fn give_back(
    db: &Db,
    id: ImageId,
    blob: BlobId,
    now: Timestamp,
) -> Result<bool, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            let updated = Entity::update_many()
                .col_expr(Column::Status, Expr::value(Status::Queued.word()))
                .col_expr(Column::BlobId, Expr::value(""))
                .col_expr(Column::UploadSeenAt, Expr::value(0_i64))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .col_expr(Column::Revision, Expr::col(Column::Revision).add(1))
                .filter(Column::Id.eq(id.to_string()))
                .filter(Column::BlobId.eq(blob.to_string()))
                .filter(Column::Status.eq(Status::Saving.word()))
                .exec(txn)
                .await?;
            Ok(updated.rows_affected > 0)
        })
    })
    .await
}

/// Up to 500 images whose uploader was not seen since `before`.
pub async fn abandoned(db: &Db, before: Timestamp) -> Result<Vec<(ImageId, BlobId)>, DbError> {
    let rows: Vec<(String, String)> = Entity::find()
        .select_only()
        .column(Column::Id)
        .column(Column::BlobId)
        .filter(Column::Status.eq(Status::Saving.word()))
        .filter(Column::UploadSeenAt.lt(before.as_micros()))
        .limit(500)
        .into_tuple()
        .all(db.read())
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, blob)| Some((id.parse().ok()?, BlobId::parse(&blob)?)))
        .collect())
}

/// Those of the blobs that an image has or will have.
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

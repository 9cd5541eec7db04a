//! The table `image_members`.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use yakumo_db::idempotency::Once;
use yakumo_db::{Db, DbError, ExpectOne as _};
use yakumo_types::{Fault, ImageId, ProjectId, Timestamp};

use super::entity::image;
use super::entity::member::{Column, Entity, Model};
use crate::app::model::{Member, MemberStatus, limits};

/// The members of an image, in order of their ids; only `only`, if given.
pub async fn list(
    db: &Db,
    image: ImageId,
    only: Option<ProjectId>,
) -> Result<Vec<Member>, DbError> {
    let mut select = Entity::find().filter(Column::ImageId.eq(image.to_string()));
    if let Some(project) = only {
        select = select.filter(Column::ProjectId.eq(project.to_string()));
    }
    let rows = select
        .order_by_asc(Column::ProjectId)
        .all(db.read())
        .await?;
    rows.into_iter().map(from_row).collect()
}

/// Adds a member; `Conflict` if it is one, `OverQuota` if there are too many,
/// `NotFound` if there is no such image. See [`Once::keep`] for what `once` is.
pub async fn insert(db: &Db, member: &Member, once: &Once) -> Result<(), DbError> {
    let row = Model {
        image_id: member.image_id.to_string(),
        project_id: member.project_id.to_string(),
        status: member.status.word().to_owned(),
        created_at: member.created_at.as_micros(),
        updated_at: member.updated_at.as_micros(),
    };
    let once = once.clone();
    db.write(move |txn| {
        let (row, once) = (row.clone(), once.clone());
        Box::pin(async move {
            once.keep(txn, std::slice::from_ref(&row.project_id))
                .await?;
            // Two that count at once would both find room for the last one.
            image::Entity::find_by_id(row.image_id.as_str())
                .lock_exclusive()
                .one(txn)
                .await?
                .ok_or(DbError::NotFound)?;
            let count = Entity::find()
                .filter(Column::ImageId.eq(row.image_id.as_str()))
                .count(txn)
                .await?;
            if count >= limits::MEMBERS {
                return Err(Fault::over_quota(format!(
                    "An image must not have more than {} members.",
                    limits::MEMBERS
                ))
                .into());
            }
            Entity::insert(row.into_active_model().reset_all())
                .exec_without_returning(txn)
                .await?;
            Ok(())
        })
    })
    .await
}

/// What the member says; `NotFound` if it is none.
pub async fn set_status(
    db: &Db,
    image: ImageId,
    project: ProjectId,
    status: MemberStatus,
    now: Timestamp,
) -> Result<(), DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(status.word()))
                .col_expr(Column::UpdatedAt, Expr::value(now.as_micros()))
                .filter(Column::ImageId.eq(image.to_string()))
                .filter(Column::ProjectId.eq(project.to_string()))
                .exec(txn)
                .await?
                .or_not_found()
        })
    })
    .await
}

/// Takes a member away; `NotFound` if it is none.
pub async fn delete(db: &Db, image: ImageId, project: ProjectId) -> Result<(), DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            Entity::delete_many()
                .filter(Column::ImageId.eq(image.to_string()))
                .filter(Column::ProjectId.eq(project.to_string()))
                .exec(txn)
                .await?
                .or_not_found()
        })
    })
    .await
}

fn from_row(row: Model) -> Result<Member, DbError> {
    let unreadable = || DbError::other(format!("image {}: unreadable member", row.image_id));
    Ok(Member {
        image_id: row.image_id.parse().map_err(|_| unreadable())?,
        project_id: row.project_id.parse().map_err(|_| unreadable())?,
        status: MemberStatus::parse(&row.status).ok_or_else(unreadable)?,
        created_at: Timestamp::from_micros(row.created_at),
        updated_at: Timestamp::from_micros(row.updated_at),
    })
}

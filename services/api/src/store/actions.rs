//! Actions on servers: opened with the request, closed with its end.

use sea_orm::ActiveValue::Set;
use sea_orm::{
    ColumnTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};
use yakumo_db::DbError;
use yakumo_types::{ServerId, Timestamp};

use super::entity::server_action;

/// An action's row.
pub type Action = server_action::Model;

/// Opens actions.
pub async fn action_insert(txn: &DatabaseTransaction, actions: Vec<Action>) -> Result<(), DbError> {
    server_action::Entity::insert_many(actions.into_iter().map(IntoActiveModel::into_active_model))
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Closes an open action.
pub async fn action_finish(
    txn: &DatabaseTransaction,
    id: &str,
    at: Timestamp,
    message: Option<String>,
    events: String,
) -> Result<(), DbError> {
    server_action::Entity::update_many()
        .set(server_action::ActiveModel {
            finished_at: Set(Some(at.as_micros())),
            message: Set(message),
            events: Set(events),
            ..Default::default()
        })
        .filter(server_action::Column::Id.eq(id))
        .filter(server_action::Column::FinishedAt.is_null())
        .exec(txn)
        .await?;
    Ok(())
}

/// The actions on a server, the newest first.
pub async fn action_list(
    db: &DatabaseConnection,
    server: ServerId,
    limit: u64,
) -> Result<Vec<Action>, DbError> {
    Ok(server_action::Entity::find()
        .filter(server_action::Column::ServerId.eq(server.to_string()))
        .order_by_desc(server_action::Column::StartedAt)
        .order_by_desc(server_action::Column::Id)
        .limit(limit)
        .all(db)
        .await?)
}

/// The action that a request caused on a server.
pub async fn action_fetch(
    db: &DatabaseConnection,
    server: ServerId,
    request_id: &str,
) -> Result<Option<Action>, DbError> {
    Ok(server_action::Entity::find()
        .filter(server_action::Column::ServerId.eq(server.to_string()))
        .filter(server_action::Column::RequestId.eq(request_id))
        .order_by_desc(server_action::Column::StartedAt)
        .one(db)
        .await?)
}

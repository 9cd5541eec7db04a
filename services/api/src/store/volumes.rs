//! Volumes of servers. Rows are made by the workflows that attach and detach;
//! listings and desired state read them.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseConnection, DatabaseTransaction, EntityTrait,
    IntoActiveModel, QueryFilter, QueryOrder,
};
use yakumo_db::DbError;
use yakumo_types::{AttachmentId, ServerId};

use super::entity::server_volume;

/// A volume of a server.
pub type ServerVolume = server_volume::Model;

/// The volumes of many servers in one query, by device.
pub async fn server_volume_list(
    db: &DatabaseConnection,
    servers: Vec<String>,
) -> Result<Vec<ServerVolume>, DbError> {
    Ok(server_volume::Entity::find()
        .filter(server_volume::Column::ServerId.is_in(servers))
        .order_by_asc(server_volume::Column::Device)
        .all(db)
        .await?)
}

/// The volumes of one server, inside a transaction.
pub async fn server_volume_list_in(
    txn: &DatabaseTransaction,
    server: ServerId,
) -> Result<Vec<ServerVolume>, DbError> {
    Ok(server_volume::Entity::find()
        .filter(server_volume::Column::ServerId.eq(server.to_string()))
        .order_by_asc(server_volume::Column::Device)
        .all(txn)
        .await?)
}

/// Adds a volume to a server; `Conflict` when volume or device are taken.
pub async fn server_volume_insert(
    txn: &DatabaseTransaction,
    row: ServerVolume,
) -> Result<(), DbError> {
    server_volume::Entity::insert(row.into_active_model())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Moves an attachment, with its connection once there is one.
pub async fn server_volume_change(
    txn: &DatabaseTransaction,
    attachment: AttachmentId,
    state: &str,
    connection: Option<String>,
) -> Result<(), DbError> {
    let mut change = server_volume::ActiveModel {
        state: Set(state.to_owned()),
        ..Default::default()
    };
    if connection.is_some() {
        change.connection = Set(connection);
    }
    server_volume::Entity::update_many()
        .set(change)
        .filter(server_volume::Column::AttachmentId.eq(attachment.to_string()))
        .exec(txn)
        .await?;
    Ok(())
}

/// Forgets an attachment; fine when there is none.
pub async fn server_volume_delete(
    txn: &DatabaseTransaction,
    attachment: AttachmentId,
) -> Result<(), DbError> {
    server_volume::Entity::delete_by_id(attachment.to_string())
        .exec(txn)
        .await?;
    Ok(())
}

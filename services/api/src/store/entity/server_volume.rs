//! Volumes of servers: what a server's desired state and its listing need of
//! the volume service's attachments.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_volume")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub attachment_id: String,
    pub server_id: String,
    /// Unique: a volume has one server.
    pub volume_id: String,
    /// `/dev/vdb`; unique for a server.
    pub device: String,
    /// `attaching`, `attached`, `detaching` (asked for), `leaving` (desired
    /// state is without it) or `releasing` (there is no way back).
    pub state: String,
    /// JSON of `VolumeConnection`, once the volume service exported it.
    pub connection: Option<String>,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

//! What the making of a server needs and no listing shows.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_build")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_id: String,
    /// Base64, as it was given.
    pub user_data: Option<String>,
    /// JSON array of the networks that were asked for.
    pub networks: String,
    /// JSON array of the groups that were asked for.
    pub security_groups: String,
    /// The key pair's public half when the server was made.
    pub key_public: Option<String>,
    pub key_type: Option<String>,
    pub user_name: String,
    /// The only host that will do, if an administrator named one.
    pub forced_host: Option<String>,
    /// The scheduler's reply that chose the host; JSON.
    pub decision: Option<String>,
    /// Ports, image and so on as the host was told; JSON of `ServerSpec`
    /// without config drive.
    pub spec: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

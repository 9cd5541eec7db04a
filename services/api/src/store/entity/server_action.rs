//! Who asked for what to be done to a server, and how it ended.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_action")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub server_id: String,
    pub request_id: String,
    pub project_id: String,
    pub user_id: String,
    pub action: String,
    pub started_at: i64,
    pub finished_at: Option<i64>,
    /// What went wrong, for the user.
    pub message: Option<String>,
    /// The steps with their times; JSON array.
    pub events: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

//! Rights to join as a host, to be used once.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "host_token")]
pub struct Model {
    /// The public part of the token.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// SHA-256 of the secret part, hexadecimal.
    pub secret_hash: String,
    /// The one host that may use it.
    pub host: String,
    /// By the database's clock.
    pub created_at: i64,
    /// By the database's clock.
    pub expires_at: i64,
    /// When it was used first; 0 before.
    pub used_at: i64,
    /// The id of the host that used it; empty before.
    pub used_by: String,
    /// When that host had registered, after which it is of no use; 0 before.
    pub confirmed_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

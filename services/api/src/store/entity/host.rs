//! Compute hosts: what they said of themselves, and what the operator set.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "host")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The small number that old API versions use.
    pub number: i64,
    /// The host's own id.
    pub host_uuid: String,
    pub incarnation: i64,
    /// The last report that was taken in.
    pub sequence: i64,
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub cpu_ratio: f64,
    pub memory_ratio: f64,
    pub disk_ratio: f64,
    pub claimed_vcpus: i64,
    pub claimed_memory_mib: i64,
    pub claimed_disk_gib: i64,
    pub servers: i64,
    pub hypervisor_type: String,
    pub hypervisor_version: i64,
    pub driver: String,
    pub availability_zone: String,
    pub host_ip: String,
    pub cpu_info: String,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    pub settings_revision: i64,
    /// When it was heard last, by the database's clock.
    pub heard_at: i64,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

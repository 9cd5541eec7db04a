//! A server: what a listing shows, and where it stands. What only its making
//! needs is in `server_build`, so that listings read narrow rows.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: String,
    pub hostname: String,
    /// The flavor as it was when the server was made.
    pub flavor_id: String,
    pub flavor_name: String,
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub image_id: Option<String>,
    pub key_name: Option<String>,
    pub config_drive: bool,
    /// The zone that was asked for; after placement the host's.
    pub availability_zone: Option<String>,
    /// Where it lives or is being made.
    pub host: Option<String>,
    pub vm_state: String,
    pub task_state: Option<String>,
    pub power_state: i64,
    /// What the host is doing, in its own word.
    pub stage: String,
    /// The highest generation of desired state that was issued.
    pub generation: i64,
    /// `running`, `stopped`, `paused` or `absent`: what the host was told.
    pub desired_power: String,
    pub reboot_count: i64,
    /// What the host last said: the generation it speaks of, whether it is
    /// reached, the power and the reboots that it sees.
    pub seen_generation: i64,
    pub seen_converged: bool,
    pub seen_power: String,
    pub seen_reboots: i64,
    /// The host's complaint about the desired state; JSON, or nothing.
    pub seen_fault: Option<String>,
    /// JSON object of text to text.
    pub metadata: String,
    /// JSON as the compute API shows it, fed by the network service.
    pub addresses: String,
    pub addresses_revision: i64,
    /// JSON array of names.
    pub security_groups: String,
    /// JSON, or nothing.
    pub fault: Option<String>,
    pub locked: bool,
    /// While it is locked: `admin` or `owner`.
    pub locked_by: Option<String>,
    pub launch_index: i64,
    pub reservation_id: String,
    /// The workflow at work, if any.
    pub workflow_id: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub launched_at: Option<i64>,
    /// 0 while it lives.
    pub deleted_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

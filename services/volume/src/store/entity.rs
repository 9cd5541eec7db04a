//! The volume service's tables as rows.

/// A volume.
pub mod volume {
    use sea_orm::entity::prelude::*;

    /// One row of `volumes`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "volumes")]
    pub struct Model {
        /// The volume's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The owner.
        pub project_id: String,
        /// Who made it.
        pub user_id: String,
        /// May be empty.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// GiB.
        pub size: i64,
        /// The API's status word.
        pub status: String,
        /// Name of the volume type.
        pub volume_type: String,
        /// Availability zone.
        pub availability_zone: String,
        /// The storage host that keeps it; empty until one is chosen.
        pub host: String,
        /// JSON object of texts.
        pub metadata: String,
        /// Why the volume is in error.
        pub fault: String,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Microseconds since the epoch; 0 while it exists.
        pub deleted_at: i64,
    }

    /// None: attachments are fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An attachment.
pub mod attachment {
    use sea_orm::entity::prelude::*;

    /// One row of `attachments`. `volume_id` is unique: a volume has one server at most.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "attachments")]
    pub struct Model {
        /// The attachment's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The volume.
        pub volume_id: String,
        /// The owner of both.
        pub project_id: String,
        /// The server.
        pub server_id: String,
        /// The server's compute host.
        pub host: String,
        /// Device name, for example `/dev/vdb`.
        pub device: String,
        /// `reserved`, `attached`, `detaching` or `releasing`.
        pub status: String,
        /// The export's unguessable name.
        pub secret: String,
        /// The export's socket, once there is one.
        pub socket: String,
        /// Microseconds since the epoch.
        pub attached_at: i64,
        /// While it is being released: the epoch of who asked for that.
        pub release_epoch: Option<i64>,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A project's own limits.
pub mod quota {
    use sea_orm::entity::prelude::*;

    /// One row of `quotas`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "quotas")]
    pub struct Model {
        /// The project.
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: String,
        /// Volumes; -1 for no limit.
        pub volumes: Option<i64>,
        /// GiB in total; -1 for no limit.
        pub gigabytes: Option<i64>,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A host that stores volumes.
pub mod storage_host {
    use sea_orm::entity::prelude::*;

    /// One row of `storage_hosts`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "storage_hosts")]
    pub struct Model {
        /// The host's name.
        #[sea_orm(primary_key, auto_increment = false)]
        pub host: String,
        /// The host's own id.
        pub host_id: String,
        /// Availability zone.
        pub availability_zone: String,
        /// GiB.
        pub free_gib: i64,
        /// GiB.
        pub total_gib: i64,
        /// Whether servers on other hosts can reach its volumes.
        pub reachable_everywhere: bool,
        /// Microseconds since the epoch.
        pub heard_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

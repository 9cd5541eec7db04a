//! The tables as rows.

/// An account: the objects of one project.
pub mod account {
    use sea_orm::entity::prelude::*;

    /// One row of `accounts`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "accounts")]
    pub struct Model {
        /// The project's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// JSON object of texts.
        pub metadata: String,
        /// Microseconds since the epoch.
        pub created_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A container.
pub mod container {
    use sea_orm::entity::prelude::*;

    /// One row of `containers`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "containers")]
    pub struct Model {
        /// Ours alone; the API knows names.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The account.
        pub account_id: String,
        /// UTF-8.
        pub name: Vec<u8>,
        /// JSON object of texts.
        pub metadata: String,
        /// Who may read; may be empty.
        pub read_acl: String,
        /// Who may write; may be empty.
        pub write_acl: String,
        /// Objects in it.
        pub object_count: i64,
        /// Their bytes.
        pub bytes_used: i64,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An object.
pub mod object {
    use sea_orm::entity::prelude::*;

    /// One row of `objects`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "objects")]
    pub struct Model {
        /// Ours alone; the API knows names.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The container.
        pub container_id: String,
        /// UTF-8.
        pub name: Vec<u8>,
        /// Its data; empty for an object without bytes.
        pub blob_id: String,
        /// Bytes.
        pub size: i64,
        /// MD5, hexadecimal.
        pub etag: String,
        /// The media type.
        pub content_type: String,
        /// JSON object of texts: other headers that are given back.
        pub headers: String,
        /// JSON object of texts.
        pub metadata: String,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Seconds since the epoch after which it is gone; 0 for never.
        pub delete_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Data that no object has any more.
pub mod garbage {
    use sea_orm::entity::prelude::*;

    /// One row of `garbage`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "garbage")]
    pub struct Model {
        /// The data.
        #[sea_orm(primary_key, auto_increment = false)]
        pub blob_id: String,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

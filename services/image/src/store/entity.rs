//! The tables as rows.
//!
//! Nothing is NULL that a listing may be sorted by: an empty text stands for
//! none, and -1 for a size that is not known.

/// An image.
pub mod image {
    use sea_orm::entity::prelude::*;

    /// One row of `images`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "images")]
    pub struct Model {
        /// The image's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The project that it belongs to.
        pub owner: String,
        /// May be empty.
        pub name: String,
        /// The API's word.
        pub status: String,
        /// The API's word.
        pub visibility: String,
        /// Cannot be deleted.
        pub protected: bool,
        /// Is left out of listings.
        pub hidden: bool,
        /// May be empty.
        pub disk_format: String,
        /// May be empty.
        pub container_format: String,
        /// GiB.
        pub min_disk: i64,
        /// MiB.
        pub min_ram: i64,
        /// Bytes, or -1.
        pub size: i64,
        /// Bytes, or -1.
        pub virtual_size: i64,
        /// MD5, or empty.
        pub checksum: String,
        /// SHA-512, or empty.
        pub hash: String,
        /// Where the data is or goes to, or empty.
        pub blob_id: String,
        /// When the uploader last said that it lives; 0 while nobody uploads.
        pub upload_seen_at: i64,
        /// Raised by every change, so that two of them cannot mix.
        pub revision: i64,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
    }

    /// None: tags and properties are fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A tag.
pub mod tag {
    use sea_orm::entity::prelude::*;

    /// One row of `image_tags`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "image_tags")]
    pub struct Model {
        /// The image.
        #[sea_orm(primary_key, auto_increment = false)]
        pub image_id: String,
        /// The tag.
        #[sea_orm(primary_key, auto_increment = false)]
        pub tag: String,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A custom property.
pub mod property {
    use sea_orm::entity::prelude::*;

    /// One row of `image_properties`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "image_properties")]
    pub struct Model {
        /// The image.
        #[sea_orm(primary_key, auto_increment = false)]
        pub image_id: String,
        /// The property.
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        /// What it says.
        pub value: String,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A project that an image is shared with.
pub mod member {
    use sea_orm::entity::prelude::*;

    /// One row of `image_members`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "image_members")]
    pub struct Model {
        /// The image.
        #[sea_orm(primary_key, auto_increment = false)]
        pub image_id: String,
        /// The project.
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: String,
        /// The API's word.
        pub status: String,
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

/// What transactions that count a project's images wait for.
pub mod quota_lock {
    use sea_orm::entity::prelude::*;

    /// One row of `quota_locks`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "quota_locks")]
    pub struct Model {
        /// The project.
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: String,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A key that tickets are signed with.
pub mod ticket_key {
    use sea_orm::entity::prelude::*;

    /// One row of `ticket_keys`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ticket_keys")]
    pub struct Model {
        /// `current`: there is one.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// 32 bytes, hexadecimal.
        pub secret: String,
        /// Microseconds since the epoch.
        pub created_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

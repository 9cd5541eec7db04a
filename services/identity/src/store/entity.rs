//! The identity service's tables as rows. Ids are hyphenated UUIDs, times are
//! microseconds since the epoch.

macro_rules! no_relations {
    () => {
        /// None: what belongs together is fetched for a whole page at once.
        #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
        pub enum Relation {}

        impl ActiveModelBehavior for ActiveModel {}
    };
}

/// A domain: what users and projects live in.
pub mod domain {
    use sea_orm::entity::prelude::*;

    /// One row of `domains`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "domains")]
    pub struct Model {
        /// The domain's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Unique.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// A disabled one lets nobody in.
        pub enabled: bool,
    }

    no_relations!();
}

/// A project.
pub mod project {
    use sea_orm::entity::prelude::*;

    /// One row of `projects`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "projects")]
    pub struct Model {
        /// The project's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its domain.
        pub domain_id: String,
        /// The project above; nothing directly below the domain.
        pub parent_id: Option<String>,
        /// Unique within the domain.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// A disabled one lets nobody in.
        pub enabled: bool,
    }

    no_relations!();
}

/// A user.
pub mod user {
    use sea_orm::entity::prelude::*;

    /// One row of `users`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        /// The user's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its domain.
        pub domain_id: String,
        /// Unique within the domain.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// May be empty.
        pub email: String,
        /// A disabled one gets no tokens.
        pub enabled: bool,
        /// The project of tokens that name none.
        pub default_project_id: Option<String>,
        /// PHC string; nothing where the user has no password.
        pub password_hash: Option<String>,
        /// When the password was set.
        pub password_created_at: i64,
    }

    no_relations!();
}

/// A group of users.
pub mod group {
    use sea_orm::entity::prelude::*;

    /// One row of `user_groups`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "user_groups")]
    pub struct Model {
        /// The group's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its domain.
        pub domain_id: String,
        /// Unique within the domain.
        pub name: String,
        /// May be empty.
        pub description: String,
    }

    no_relations!();
}

/// A user in a group.
pub mod group_member {
    use sea_orm::entity::prelude::*;

    /// One row of `user_group_members`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "user_group_members")]
    pub struct Model {
        /// The group.
        #[sea_orm(primary_key, auto_increment = false)]
        pub group_id: String,
        /// The user.
        #[sea_orm(primary_key, auto_increment = false)]
        pub user_id: String,
    }

    no_relations!();
}

/// A role.
pub mod role {
    use sea_orm::entity::prelude::*;

    /// One row of `roles`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "roles")]
    pub struct Model {
        /// The role's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Unique.
        pub name: String,
        /// May be empty.
        pub description: String,
    }

    no_relations!();
}

/// A role that somebody has on something.
pub mod assignment {
    use sea_orm::entity::prelude::*;

    /// One row of `role_assignments`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "role_assignments")]
    pub struct Model {
        /// `user` or `group`.
        pub actor_kind: String,
        /// The user or group.
        #[sea_orm(primary_key, auto_increment = false)]
        pub actor_id: String,
        /// `project`, `domain` or `system`.
        #[sea_orm(primary_key, auto_increment = false)]
        pub target_kind: String,
        /// The project or domain; `all` for the system.
        #[sea_orm(primary_key, auto_increment = false)]
        pub target_id: String,
        /// The role.
        #[sea_orm(primary_key, auto_increment = false)]
        pub role_id: String,
    }

    no_relations!();
}

/// A region of the catalog.
pub mod region {
    use sea_orm::entity::prelude::*;

    /// One row of `regions`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "regions")]
    pub struct Model {
        /// The region's id, chosen by people.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// May be empty.
        pub description: String,
        /// The region around it.
        pub parent_region_id: Option<String>,
    }

    no_relations!();
}

/// A service of the catalog.
pub mod service {
    use sea_orm::entity::prelude::*;

    /// One row of `services`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "services")]
    pub struct Model {
        /// The service's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// What kind of API: `compute`.
        pub kind: String,
        /// For people: `nova`.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// A disabled one is not in the catalog.
        pub enabled: bool,
    }

    no_relations!();
}

/// An endpoint of the catalog.
pub mod endpoint {
    use sea_orm::entity::prelude::*;

    /// One row of `endpoints`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "endpoints")]
    pub struct Model {
        /// The endpoint's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The service.
        pub service_id: String,
        /// `public`, `internal` or `admin`.
        pub interface: String,
        /// The region, if any.
        pub region_id: Option<String>,
        /// Where; may hold `$(project_id)s`.
        pub url: String,
        /// A disabled one is not in the catalog.
        pub enabled: bool,
    }

    no_relations!();
}

/// A stored credential; EC2 access keys are of the type `ec2`.
pub mod credential {
    use sea_orm::entity::prelude::*;

    /// One row of `credentials`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "credentials")]
    pub struct Model {
        /// SHA-256 of the access key in hexadecimal for EC2, a UUID without
        /// hyphens otherwise; as Keystone does.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Whose it is.
        pub user_id: String,
        /// What it is for.
        pub project_id: Option<String>,
        /// `ec2`, `cert`, `totp`, …
        pub kind: String,
        /// The credential itself, usually JSON.
        pub secret: String,
        /// When it was made.
        pub created_at: i64,
    }

    no_relations!();
}

/// A key that tokens are signed with.
pub mod signing_key {
    use sea_orm::entity::prelude::*;

    /// One row of `signing_keys`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "signing_keys")]
    pub struct Model {
        /// The `kid` of its tokens.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Counts up; unique, so that two replicas cannot both rotate.
        pub generation: i64,
        /// The private key in base64.
        pub seed: String,
        /// When it begins to sign.
        pub active_from: i64,
        /// When the last of its tokens has run out.
        pub expires_at: i64,
    }

    no_relations!();
}

/// An entry of the revocation log.
pub mod revocation {
    use sea_orm::entity::prelude::*;

    /// One row of `revocations`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "revocations")]
    pub struct Model {
        /// From the counter `revocations`; visible in its own order.
        #[sea_orm(primary_key, auto_increment = false)]
        pub revision: i64,
        /// The message `yakumo.identity.v1.Revocation` as JSON.
        pub entry: String,
        /// When it can hit nothing any more.
        pub expires_at: i64,
    }

    no_relations!();
}

/// Single values.
pub mod setting {
    use sea_orm::entity::prelude::*;

    /// One row of `settings`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "settings")]
    pub struct Model {
        /// What.
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        /// Its value.
        pub value: String,
    }

    no_relations!();
}

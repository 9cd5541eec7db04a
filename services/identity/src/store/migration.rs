//! The identity service's schema.

use sea_orm_migration::prelude::*;
use yakumo_db::{columns, revisions};

/// All migrations, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            revisions::migration(),
            yakumo_db::migration("m20261121_000002_create_identity", |manager| {
                Box::pin(create_identity(manager))
            }),
            yakumo_db::idempotency::migration(),
        ]
    }
}

async fn create_identity(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    owners(manager).await?;
    rights(manager).await?;
    catalog(manager).await?;
    secrets(manager).await
}

async fn owners(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("domains")
                .col(columns::id("id").primary_key())
                .col(columns::text("name", 64))
                .col(columns::text("description", 1024))
                .col(columns::boolean("enabled"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "domains_by_name",
            "domains",
            &["name"],
        ))
        .await?;

    manager
        .create_table(
            columns::table("projects")
                .col(columns::id("id").primary_key())
                .col(columns::id("domain_id"))
                .col(columns::id_null("parent_id"))
                .col(columns::text("name", 64))
                .col(columns::text("description", 1024))
                .col(columns::boolean("enabled"))
                .foreign_key(&mut columns::reference(
                    "projects_in_domain",
                    "projects",
                    "domain_id",
                    "domains",
                    "id",
                ))
                .foreign_key(&mut columns::reference(
                    "projects_in_project",
                    "projects",
                    "parent_id",
                    "projects",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "projects_by_name",
            "projects",
            &["domain_id", "name"],
        ))
        .await?;

    manager
        .create_table(
            columns::table("users")
                .col(columns::id("id").primary_key())
                .col(columns::id("domain_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 1024))
                .col(columns::text("email", 255))
                .col(columns::boolean("enabled"))
                .col(columns::id_null("default_project_id"))
                .col(columns::text_null("password_hash", 255))
                .col(columns::timestamp("password_created_at"))
                .foreign_key(&mut columns::reference(
                    "users_in_domain",
                    "users",
                    "domain_id",
                    "domains",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "users_by_name",
            "users",
            &["domain_id", "name"],
        ))
        .await?;

    manager
        .create_table(
            columns::table("user_groups")
                .col(columns::id("id").primary_key())
                .col(columns::id("domain_id"))
                .col(columns::text("name", 64))
                .col(columns::text("description", 1024))
                .foreign_key(&mut columns::reference(
                    "groups_in_domain",
                    "user_groups",
                    "domain_id",
                    "domains",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "groups_by_name",
            "user_groups",
            &["domain_id", "name"],
        ))
        .await?;

    manager
        .create_table(
            columns::table("user_group_members")
                .col(columns::id("group_id"))
                .col(columns::id("user_id"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("group_id"))
                        .col(Alias::new("user_id")),
                )
                .foreign_key(&mut columns::owned_by(
                    "members_of_group",
                    "user_group_members",
                    "group_id",
                    "user_groups",
                    "id",
                ))
                .foreign_key(&mut columns::owned_by(
                    "members_are_users",
                    "user_group_members",
                    "user_id",
                    "users",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "group_members_by_user",
            "user_group_members",
            &["user_id"],
        ))
        .await
}

async fn rights(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("roles")
                .col(columns::id("id").primary_key())
                .col(columns::text("name", 255))
                .col(columns::text("description", 1024))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index("roles_by_name", "roles", &["name"]))
        .await?;

    // Actor and target are of several kinds, so only the role is a reference;
    // whoever deletes the others deletes these in the same transaction.
    manager
        .create_table(
            columns::table("role_assignments")
                .col(columns::text("actor_kind", 16))
                .col(columns::id("actor_id"))
                .col(columns::text("target_kind", 16))
                .col(columns::id("target_id"))
                .col(columns::id("role_id"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("actor_id"))
                        .col(Alias::new("target_kind"))
                        .col(Alias::new("target_id"))
                        .col(Alias::new("role_id")),
                )
                .foreign_key(&mut columns::owned_by(
                    "assignments_of_role",
                    "role_assignments",
                    "role_id",
                    "roles",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "assignments_by_target",
            "role_assignments",
            &["target_kind", "target_id"],
        ))
        .await
}

async fn catalog(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("regions")
                .col(columns::text("id", 255).primary_key())
                .col(columns::text("description", 255))
                .col(columns::text_null("parent_region_id", 255))
                .foreign_key(&mut columns::reference(
                    "regions_in_region",
                    "regions",
                    "parent_region_id",
                    "regions",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("services")
                .col(columns::id("id").primary_key())
                .col(columns::text("kind", 255))
                .col(columns::text("name", 255))
                .col(columns::text("description", 1024))
                .col(columns::boolean("enabled"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("endpoints")
                .col(columns::id("id").primary_key())
                .col(columns::id("service_id"))
                .col(columns::text("interface", 8))
                .col(columns::text_null("region_id", 255))
                .col(columns::text("url", 1024))
                .col(columns::boolean("enabled"))
                .foreign_key(&mut columns::owned_by(
                    "endpoints_of_service",
                    "endpoints",
                    "service_id",
                    "services",
                    "id",
                ))
                .foreign_key(&mut columns::reference(
                    "endpoints_in_region",
                    "endpoints",
                    "region_id",
                    "regions",
                    "id",
                ))
                .to_owned(),
        )
        .await
}

async fn secrets(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("credentials")
                .col(columns::text("id", 64).primary_key())
                .col(columns::id("user_id"))
                .col(columns::id_null("project_id"))
                .col(columns::text("kind", 255))
                .col(columns::long_text("secret"))
                .col(columns::timestamp("created_at"))
                .foreign_key(&mut columns::owned_by(
                    "credentials_of_user",
                    "credentials",
                    "user_id",
                    "users",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "credentials_by_user",
            "credentials",
            &["user_id", "kind"],
        ))
        .await?;
    manager
        .create_table(
            columns::table("signing_keys")
                .col(columns::text("id", 64).primary_key())
                .col(columns::integer("generation"))
                .col(columns::text("seed", 64))
                .col(columns::timestamp("active_from"))
                .col(columns::timestamp("expires_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "signing_keys_by_generation",
            "signing_keys",
            &["generation"],
        ))
        .await?;
    manager
        .create_table(
            columns::table("revocations")
                .col(columns::integer("revision").primary_key())
                .col(columns::json("entry"))
                .col(columns::timestamp("expires_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "revocations_by_end",
            "revocations",
            &["expires_at"],
        ))
        .await?;
    manager
        .create_table(
            columns::table("settings")
                .col(columns::text("name", 64).primary_key())
                .col(columns::text("value", 1024))
                .to_owned(),
        )
        .await
}

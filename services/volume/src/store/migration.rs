//! The volume service's schema.

use sea_orm_migration::prelude::*;
use yakumo_db::columns;

/// All migrations, oldest first, with those of the workflow engine.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = yakumo_workflow::migrations();
        all.push(Box::new(CreateVolumes));
        all.push(yakumo_db::migration(
            "m20261125_000002_note_who_releases",
            |manager| {
                Box::pin(async move {
                    let attachments = Table::alter()
                        .table(Alias::new("attachments"))
                        .add_column(columns::integer_null("release_epoch"))
                        .to_owned();
                    manager.alter_table(attachments).await
                })
            },
        ));
        all.push(yakumo_db::idempotency::migration());
        all
    }
}

struct CreateVolumes;

impl MigrationName for CreateVolumes {
    fn name(&self) -> &str {
        "m20261121_000001_create_volumes"
    }
}

#[async_trait::async_trait]
#[allow(elided_lifetimes_in_paths)]
impl MigrationTrait for CreateVolumes {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                columns::table("volumes")
                    .col(columns::id("id").primary_key())
                    .col(columns::id("project_id"))
                    .col(columns::id("user_id"))
                    .col(columns::text("name", 255))
                    .col(columns::text("description", 1024))
                    .col(columns::integer("size"))
                    .col(columns::text("status", 32))
                    .col(columns::text("volume_type", 64))
                    .col(columns::text("availability_zone", 64))
                    .col(columns::text("host", 255))
                    .col(columns::json("metadata"))
                    .col(columns::text("fault", 1024))
                    .col(columns::timestamp("created_at"))
                    .col(columns::timestamp("updated_at"))
                    .col(columns::timestamp("deleted_at"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(columns::index(
                "volumes_by_project",
                "volumes",
                &["project_id", "deleted_at", "created_at", "id"],
            ))
            .await?;
        manager
            .create_table(
                columns::table("attachments")
                    .col(columns::id("id").primary_key())
                    .col(columns::id("volume_id"))
                    .col(columns::id("project_id"))
                    .col(columns::id("server_id"))
                    .col(columns::text("host", 255))
                    .col(columns::text("device", 32))
                    .col(columns::text("status", 32))
                    .col(columns::text("secret", 64))
                    .col(columns::text("socket", 255))
                    .col(columns::timestamp("attached_at"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(columns::unique_index(
                "attachments_volume_unique",
                "attachments",
                &["volume_id"],
            ))
            .await?;
        manager
            .create_table(
                columns::table("quotas")
                    .col(columns::id("project_id").primary_key())
                    .col(columns::integer_null("volumes"))
                    .col(columns::integer_null("gigabytes"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                columns::table("storage_hosts")
                    .col(columns::text("host", 255).primary_key())
                    .col(columns::id("host_id"))
                    .col(columns::text("availability_zone", 64))
                    .col(columns::integer("free_gib"))
                    .col(columns::integer("total_gib"))
                    .col(columns::boolean("reachable_everywhere"))
                    .col(columns::timestamp("heard_at"))
                    .to_owned(),
            )
            .await
    }
}

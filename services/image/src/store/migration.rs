//! How the tables came to be.

// The trait is written so.
#![allow(elided_lifetimes_in_paths)]

use sea_orm_migration::prelude::*;
use yakumo_db::columns;

/// Every step, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(Images),
            Box::new(QuotaLocks),
            yakumo_db::idempotency::migration(),
        ]
    }
}

struct Images;

impl MigrationName for Images {
    fn name(&self) -> &str {
        "m20261121_000001_images"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Images {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                columns::table("images")
                    .col(columns::id("id").primary_key())
                    .col(columns::id("owner"))
                    .col(columns::text("name", 255))
                    .col(columns::text("status", 16))
                    .col(columns::text("visibility", 16))
                    .col(columns::boolean("protected"))
                    .col(columns::boolean("hidden"))
                    .col(columns::text("disk_format", 16))
                    .col(columns::text("container_format", 16))
                    .col(columns::integer("min_disk"))
                    .col(columns::integer("min_ram"))
                    .col(columns::integer("size"))
                    .col(columns::integer("virtual_size"))
                    .col(columns::text("checksum", 32))
                    .col(columns::text("hash", 128))
                    .col(columns::text("blob_id", 36))
                    .col(columns::timestamp("upload_seen_at"))
                    .col(columns::integer("revision"))
                    .col(columns::timestamp("created_at"))
                    .col(columns::timestamp("updated_at"))
                    .to_owned(),
            )
            .await?;
        for (name, fields) in [
            ("images_by_owner", &["owner", "created_at", "id"][..]),
            ("images_by_visibility", &["visibility", "created_at", "id"]),
            ("images_by_age", &["created_at", "id"]),
            ("images_by_name", &["name", "created_at", "id"]),
            ("images_by_status", &["status", "upload_seen_at"]),
            ("images_by_blob", &["blob_id"]),
        ] {
            manager
                .create_index(columns::index(name, "images", fields))
                .await?;
        }
        manager
            .create_table(
                columns::table("image_tags")
                    .col(columns::id("image_id"))
                    .col(columns::text("tag", 255))
                    .primary_key(Index::create().col("image_id").col("tag"))
                    .foreign_key(&mut columns::owned_by(
                        "image_tags_of_image",
                        "image_tags",
                        "image_id",
                        "images",
                        "id",
                    ))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                columns::table("image_properties")
                    .col(columns::id("image_id"))
                    .col(columns::text("name", 255))
                    .col(columns::long_text("value"))
                    .primary_key(Index::create().col("image_id").col("name"))
                    .foreign_key(&mut columns::owned_by(
                        "image_properties_of_image",
                        "image_properties",
                        "image_id",
                        "images",
                        "id",
                    ))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                columns::table("image_members")
                    .col(columns::id("image_id"))
                    .col(columns::id("project_id"))
                    .col(columns::text("status", 16))
                    .col(columns::timestamp("created_at"))
                    .col(columns::timestamp("updated_at"))
                    .primary_key(Index::create().col("image_id").col("project_id"))
                    .foreign_key(&mut columns::owned_by(
                        "image_members_of_image",
                        "image_members",
                        "image_id",
                        "images",
                        "id",
                    ))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(columns::index(
                "image_members_by_project",
                "image_members",
                &["project_id", "status"],
            ))
            .await?;
        manager
            .create_table(
                columns::table("ticket_keys")
                    .col(columns::text("id", 36).primary_key())
                    .col(columns::text("secret", 64))
                    .col(columns::timestamp("created_at"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [
            "ticket_keys",
            "image_members",
            "image_properties",
            "image_tags",
            "images",
        ] {
            manager
                .drop_table(Table::drop().table(Alias::new(table)).to_owned())
                .await?;
        }
        Ok(())
    }
}

struct QuotaLocks;

impl MigrationName for QuotaLocks {
    fn name(&self) -> &str {
        "m20261125_000002_quota_locks"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for QuotaLocks {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                columns::table("quota_locks")
                    .col(columns::id("project_id").primary_key())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table(Alias::new("quota_locks")).to_owned())
            .await
    }
}

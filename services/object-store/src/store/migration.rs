//! How the tables came to be.

// The trait is written so.
#![allow(elided_lifetimes_in_paths)]

use sea_orm_migration::prelude::*;
use yakumo_db::columns;

use crate::app::names::{CONTAINER_BYTES, OBJECT_BYTES};

/// Every step, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Objects)]
    }
}

struct Objects;

impl MigrationName for Objects {
    fn name(&self) -> &str {
        "m20261121_000001_objects"
    }
}

/// A name as bytes, short enough to be indexed whole on every database.
fn name(bytes: u32) -> ColumnDef {
    ColumnDef::new(Alias::new("name"))
        .var_binary(bytes)
        .not_null()
        .take()
}

#[async_trait::async_trait]
impl MigrationTrait for Objects {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                columns::table("accounts")
                    .col(columns::id("id").primary_key())
                    .col(columns::json("metadata"))
                    .col(columns::timestamp("created_at"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                columns::table("containers")
                    .col(columns::id("id").primary_key())
                    .col(columns::id("account_id"))
                    .col(name(CONTAINER_BYTES))
                    .col(columns::json("metadata"))
                    .col(columns::long_text("read_acl"))
                    .col(columns::long_text("write_acl"))
                    .col(columns::integer("object_count"))
                    .col(columns::integer("bytes_used"))
                    .col(columns::timestamp("created_at"))
                    .col(columns::timestamp("updated_at"))
                    .foreign_key(&mut columns::reference(
                        "containers_of_account",
                        "containers",
                        "account_id",
                        "accounts",
                        "id",
                    ))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(columns::unique_index(
                "containers_by_name",
                "containers",
                &["account_id", "name"],
            ))
            .await?;
        manager
            .create_table(
                columns::table("objects")
                    .col(columns::id("id").primary_key())
                    .col(columns::id("container_id"))
                    .col(name(OBJECT_BYTES))
                    .col(columns::text("blob_id", 36))
                    .col(columns::integer("size"))
                    .col(columns::text("etag", 32))
                    .col(columns::text("content_type", 255))
                    .col(columns::json("headers"))
                    .col(columns::json("metadata"))
                    .col(columns::timestamp("updated_at"))
                    .col(columns::integer("delete_at"))
                    .foreign_key(&mut columns::reference(
                        "objects_of_container",
                        "objects",
                        "container_id",
                        "containers",
                        "id",
                    ))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(columns::unique_index(
                "objects_by_name",
                "objects",
                &["container_id", "name"],
            ))
            .await?;
        for (name, column) in [
            ("objects_by_blob", "blob_id"),
            ("objects_by_end", "delete_at"),
        ] {
            manager
                .create_index(columns::index(name, "objects", &[column]))
                .await?;
        }
        manager
            .create_table(
                columns::table("garbage")
                    .col(columns::id("blob_id").primary_key())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["garbage", "objects", "containers", "accounts"] {
            manager
                .drop_table(Table::drop().table(Alias::new(table)).to_owned())
                .await?;
        }
        Ok(())
    }
}

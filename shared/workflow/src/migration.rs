//! The engine's schema, part of the schema of every service that uses it.

use sea_orm_migration::prelude::{DbErr, MigrationTrait, SchemaManager};
use yakumo_db::columns::{id, index, integer, json, table, text, timestamp};

/// To be put in front of a service's own migrations.
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    vec![yakumo_db::migration(
        "m20261121_000001_create_workflows",
        |manager| Box::pin(create(manager)),
    )]
}

async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            table("workflows")
                .col(id("id").primary_key())
                .col(text("kind", 64))
                .col(text("resource", 255))
                .col(json("input"))
                .col(json("context"))
                .col(text("trace", 128))
                .col(text("state", 16))
                .col(id("owner"))
                .col(integer("epoch"))
                .col(integer("step"))
                .col(integer("attempt"))
                .col(integer("wakes"))
                .col(timestamp("wake_at"))
                .col(timestamp("deadline_at"))
                .col(text("waiting_for", 1024))
                .col(json("fault"))
                .col(json("cancel"))
                .col(timestamp("created_at"))
                .col(timestamp("updated_at"))
                .col(timestamp("finished_at"))
                .to_owned(),
        )
        .await?;
    for new in [
        index("workflows_to_claim", "workflows", &["owner", "wake_at"]),
        index("workflows_by_resource", "workflows", &["resource"]),
        index("workflows_by_end", "workflows", &["finished_at"]),
    ] {
        manager.create_index(new).await?;
    }
    manager
        .create_table(
            table("workflow_steps")
                .col(id("workflow_id"))
                .col(text("action", 8))
                .col(integer("position"))
                .col(text("name", 64))
                .col(json("output"))
                .col(integer("epoch"))
                .col(timestamp("recorded_at"))
                .primary_key(&mut index(
                    "workflow_steps_pkey",
                    "workflow_steps",
                    &["workflow_id", "action", "position"],
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            table("worker_leases")
                .col(id("id").primary_key())
                .col(timestamp("started_at"))
                .col(timestamp("expires_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            table("workflow_fences")
                .col(text("resource", 255).primary_key())
                .col(id("workflow_id"))
                .col(integer("epoch"))
                .col(timestamp("updated_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(index(
            "workflow_fences_by_age",
            "workflow_fences",
            &["updated_at"],
        ))
        .await?;
    manager
        .create_table(
            table("workflow_fence_results")
                .col(id("workflow_id"))
                .col(text("step", 255))
                .col(text("resource", 255))
                .col(json("result"))
                .col(timestamp("recorded_at"))
                .primary_key(&mut index(
                    "workflow_fence_results_pkey",
                    "workflow_fence_results",
                    &["workflow_id", "step", "resource"],
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(index(
            "workflow_fence_results_by_age",
            "workflow_fence_results",
            &["recorded_at"],
        ))
        .await
}

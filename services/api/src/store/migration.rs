//! The schema, step by step.

use sea_orm_migration::prelude::{
    Alias, DbErr, Index, MigrationTrait, MigratorTrait, SchemaManager, Table,
};
use yakumo_db::{columns, revisions};

/// The migrations of the api service, with those of the engines it uses.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = yakumo_workflow::migrations();
        all.push(revisions::migration());
        all.push(yakumo_db::migration(
            "m20261121_000010_create_servers",
            |manager| {
                Box::pin(async move {
                    servers(manager).await?;
                    flavors(manager).await?;
                    hosts(manager).await
                })
            },
        ));
        all.push(yakumo_db::migration(
            "m20261125_000011_note_who_locked",
            |manager| {
                Box::pin(async move {
                    let column = columns::text_null("locked_by", 16);
                    let server = Table::alter()
                        .table(Alias::new("server"))
                        .add_column(column)
                        .to_owned();
                    manager.alter_table(server).await
                })
            },
        ));
        all.push(yakumo_db::migration(
            "m20261125_000012_index_states_and_sizes",
            |manager| {
                Box::pin(async move {
                    for (name, of) in [
                        // A tenant's listing of what is in one state.
                        (
                            "server_by_state",
                            &["project_id", "deleted_at", "vm_state", "created_at", "id"][..],
                        ),
                        // What a quota counts, without a look at the rows.
                        (
                            "server_by_size",
                            &["project_id", "deleted_at", "vcpus", "memory_mib"],
                        ),
                    ] {
                        manager
                            .create_index(columns::index(name, "server", of))
                            .await?;
                    }
                    Ok(())
                })
            },
        ));
        all.push(yakumo_db::idempotency::migration());
        all.push(yakumo_db::migration(
            "m20261128_000013_create_host_tokens",
            |manager| Box::pin(host_tokens(manager)),
        ));
        all
    }
}

async fn servers(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("server")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::id("user_id"))
                .col(columns::text("name", 255))
                .col(columns::text("hostname", 255))
                .col(columns::text("flavor_id", 255))
                .col(columns::text("flavor_name", 255))
                .col(columns::integer("vcpus"))
                .col(columns::integer("memory_mib"))
                .col(columns::integer("disk_gib"))
                .col(columns::id_null("image_id"))
                .col(columns::text_null("key_name", 255))
                .col(columns::boolean("config_drive"))
                .col(columns::text_null("availability_zone", 255))
                .col(columns::text_null("host", 255))
                .col(columns::text("vm_state", 32))
                .col(columns::text_null("task_state", 32))
                .col(columns::integer("power_state"))
                .col(columns::text("stage", 64))
                .col(columns::integer("generation"))
                .col(columns::text("desired_power", 16))
                .col(columns::integer("reboot_count"))
                .col(columns::integer("seen_generation"))
                .col(columns::boolean("seen_converged"))
                .col(columns::text("seen_power", 16))
                .col(columns::integer("seen_reboots"))
                .col(columns::json_null("seen_fault"))
                .col(columns::json("metadata"))
                .col(columns::json("addresses"))
                .col(columns::integer("addresses_revision"))
                .col(columns::json("security_groups"))
                .col(columns::json_null("fault"))
                .col(columns::boolean("locked"))
                .col(columns::integer("launch_index"))
                .col(columns::text("reservation_id", 32))
                .col(columns::id_null("workflow_id"))
                .col(columns::timestamp("created_at"))
                .col(columns::timestamp("updated_at"))
                .col(columns::timestamp_null("launched_at"))
                .col(columns::timestamp("deleted_at"))
                .to_owned(),
        )
        .await?;
    for (name, of) in [
        // A tenant's listing, newest first.
        (
            "server_by_project",
            &["project_id", "deleted_at", "created_at", "id"][..],
        ),
        ("server_by_creation", &["deleted_at", "created_at", "id"]),
        ("server_by_host", &["host", "deleted_at"]),
        // What reconcilers look for.
        ("server_by_task", &["deleted_at", "task_state"]),
    ] {
        manager
            .create_index(columns::index(name, "server", of))
            .await?;
    }
    manager
        .create_table(
            columns::table("server_build")
                .col(columns::id("server_id").primary_key())
                .col(columns::long_text_null("user_data"))
                .col(columns::json("networks"))
                .col(columns::json("security_groups"))
                .col(columns::long_text_null("key_public"))
                .col(columns::text_null("key_type", 16))
                .col(columns::text("user_name", 255))
                .col(columns::text_null("forced_host", 255))
                .col(columns::json_null("decision"))
                .col(columns::json_null("spec"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("server_action")
                .col(columns::id("id").primary_key())
                .col(columns::id("server_id"))
                .col(columns::id("request_id"))
                .col(columns::id("project_id"))
                .col(columns::id("user_id"))
                .col(columns::text("action", 64))
                .col(columns::timestamp("started_at"))
                .col(columns::timestamp_null("finished_at"))
                .col(columns::long_text_null("message"))
                .col(columns::json("events"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "server_action_by_server",
            "server_action",
            &["server_id", "started_at"],
        ))
        .await?;
    manager
        .create_table(
            columns::table("server_volume")
                .col(columns::id("attachment_id").primary_key())
                .col(columns::id("server_id"))
                .col(columns::id("volume_id"))
                .col(columns::text("device", 32))
                .col(columns::text("state", 16))
                .col(columns::json_null("connection"))
                .col(columns::timestamp("created_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index(
            "server_volume_volume",
            "server_volume",
            &["volume_id"],
        ))
        .await?;
    manager
        .create_index(columns::unique_index(
            "server_volume_device",
            "server_volume",
            &["server_id", "device"],
        ))
        .await
}

async fn flavors(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("flavor")
                .col(columns::text("id", 255).primary_key())
                .col(columns::text("name", 255))
                .col(columns::integer("memory_mib"))
                .col(columns::integer("vcpus"))
                .col(columns::integer("disk_gib"))
                .col(columns::integer("ephemeral_gib"))
                .col(columns::integer("swap_mib"))
                .col(columns::double("rxtx_factor"))
                .col(columns::boolean("is_public"))
                .col(columns::json("extra_specs"))
                .col(columns::timestamp("created_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index("flavor_name", "flavor", &["name"]))
        .await?;
    manager
        .create_table(
            columns::table("flavor_access")
                .col(columns::text("flavor_id", 255))
                .col(columns::id("project_id"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("flavor_id"))
                        .col(Alias::new("project_id")),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("key_pair")
                .col(columns::id("user_id"))
                .col(columns::text("name", 255))
                .col(columns::text("kind", 16))
                .col(columns::text("fingerprint", 64))
                .col(columns::long_text("public_key"))
                .col(columns::timestamp("created_at"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("user_id"))
                        .col(Alias::new("name")),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("quota")
                .col(columns::id("project_id"))
                .col(columns::text("resource", 64))
                .col(columns::integer("hard_limit"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("project_id"))
                        .col(Alias::new("resource")),
                )
                .to_owned(),
        )
        .await
}

async fn hosts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("host")
                .col(columns::text("name", 255).primary_key())
                .col(columns::integer("number"))
                .col(columns::id("host_uuid"))
                .col(columns::integer("incarnation"))
                .col(columns::integer("sequence"))
                .col(columns::integer("vcpus"))
                .col(columns::integer("memory_mib"))
                .col(columns::integer("disk_gib"))
                .col(columns::double("cpu_ratio"))
                .col(columns::double("memory_ratio"))
                .col(columns::double("disk_ratio"))
                .col(columns::integer("claimed_vcpus"))
                .col(columns::integer("claimed_memory_mib"))
                .col(columns::integer("claimed_disk_gib"))
                .col(columns::integer("servers"))
                .col(columns::text("hypervisor_type", 64))
                .col(columns::integer("hypervisor_version"))
                .col(columns::text("driver", 64))
                .col(columns::text("availability_zone", 255))
                .col(columns::text("host_ip", 64))
                .col(columns::json("cpu_info"))
                .col(columns::boolean("enabled"))
                .col(columns::text_null("disabled_reason", 255))
                .col(columns::integer("settings_revision"))
                .col(columns::timestamp("heard_at"))
                .col(columns::timestamp("created_at"))
                .col(columns::timestamp("updated_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::unique_index("host_number", "host", &["number"]))
        .await?;
    manager
        .create_index(columns::unique_index("host_uuid", "host", &["host_uuid"]))
        .await
}

async fn host_tokens(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("host_token")
                .col(columns::text("id", 32).primary_key())
                .col(columns::text("secret_hash", 64))
                .col(columns::text("host", 255))
                .col(columns::timestamp("created_at"))
                .col(columns::timestamp("expires_at"))
                .col(columns::timestamp("used_at"))
                .col(columns::text("used_by", 36))
                .col(columns::timestamp("confirmed_at"))
                .to_owned(),
        )
        .await?;
    for (name, of) in [
        ("host_token_by_host", &["host", "used_by"][..]),
        ("host_token_by_end", &["expires_at"]),
    ] {
        manager
            .create_index(columns::index(name, "host_token", of))
            .await?;
    }
    Ok(())
}

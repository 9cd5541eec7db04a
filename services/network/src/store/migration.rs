//! The network service's schema.

use sea_orm_migration::prelude::*;
use yakumo_db::columns;

/// All migrations, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            yakumo_db::migration("m20261121_000001_create_network_tables", |manager| {
                Box::pin(create_tables(manager))
            }),
            yakumo_db::migration("m20261121_000002_create_network_indexes", |manager| {
                Box::pin(create_indexes(manager))
            }),
            yakumo_db::migration("m20261125_000003_keep_changes_of_hosts", |manager| {
                Box::pin(keep_changes(manager))
            }),
            yakumo_db::migration("m20261125_000004_find_hosts_by_group", |manager| {
                Box::pin(find_hosts_by_group(manager))
            }),
            yakumo_db::idempotency::migration(),
            yakumo_db::migration("m20261128_000005_count_changes_of_groups", |manager| {
                Box::pin(count_changes_of_groups(manager))
            }),
        ]
    }
}

async fn create_tables(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("networks")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 255))
                .col(columns::boolean("admin_state_up"))
                .col(columns::boolean("shared"))
                .col(columns::boolean("external"))
                .col(columns::integer("mtu"))
                .col(columns::text("network_type", 16))
                .col(columns::text("physical_network", 64))
                .col(columns::boolean("port_security"))
                .col(columns::boolean("is_default"))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("subnets")
                .col(columns::id("id").primary_key())
                .col(columns::id("network_id"))
                .col(columns::id("project_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 255))
                .col(columns::text("cidr", 18))
                .col(columns::integer("first"))
                .col(columns::integer("last"))
                .col(columns::text("gateway_ip", 15))
                .col(columns::text("serve_address", 15))
                .col(columns::boolean("enable_dhcp"))
                .col(columns::json("dns_nameservers"))
                .col(columns::json("host_routes"))
                .col(columns::json("allocation_pools"))
                .col(columns::integer("next_number"))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .foreign_key(&mut columns::reference(
                    "subnets_on_network",
                    "subnets",
                    "network_id",
                    "networks",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("ports")
                .col(columns::id("id").primary_key())
                .col(columns::id("network_id"))
                .col(columns::id("project_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 255))
                .col(columns::text("mac", 17))
                .col(columns::boolean("admin_state_up"))
                .col(columns::text("status", 16))
                .col(columns::text("device_id", 255))
                .col(columns::text("device_owner", 255))
                .col(columns::boolean("port_security"))
                .col(columns::text("host", 200))
                .col(columns::text("vnic_type", 32))
                .col(columns::text("hostname", 255))
                .col(columns::boolean("made_for_server"))
                .col(columns::integer("ordinal"))
                .col(columns::integer("released_at"))
                .col(columns::integer("release_revision"))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .foreign_key(&mut columns::reference(
                    "ports_on_network",
                    "ports",
                    "network_id",
                    "networks",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("macs")
                .col(columns::text("mac", 17).primary_key())
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("addresses")
                .col(columns::id("subnet_id"))
                .col(columns::integer("number"))
                .col(columns::id("network_id"))
                .col(columns::text("address", 15))
                .col(columns::id("owner"))
                .col(columns::integer("ordinal"))
                .col(columns::integer("freed_at"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("subnet_id"))
                        .col(Alias::new("number")),
                )
                .foreign_key(&mut columns::owned_by(
                    "addresses_of_subnet",
                    "addresses",
                    "subnet_id",
                    "subnets",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("security_groups")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 255))
                .col(columns::text_null("default_of", 36))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("security_group_rules")
                .col(columns::id("id").primary_key())
                .col(columns::id("group_id"))
                .col(columns::id("project_id"))
                .col(columns::text("direction", 8))
                .col(columns::text("ethertype", 8))
                .col(columns::text("protocol", 16))
                .col(columns::integer_null("port_min"))
                .col(columns::integer_null("port_max"))
                .col(columns::text("remote_ip_prefix", 64))
                .col(columns::id("remote_group_id"))
                .col(columns::text("description", 255))
                .col(columns::text("fingerprint", 255))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .foreign_key(&mut columns::owned_by(
                    "rules_of_group",
                    "security_group_rules",
                    "group_id",
                    "security_groups",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("port_security_groups")
                .col(columns::id("port_id"))
                .col(columns::id("group_id"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("port_id"))
                        .col(Alias::new("group_id")),
                )
                .foreign_key(&mut columns::owned_by(
                    "memberships_of_port",
                    "port_security_groups",
                    "port_id",
                    "ports",
                    "id",
                ))
                .foreign_key(&mut columns::reference(
                    "memberships_in_group",
                    "port_security_groups",
                    "group_id",
                    "security_groups",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("floating_ips")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::text("description", 255))
                .col(columns::id("network_id"))
                .col(columns::text("address", 15))
                .col(columns::id("port_id"))
                .col(columns::text("fixed_address", 15))
                .col(columns::text_null("target", 73))
                .col(columns::id("router_id"))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .foreign_key(&mut columns::reference(
                    "floating_ips_on_network",
                    "floating_ips",
                    "network_id",
                    "networks",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("routers")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::text("name", 255))
                .col(columns::text("description", 255))
                .col(columns::boolean("admin_state_up"))
                .col(columns::id("gateway_network_id"))
                .col(columns::id("gateway_port_id"))
                .col(columns::boolean("enable_snat"))
                .col(columns::integer("created_at"))
                .col(columns::integer("updated_at"))
                .col(columns::integer("revision"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("router_interfaces")
                .col(columns::id("subnet_id").primary_key())
                .col(columns::id("router_id"))
                .col(columns::id("network_id"))
                .col(columns::id("port_id"))
                .foreign_key(&mut columns::reference(
                    "router_interfaces_of_router",
                    "router_interfaces",
                    "router_id",
                    "routers",
                    "id",
                ))
                .foreign_key(&mut columns::reference(
                    "router_interfaces_of_subnet",
                    "router_interfaces",
                    "subnet_id",
                    "subnets",
                    "id",
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("quotas")
                .col(columns::id("project_id"))
                .col(columns::text("resource", 32))
                .col(columns::integer("value"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("project_id"))
                        .col(Alias::new("resource")),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("quota_locks")
                .col(columns::id("project_id").primary_key())
                .col(columns::integer("value"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("hosts")
                .col(columns::text("name", 200).primary_key())
                .col(columns::text("host_id", 36))
                .col(columns::text("driver", 16))
                .col(columns::text("availability_zone", 64))
                .col(columns::integer("revision"))
                .col(columns::integer("applied_revision"))
                .col(columns::integer("started_at"))
                .col(columns::integer("heard_at"))
                .col(columns::integer("created_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            columns::table("servers")
                .col(columns::id("id").primary_key())
                .col(columns::id("project_id"))
                .col(columns::integer("epoch"))
                .col(columns::integer("revision"))
                .col(columns::timestamp("touched_at"))
                .to_owned(),
        )
        .await?;
    Ok(())
}

async fn create_indexes(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_index(columns::index(
            "networks_by_project",
            "networks",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "subnets_by_network",
            "subnets",
            &["network_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "subnets_by_range",
            "subnets",
            &["first", "last"],
        ))
        .await?;
    manager
        .create_index(columns::unique_index("ports_by_mac", "ports", &["mac"]))
        .await?;
    manager
        .create_index(columns::index(
            "ports_by_project",
            "ports",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "ports_by_network",
            "ports",
            &["network_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "ports_by_device",
            "ports",
            &["device_id", "ordinal"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "ports_by_host",
            "ports",
            &["host", "release_revision"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "addresses_by_owner",
            "addresses",
            &["owner", "ordinal"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "addresses_by_freedom",
            "addresses",
            &["subnet_id", "owner", "freed_at"],
        ))
        .await?;
    manager
        .create_index(columns::unique_index(
            "security_groups_default",
            "security_groups",
            &["default_of"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "security_groups_by_project",
            "security_groups",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::unique_index(
            "rules_say_different_things",
            "security_group_rules",
            &["group_id", "fingerprint"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "rules_by_project",
            "security_group_rules",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "rules_by_remote_group",
            "security_group_rules",
            &["remote_group_id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "memberships_by_group",
            "port_security_groups",
            &["group_id"],
        ))
        .await?;
    manager
        .create_index(columns::unique_index(
            "floating_ips_by_target",
            "floating_ips",
            &["target"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "floating_ips_by_project",
            "floating_ips",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "floating_ips_by_port",
            "floating_ips",
            &["port_id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "routers_by_project",
            "routers",
            &["project_id", "id"],
        ))
        .await?;
    manager
        .create_index(columns::index(
            "router_interfaces_by_router",
            "router_interfaces",
            &["router_id"],
        ))
        .await?;
    Ok(())
}

async fn keep_changes(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("host_changes")
                .col(columns::text("host", 200))
                .col(columns::integer("revision"))
                .col(columns::id("port_id"))
                .primary_key(
                    Index::create()
                        .col(Alias::new("host"))
                        .col(Alias::new("revision"))
                        .col(Alias::new("port_id")),
                )
                .to_owned(),
        )
        .await?;
    let column = columns::integer("full_revision").default(0_i64).take();
    manager
        .alter_table(
            Table::alter()
                .table(Alias::new("hosts"))
                .add_column(column)
                .to_owned(),
        )
        .await?;
    // What happened until now, nobody has noted.
    let update = Query::update()
        .table(Alias::new("hosts"))
        .value(
            Alias::new("full_revision"),
            Expr::col(Alias::new("revision")),
        )
        .to_owned();
    manager.execute(update).await
}

async fn find_hosts_by_group(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let members = || Alias::new("port_security_groups");
    manager
        .alter_table(
            Table::alter()
                .table(members())
                .add_column(columns::text("host", 200).default("").take())
                .to_owned(),
        )
        .await?;
    let host = Query::select()
        .column(Alias::new("host"))
        .from(Alias::new("ports"))
        .and_where(
            Expr::col((Alias::new("ports"), Alias::new("id")))
                .equals((members(), Alias::new("port_id"))),
        )
        .to_owned();
    let update = Query::update()
        .table(members())
        .value(
            Alias::new("host"),
            SimpleExpr::SubQuery(None, Box::new(host.into())),
        )
        .to_owned();
    manager.execute(update).await?;
    manager
        .create_index(columns::index(
            "memberships_by_group_and_host",
            "port_security_groups",
            &["group_id", "host"],
        ))
        .await?;
    // The new one finds what this one found.
    let old = Index::drop()
        .name("memberships_by_group")
        .table(members())
        .to_owned();
    manager.drop_index(old).await
}

async fn count_changes_of_groups(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            columns::table("group_changes")
                .col(columns::id("id").primary_key())
                .col(columns::id("group_id"))
                .col(columns::id("port_id"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "group_changes_by_group",
            "group_changes",
            &["group_id"],
        ))
        .await?;
    manager
        .create_table(
            columns::table("group_revisions")
                .col(columns::id("group_id").primary_key())
                .col(columns::integer("revision"))
                .col(columns::integer("told_revision"))
                .col(columns::integer("changed_at"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(columns::index(
            "group_revisions_by_change",
            "group_revisions",
            &["changed_at"],
        ))
        .await?;
    // Agents of the release before must be told otherwise.
    let column = columns::boolean("follows_groups").default(false).take();
    manager
        .alter_table(
            Table::alter()
                .table(Alias::new("hosts"))
                .add_column(column)
                .to_owned(),
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{host, membership};
    use sea_orm::EntityTrait as _;
    use yakumo_db::Db;
    use yakumo_testing::databases::{ALL, fresh};

    /// What there was before hosts were told of changes.
    struct Before;

    #[async_trait::async_trait]
    impl MigratorTrait for Before {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            Migrator::migrations().into_iter().take(2).collect()
        }
    }

    #[tokio::test]
    async fn what_was_there_is_found_by_its_host_and_told_as_a_whole() {
        const ROWS: [&str; 5] = [
            "INSERT INTO networks VALUES \
             ('n', 'p', '', '', TRUE, FALSE, FALSE, 1500, 'flat', '', TRUE, FALSE, 1, 1, 1)",
            "INSERT INTO ports VALUES ('port', 'n', 'p', '', '', 'm', TRUE, 'DOWN', 's', \
             'compute:nova', TRUE, 'node-1', 'normal', '', TRUE, 0, 0, 0, 1, 1, 1)",
            "INSERT INTO security_groups VALUES ('g', 'p', '', '', NULL, 1, 1, 1)",
            "INSERT INTO port_security_groups VALUES ('port', 'g')",
            "INSERT INTO hosts VALUES ('node-1', 'h', 'real', 'nova', 7, 5, 1, 1, 1)",
        ];
        for backend in ALL {
            let database = fresh(backend).await.unwrap();
            let db = Db::connect(&database.config).await.unwrap();
            db.migrate::<Before>().await.unwrap();
            db.write(|txn| {
                Box::pin(async move {
                    for row in ROWS {
                        txn.execute_unprepared(row).await?;
                    }
                    Ok(())
                })
            })
            .await
            .unwrap();
            db.migrate::<Migrator>().await.unwrap();
            let member = membership::Entity::find().one(db.read()).await.unwrap();
            assert_eq!(member.unwrap().host, "node-1", "{backend:?}");
            let host = host::Entity::find().one(db.read()).await.unwrap().unwrap();
            assert_eq!((host.revision, host.full_revision), (7, 7));
            db.close().await;
        }
    }
}

//! `yakumo db restored` and `yakumo db purge`: what is done to all databases
//! together, by the services that own them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use yakumo_db::{Db, DbConfig, MigratorTrait};
use yakumo_service::system_env;

use crate::config::Config;
use crate::operator::{runtime, say};

/// What was done, and to how many.
type Counts = Vec<(&'static str, u64)>;

/// `yakumo db restored`
pub fn restored(config: &Config) -> anyhow::Result<ExitCode> {
    let mut table = Table::new();
    table.set_header(["Service", "What", "Count"]);
    runtime()?.block_on(async {
        let identity = open::<yakumo_identity::Migrator>("identity", &config.identity.database);
        let db = identity.await?;
        add(
            &mut table,
            "identity",
            yakumo_identity::upkeep::restored(&db).await,
        )?;
        let volume = open::<yakumo_volume::Migrator>("volume", &config.volume.database);
        let db = volume.await?;
        add(
            &mut table,
            "volume",
            yakumo_volume::upkeep::restored(&db).await,
        )?;
        let network = &config.network.manager.database;
        let db = open::<yakumo_network::Migrator>("network", network).await?;
        add(
            &mut table,
            "network",
            yakumo_network::upkeep::restored(&db).await,
        )?;
        let db = open::<yakumo_api::Migrator>("api", &config.api.database).await?;
        add(&mut table, "api", yakumo_api::upkeep::restored(&db).await)
    })?;
    say(table);
    say("Start the control services again; hosts then follow what was restored.");
    Ok(ExitCode::SUCCESS)
}

/// `yakumo db purge`: it leaves schemas alone, since services run meanwhile.
pub fn purge(config: &Config, days: u32) -> anyhow::Result<ExitCode> {
    let age = Duration::from_secs(u64::from(days) * 86_400);
    let now = system_env().now();
    let mut table = Table::new();
    table.set_header(["Service", "Table", "Rows removed"]);
    runtime()?.block_on(async {
        let db = connect("identity", &config.identity.database).await?;
        add(
            &mut table,
            "identity",
            yakumo_identity::upkeep::purge(&db, now).await,
        )?;
        let db = connect("image", &config.image.database).await?;
        add(
            &mut table,
            "image",
            yakumo_image::upkeep::purge(&db, now).await,
        )?;
        let db = connect("volume", &config.volume.database).await?;
        add(
            &mut table,
            "volume",
            yakumo_volume::upkeep::purge(&db, now, age).await,
        )?;
        let db = connect("network", &config.network.manager.database).await?;
        add(
            &mut table,
            "network",
            yakumo_network::upkeep::purge(&db, now, age).await,
        )?;
        let db = connect("api", &config.api.database).await?;
        add(
            &mut table,
            "api",
            yakumo_api::upkeep::purge(&db, now, age).await,
        )
    })?;
    say(table);
    Ok(ExitCode::SUCCESS)
}

async fn connect(service: &str, config: &DbConfig) -> anyhow::Result<Db> {
    Db::connect(config)
        .await
        .with_context(|| format!("opening the database of {service}"))
}

/// A service's database, brought up to date: a back-up may be an older
/// release's.
async fn open<M: MigratorTrait>(service: &str, config: &DbConfig) -> anyhow::Result<Db> {
    let db = connect(service, config).await?;
    db.migrate::<M>()
        .await
        .with_context(|| format!("migrating the database of {service}"))?;
    Ok(db)
}

fn add(
    table: &mut Table,
    service: &str,
    counts: Result<Counts, yakumo_db::DbError>,
) -> anyhow::Result<()> {
    for (what, count) in counts.with_context(|| format!("the database of {service}"))? {
        table.add_row([service.to_owned(), what.to_owned(), count.to_string()]);
    }
    Ok(())
}

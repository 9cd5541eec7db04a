//! Bad days of a distributed cloud: a service that is away, and a database
//! that takes no changes or is not there at the start. What can't be kept is refused with 503 and
//! the advice to come back; what was accepted is kept; and all of it passes by
//! itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use yakumo_db::{Db, DbConfig};
use yakumo_integration::client::{Api, list};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, World};

use crate::distributed;
use crate::recovering::{
    WAITING, a_server_boots, is_told_to_come_back, named, network_goes, network_returns, recovers,
    says,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_not_accepted() -> Result<()> {
    let (_turn, mut cloud, world) = distributed(Options::default()).await?;
    only_so_many_wait_for_a_service_that_is_away(&mut cloud, &world).await?;
    a_service_that_is_away_delays_what_was_accepted(&mut cloud, &world).await?;
    a_database_that_takes_no_changes_is_said_so(&cloud, &world).await?;
    services_that_start_without_their_databases_wait(&mut cloud, &world).await?;
    cloud.done().await
}

async fn only_so_many_wait_for_a_service_that_is_away(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    let quota = json!({"quota": {"network": -1}});
    let path = format!("/quotas/{}", world.alice.project_id);
    world.admin.put(Api::Network, &path, &quota).await?.ok()?;

    network_goes(cloud).await?;
    let body = json!({"network": {"name": "many"}});
    let posts: Vec<_> = (0..WAITING + 30)
        .map(|_| {
            let (alice, body) = (world.alice.clone(), body.clone());
            tokio::spawn(async move { alice.post(Api::Network, "/networks", &body).await })
        })
        .collect();
    wait::until("some are refused", BOUND, || async {
        let over = posts.iter().filter(|post| post.is_finished()).count();
        Ok(if over >= 30 {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{over} are answered"))
        })
    })
    .await?;
    network_returns(cloud).await?;
    // Whoever was let in is served; on a machine so slow that it took half a
    // minute, nobody can say.
    let (mut made, mut unknown) = (0, 0);
    for post in posts {
        let answer = post.await??;
        match answer.status {
            201 => made += 1,
            504 => unknown += 1,
            _ => is_told_to_come_back(&answer)?,
        }
    }
    let found = named(&world.alice, Api::Network, "networks", "many").await?;
    ensure!(
        (made..=made + unknown).contains(&found) && made + unknown <= WAITING,
        "{made} were made, {unknown} perhaps, {found} are there"
    );
    cloud.healthy("network").await?;
    let body = json!({"network": {"name": "afterwards"}});
    let after = world.alice.post(Api::Network, "/networks", &body).await?;
    after.with_status(201)?;
    Ok(())
}

async fn a_service_that_is_away_delays_what_was_accepted(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    cloud.terminate("scheduler").await?;
    let server = world.boot(&world.alice, "patient").await?;
    let shown = world.alice.server(&server).await?;
    ensure!(shown["status"] == "BUILD", "{shown}");
    cloud.launch("scheduler")?;
    cloud.healthy("scheduler").await?;
    world
        .alice
        .server_becomes(&server, "ACTIVE", Duration::from_secs(120))
        .await?;
    world.remove(&world.alice, &server).await
}

async fn a_database_that_takes_no_changes_is_said_so(
    cloud: &TestCloud,
    world: &World,
) -> Result<()> {
    let (_, url) = cloud
        .databases()
        .iter()
        .find(|(section, _)| *section == "api")
        .context("the database of the API service")?;
    let db = Db::connect(&DbConfig::with_url(url.clone())).await?;
    let sql = async |sql: &str| db.read().execute_unprepared(sql).await;

    // One that refuses at the commit.
    sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'not today'; END $$",
    )
    .await?;
    sql("CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON server \
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()")
    .await?;
    let body = json!({"server": world.server("refused")});
    let refused = world.alice.post(Api::Compute, "/servers", &body).await?;
    is_told_to_come_back(&refused)?;
    let servers = world.alice.get(Api::Compute, "/servers").await?.ok()?;
    ensure!(list(&servers, "servers")?.is_empty(), "{servers}");
    sql("DROP TRIGGER refuse ON server").await?;

    // One that was turned into a standby: what is connected is cut off.
    let turn = async |read_only: &str| {
        sql(&format!(
            "BEGIN READ WRITE; DO $$ BEGIN EXECUTE format( \
               'ALTER DATABASE %I SET default_transaction_read_only = {read_only}', \
               current_database()); END $$; COMMIT"
        ))
        .await?;
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await
    };
    turn("on").await?;
    says(cloud, "api", "database api", "degraded", "read-only").await?;
    for _ in 0..3 {
        let refused = world.alice.post(Api::Compute, "/servers", &body).await?;
        is_told_to_come_back(&refused)?;
    }
    world
        .alice
        .get(Api::Compute, "/servers")
        .await?
        .with_status(200)?;
    turn("off").await?;
    says(cloud, "api", "database api", "up", "").await?;
    a_server_boots(world).await
}

async fn services_that_start_without_their_databases_wait(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    const SERVICES: [&str; 5] = ["identity", "image", "api", "network", "volume"];
    cloud.database()?.stop().await?;
    for service in SERVICES {
        cloud.kill(service)?;
        cloud.launch(service)?;
    }
    for service in SERVICES {
        says(cloud, service, &format!("database {service}"), "down", "").await?;
    }
    cloud.database()?.resume().await?;
    recovers(cloud, world).await?;
    a_server_boots(world).await
}

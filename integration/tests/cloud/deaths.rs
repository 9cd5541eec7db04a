//! Parts of the cloud die in the middle of boots. Every server still ends,
//! running or with a fault that says why, and deleting all leaves nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use yakumo_integration::client::{Api, list, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::World;

use crate::{broker, distributed};

const SERVERS: usize = 20;

/// For all of them, on a slow machine, after a lease ran out.
const BOUND: Duration = Duration::from_secs(120);

fn slow_boots() -> Options {
    Options {
        build_ms: 300,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_everything_at_once() -> Result<()> {
    let mut cloud = TestCloud::embedded(slow_boots()).await?;
    let world = World::make(&cloud).await?;
    let servers = boots(&world).await?;
    some_run(&world, &servers).await?;
    cloud.kill("all")?;
    cloud.launch("all")?;
    cloud.healthy("all").await?;
    every_one_ends(&world, &servers).await?;
    cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_api_and_of_the_broker() -> Result<()> {
    let (_turn, mut cloud, world) = distributed(slow_boots()).await?;

    let servers = boots(&world).await?;
    some_run(&world, &servers).await?;
    cloud.kill("api")?;
    cloud.launch("api")?;
    cloud.healthy("api").await?;
    every_one_ends(&world, &servers).await?;

    let servers = boots(&world).await?;
    some_run(&world, &servers).await?;
    broker(&cloud)?.kill().await?;
    broker(&cloud)?.resume().await?;
    every_one_ends(&world, &servers).await?;
    cloud.done().await
}

async fn boots(world: &World) -> Result<Vec<String>> {
    let mut document = world.server("many");
    document["min_count"] = json!(SERVERS);
    document["max_count"] = json!(SERVERS);
    let path = format!("/os-quota-sets/{}", world.alice.project_id);
    let body = json!({"quota_set": {"instances": 100, "cores": 100, "ram": -1}});
    world.admin.put(Api::Compute, &path, &body).await?.ok()?;
    world
        .alice
        .post(Api::Compute, "/servers", &json!({"server": document}))
        .await?
        .with_status(202)?;
    let made = world.alice.get(Api::Compute, "/servers").await?.ok()?;
    let servers: Vec<String> = list(&made, "servers")?
        .iter()
        .map(|server| text(server, "/id"))
        .collect::<Result<_>>()?;
    ensure!(servers.len() == SERVERS, "{made}");
    Ok(servers)
}

async fn statuses(world: &World) -> Result<Option<Vec<(String, bool, bool)>>> {
    // What is down or starting may refuse meanwhile.
    let Ok(answer) = world.alice.get(Api::Compute, "/servers/detail").await else {
        return Ok(None);
    };
    if answer.status != 200 {
        return Ok(None);
    }
    Ok(Some(
        list(&answer.body, "servers")?
            .iter()
            .map(|server| {
                (
                    server["status"].as_str().unwrap_or_default().to_owned(),
                    server["OS-EXT-STS:task_state"].is_null(),
                    server["fault"]["message"].is_string(),
                )
            })
            .collect(),
    ))
}

/// In the middle: some are done and some are not.
async fn some_run(world: &World, servers: &[String]) -> Result<()> {
    wait::until("some servers run", BOUND, || async {
        let active = statuses(world)
            .await?
            .unwrap_or_default()
            .iter()
            .filter(|(status, ..)| status == "ACTIVE")
            .count();
        Ok(if active > 0 {
            Look::Yes(())
        } else {
            Look::NotYet(format!("none of {} does", servers.len()))
        })
    })
    .await
}

async fn every_one_ends(world: &World, servers: &[String]) -> Result<()> {
    wait::until("every server at its end", BOUND, || async {
        let Some(all) = statuses(world).await? else {
            return Ok(Look::NotYet("no answer".into()));
        };
        ensure!(
            all.len() == servers.len(),
            "{} servers are known",
            all.len()
        );
        let at_end = all.iter().all(|(status, idle, fault)| {
            *idle && (status == "ACTIVE" || (status == "ERROR" && *fault))
        });
        Ok(if at_end {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{all:?}"))
        })
    })
    .await?;
    for server in servers {
        let path = format!("/servers/{server}");
        world
            .alice
            .delete(Api::Compute, &path)
            .await?
            .with_status(204)?;
    }
    for server in servers {
        world
            .alice
            .gone(Api::Compute, &format!("/servers/{server}"), BOUND)
            .await?;
    }
    wait::until("nothing left of them", BOUND, || async {
        let ports = world
            .admin
            .get(
                Api::Network,
                &format!("/ports?project_id={}", world.alice.project_id),
            )
            .await?
            .ok()?;
        let hosts = world
            .admin
            .get(Api::Compute, "/os-hypervisors/detail")
            .await?
            .ok()?;
        let host = &hosts["hypervisors"][0];
        let limits = world.alice.get(Api::Compute, "/limits").await?.ok()?;
        let found = (
            list(&ports, "ports")?.len(),
            host["vcpus_used"].as_i64(),
            host["memory_mb_used"].as_i64(),
            host["running_vms"].as_i64(),
            limits["limits"]["absolute"]["totalInstancesUsed"].as_i64(),
            limits["limits"]["absolute"]["totalCoresUsed"].as_i64(),
        );
        Ok(wait::same(
            found,
            &(0, Some(0), Some(0), Some(0), Some(0), Some(0)),
        ))
    })
    .await?;
    Ok(())
}

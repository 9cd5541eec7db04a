//! Two host processes under one name, over the real broker: the living host keeps
//! its name and every message, and one that was installed anew has to wait until
//! the old one is removed.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use yakumo_integration::client::{Api, Client, list, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::config::HOST;
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::BOUND;

use crate::distributed;
use crate::recovering::says;

const SERVERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_keeps_its_name_until_it_is_removed() -> Result<()> {
    let options = Options {
        settings: vec![
            "api.host_silence_seconds=8".into(),
            "network.manager.release_wait_seconds=1".into(),
        ],
        ..Options::default()
    };
    let (_turn, mut cloud, world) = distributed(options).await?;
    let folder = cloud.folder().to_owned();
    let own = |name: &str| format!("data_dir = \"{}\"", folder.join(name).display());
    cloud.add_like("compute", "again", &own("host"), &own("anew"))?;
    cloud.launch("again")?;
    complains(&cloud).await?;

    // Every one of these is messages to the host of the name.
    let mut document = world.server("many");
    document["min_count"] = json!(SERVERS);
    document["max_count"] = json!(SERVERS);
    let body = json!({"server": document});
    let made = world.alice.post(Api::Compute, "/servers", &body).await?;
    made.ok()?;
    let servers = world.alice.get(Api::Compute, "/servers").await?.ok()?;
    for server in list(&servers, "servers")? {
        let id = text(server, "/id")?;
        world.alice.server_becomes(&id, "ACTIVE", BOUND).await?;
    }
    ensure!(records(&folder.join("host"))? == SERVERS);
    ensure!(records(&folder.join("anew"))? == 0);
    let log = std::fs::read_to_string(folder.join("again.log"))?;
    ensure!(log.contains("this is not the host of its name"), "{log}");

    // The host dies; the other one still is not it.
    cloud.kill("compute")?;
    service(&world.admin, "down").await?;
    complains(&cloud).await?;
    let paths: Vec<String> = list(&servers, "servers")?
        .iter()
        .map(|server| Ok(format!("/servers/{}", text(server, "/id")?)))
        .collect::<Result<_>>()?;
    for path in &paths {
        let asked = world.alice.delete(Api::Compute, path).await?;
        asked.with_status(204)?;
    }
    for path in &paths {
        world.alice.gone(Api::Compute, path, BOUND).await?;
    }
    ensure!(records(&folder.join("anew"))? == 0);
    let id = service(&world.admin, "down").await?["id"].to_string();
    let path = format!("/os-services/{id}");
    world.admin.delete(Api::Compute, &path).await?.ok()?;

    // Then it is, by itself.
    service(&world.admin, "up").await?;
    world.running(&world.alice, "new").await?;
    ensure!(records(&folder.join("anew"))? == 1);
    cloud.forget("compute")?;
    cloud.done().await
}

/// How many servers a host has records of.
fn records(folder: &std::path::Path) -> Result<usize> {
    let servers = folder.join("compute/simulated").join(HOST).join("servers");
    let mut count = 0;
    for entry in std::fs::read_dir(servers)? {
        count += usize::from(entry?.path().extension().is_some_and(|it| it == "json"));
    }
    Ok(count)
}

/// Waits until the second process says that it is not the host.
async fn complains(cloud: &TestCloud) -> Result<()> {
    let why = "must be removed before this one";
    says(cloud, "again", &format!("host {HOST}"), "degraded", why).await
}

/// Waits until people see the one host in a state.
async fn service(admin: &Client, state: &str) -> Result<Value> {
    wait::until(&format!("{state}, the host"), BOUND, || async {
        let said = admin.get(Api::Compute, "/os-services").await?.ok()?;
        let all = list(&said, "services")?;
        let only = all.first().filter(|_| all.len() == 1);
        let only = only.filter(|service| service["state"] == state);
        Ok(match only {
            Some(service) => Look::Yes(service.clone()),
            None => Look::NotYet(said.to_string()),
        })
    })
    .await
}

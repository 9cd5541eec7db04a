//! A cloud whose databases are put back to an earlier time, while its host
//! goes on from where it is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use yakumo_integration::client::{Api, Client, list};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::programs;
use yakumo_integration::wait;
use yakumo_integration::world::{PASSWORD, World};

const BOUND: Duration = Duration::from_secs(60);

/// Copies all SQLite files, which nobody writes meanwhile; what is in the way
/// of a copy goes.
fn copy_databases(from: &Path, to: &Path) -> Result<usize> {
    std::fs::create_dir_all(to)?;
    let databases = |folder: &Path| -> Result<Vec<std::path::PathBuf>> {
        let files = std::fs::read_dir(folder)?;
        let mut found = Vec::new();
        for file in files {
            let path = file?.path();
            if path.to_string_lossy().contains(".sqlite") {
                found.push(path);
            }
        }
        Ok(found)
    };
    for old in databases(to)? {
        std::fs::remove_file(old)?;
    }
    let all = databases(from)?;
    for file in &all {
        let name = file.file_name().context("a file without a name")?;
        std::fs::copy(file, to.join(name))?;
    }
    Ok(all.len())
}

async fn again(cloud: &mut TestCloud) -> Result<(Client, Client)> {
    cloud.launch("all")?;
    cloud.healthy("all").await?;
    cloud.answering().await?;
    let alice = Client::anonymous(&cloud.ports)?
        .log_in("alice", PASSWORD, Some("alpha"))
        .await?;
    Ok((cloud.admin().await?, alice))
}

async fn act(client: &Client, server: &str, action: Value) -> Result<()> {
    let path = format!("/servers/{server}/action");
    let answer = client.post(Api::Compute, &path, &action).await?;
    answer.with_status(202)?;
    Ok(())
}

/// What the host remembers of a server's run, if it knows the server.
fn run_on_host(data: &Path, server: &str) -> Option<Value> {
    let root = data.join("compute/simulated");
    let hosts = std::fs::read_dir(root).into_iter().flatten().flatten();
    hosts
        .map(|host| host.path().join("servers").join(format!("{server}.json")))
        .find_map(|file| std::fs::read(file).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .map(|record| record["memory"]["run"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_follows_databases_that_were_put_back() -> Result<()> {
    let mut cloud = TestCloud::embedded(Options::default()).await?;
    let world = World::make(&cloud).await?;
    let kept = world.running(&world.alice, "kept").await?;
    let deleted = world.running(&world.alice, "deleted").await?;
    let (data, backup) = (cloud.folder().join("data"), cloud.folder().join("backup"));
    cloud.terminate("all").await?;
    ensure!(copy_databases(&data, &backup)? >= 6);

    // What happens after the back-up.
    let (_, alice) = again(&mut cloud).await?;
    act(&alice, &kept, json!({"reboot": {"type": "HARD"}})).await?;
    alice.server_becomes(&kept, "ACTIVE", BOUND).await?;
    act(&alice, &kept, json!({"os-stop": null})).await?;
    alice.server_becomes(&kept, "SHUTOFF", BOUND).await?;
    world.remove(&alice, &deleted).await?;
    let later = world.running(&alice, "later").await?;
    ensure!(run_on_host(&data, &later).is_some() && run_on_host(&data, &deleted).is_none());
    ensure!(run_on_host(&data, &kept) == Some(json!("due")));

    cloud.terminate("all").await?;
    copy_databases(&backup, &data)?;
    let file = cloud.config_of("all")?.display().to_string();
    let words = ["--config", &file, "db", "restored"];
    let said = programs::run(&programs::yakumo()?, &words, BOUND).await?;
    let said = said.ok()?;
    for what in ["servers told anew", "hosts told anew", "signing keys"] {
        ensure!(said.contains(what), "{said}");
    }
    let (_, fresh) = again(&mut cloud).await?;

    // No token from before holds, whatever the back-up knows of it.
    alice
        .get(Api::Compute, "/servers")
        .await?
        .with_status(401)?;
    world
        .alice
        .get(Api::Compute, "/servers")
        .await?
        .with_status(401)?;
    let alice = fresh;
    // The host does again what the back-up says.
    wait::until("the stopped server runs", BOUND, || async {
        Ok(wait::same(
            run_on_host(&data, &kept),
            &Some(json!("started")),
        ))
    })
    .await?;
    alice.server_becomes(&kept, "ACTIVE", BOUND).await?;
    let server = alice.server_becomes(&deleted, "ERROR", BOUND).await?;
    let fault = server["fault"]["message"].as_str().unwrap_or_default();
    ensure!(fault.contains("does not have it any more"), "{server:#}");
    wait::until("what the back-up does not know is gone", BOUND, || async {
        Ok(wait::same(run_on_host(&data, &later), &None))
    })
    .await?;
    let path = format!("/servers/{later}");
    alice.get(Api::Compute, &path).await?.with_status(404)?;

    // And everything goes on.
    act(&alice, &kept, json!({"reboot": {"type": "HARD"}})).await?;
    alice.server_becomes(&kept, "ACTIVE", BOUND).await?;
    act(&alice, &kept, json!({"os-stop": null})).await?;
    alice.server_becomes(&kept, "SHUTOFF", BOUND).await?;
    let after = world.running(&alice, "after").await?;
    for server in [&kept, &deleted, &after] {
        world.remove(&alice, server).await?;
    }
    let ports = alice.get(Api::Network, "/ports").await?.ok()?;
    ensure!(list(&ports, "ports")?.is_empty(), "{ports}");

    // Old rows go while it runs.
    let words = ["--config", &file, "db", "purge", "--older-than", "1"];
    let said = programs::run(&programs::yakumo()?, &words, BOUND).await?;
    ensure!(said.ok()?.contains("server_action"));
    alice.get(Api::Compute, "/servers").await?.ok()?;
    cloud.done().await
}

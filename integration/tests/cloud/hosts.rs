//! Hosts that come and go, over a real broker: one command each.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use yakumo_integration::client::{Api, Client, list, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::config::simulated_host;
use yakumo_integration::programs::{self, Output};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::World;

use crate::{beside_another, broker};

const NAME: &str = "node-a.example";
const BOUND: Duration = Duration::from_secs(60);

/// From the operator's wish for a token to a host that takes servers.
const JOINED: Duration = Duration::from_secs(30);

/// Runs an operator's command on the control machine.
async fn operator(cloud: &mut TestCloud, words: &[&str]) -> Result<Output> {
    let file = cloud.config_of("control")?.display().to_string();
    let words: Vec<&str> = ["--config", &file].iter().chain(words).copied().collect();
    programs::run(&programs::yakumo()?, &words, BOUND).await
}

/// What an operator prepares on a machine that is to be a host.
fn prepared(folder: &Path) -> String {
    let host = simulated_host(NAME, &folder.join("run"), 8, 20);
    format!("data_dir = \"{}\"\n{host}", folder.display())
}

/// Makes a token and runs the command that comes with it on the machine, whose
/// files are in a folder of its own.
async fn join(cloud: &mut TestCloud, machine: &str) -> Result<()> {
    let out = operator(cloud, &["host", "token", NAME, "--expires-in", "10m"]).await?;
    let out = out.ok()?;
    let command = out
        .lines()
        .find_map(|line| line.strip_prefix("yakumo "))
        .with_context(|| format!("no command in {out:?}"))?
        .to_owned();
    let folder = cloud.folder().join(format!("{machine}-data"));
    let file = cloud.add(machine, &command, prepared(&folder))?;
    cloud.launch(machine)?;
    cloud.healthy(machine).await?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "its password is open to {mode:o}");
    Ok(())
}

/// A machine becomes a host, soon.
async fn joined(cloud: &mut TestCloud, machine: &str, admin: &Client) -> Result<()> {
    let joins = async {
        join(cloud, machine).await?;
        ensure!(up(admin).await? == NAME);
        Ok(())
    };
    tokio::time::timeout(JOINED, joins)
        .await
        .with_context(|| format!("it took more than {JOINED:?}"))?
}

async fn services(admin: &Client) -> Result<Vec<Value>> {
    let answer = admin.get(Api::Compute, "/os-services").await?.ok()?;
    Ok(list(&answer, "services")?.clone())
}

async fn up(admin: &Client) -> Result<String> {
    wait::until("the host is up", BOUND, || async {
        let found = admin.get(Api::Compute, "/os-hypervisors/detail").await?;
        let found = found.ok()?;
        let host = &found["hypervisors"][0];
        Ok(match host["state"].as_str() {
            Some("up") => Look::Yes(text(&found, "/hypervisors/0/hypervisor_hostname")?),
            _ => Look::NotYet(found.to_string()),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_joins_by_a_token_carries_a_server_leaves_and_comes_back_reinstalled() -> Result<()> {
    let _turn = beside_another().await;
    let mut cloud = TestCloud::without_hosts(Options::default()).await?;
    let world = World::make(&cloud).await?;

    joined(&mut cloud, "machine", &world.admin).await?;
    same_rights_as_by_hand(&cloud).await?;
    let server = world.running(&world.alice, "web").await?;

    // Not while it takes servers, and not while it has one.
    let refused = operator(&mut cloud, &["host", "remove", NAME]).await?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("is alive"),
        "{refused:?}"
    );
    let body = json!({"host": NAME, "binary": "nova-compute"});
    let path = "/os-services/disable";
    world.admin.put(Api::Compute, path, &body).await?.ok()?;
    let refused = operator(&mut cloud, &["host", "remove", NAME]).await?;
    ensure!(refused.code != 0, "{refused:?}");
    ensure!(
        refused.stderr.contains("still has servers: 1"),
        "{refused:?}"
    );
    ensure!(refused.stderr.contains(&server), "{refused:?}");
    world.remove(&world.alice, &server).await?;

    // Its process runs on and can say nothing any more.
    operator(&mut cloud, &["host", "remove", NAME])
        .await?
        .ok()?;
    let users = broker(&cloud)?.ctl(&["list_users"], None).await?;
    ensure!(!users.contains(NAME), "{users}");
    cloud.terminate("machine").await?;
    // What it said in its last moment may have come after its removal.
    operator(&mut cloud, &["host", "remove", NAME])
        .await?
        .ok()?;
    let queues = broker(&cloud)?.ctl(&["list_queues", "name"], None).await?;
    ensure!(!queues.contains(&format!("host.{NAME}\n")), "{queues}");
    ensure!(services(&world.admin).await?.is_empty());
    let agents = world.admin.get(Api::Network, "/agents").await?.ok()?;
    ensure!(list(&agents, "agents")?.is_empty(), "{agents}");

    // Installed anew, it has another id under the same name.
    joined(&mut cloud, "reinstalled", &world.admin).await?;
    let server = world.running(&world.alice, "again").await?;
    world.remove(&world.alice, &server).await?;
    cloud.done().await
}

/// What the management gave the host is what `rabbitmqctl` would have given.
async fn same_rights_as_by_hand(cloud: &TestCloud) -> Result<()> {
    let broker = broker(cloud)?;
    broker.add_host("node-b.example", "by hand").await?;
    for command in ["list_user_permissions", "list_user_topic_permissions"] {
        let of = async |name: &str| -> Result<Vec<String>> {
            let user = format!("host.{name}");
            let out = broker.ctl(&[command, "--quiet", &user], None).await?;
            let out = out.replace(&name.replace('.', "[.]"), "NAME");
            let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
            lines.sort();
            Ok(lines)
        };
        let (joined, by_hand) = (of(NAME).await?, of("node-b.example").await?);
        ensure!(joined == by_hand, "{joined:#?} and {by_hand:#?}");
        ensure!(joined.len() > 1, "{joined:?}");
    }
    Ok(())
}

//! Bad days of a distributed cloud's broker, and of its database while it is
//! used: not there at a start, refusing credentials, taking no messages, full.
//! Services wait and say so, take nothing that they can't keep, and come up by
//! themselves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use yakumo_integration::client::{Answer, Api};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::world::{BOUND, World};

use crate::recovering::{
    WAITING, a_server_boots, is_told_to_come_back, named, network_goes, network_returns, recovers,
    says,
};
use crate::{broker, distributed};

/// Whoever knows that the broker takes nothing waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_fails_is_waited_for() -> Result<()> {
    let (_turn, mut cloud, world) = distributed(Options::default()).await?;
    services_that_start_without_their_broker_wait(&mut cloud, &world).await?;
    a_service_whose_credentials_are_refused_waits(&mut cloud, &world).await?;
    a_blocked_broker_is_said_so_and_nothing_is_half_kept(&mut cloud, &world).await?;
    memory_stays_flat_while_a_queue_is_full(&mut cloud, &world).await?;
    a_database_that_goes_while_it_is_used_is_said_so(&mut cloud, &world).await?;
    cloud.done().await
}

async fn services_that_start_without_their_broker_wait(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    broker(cloud)?.stop().await?;
    for name in cloud.names() {
        cloud.kill(&name)?;
        cloud.launch(&name)?;
    }
    for name in cloud.names() {
        has_no_bus(cloud, &name, "no connection to the broker").await?;
    }
    broker(cloud)?.resume().await?;
    recovers(cloud, world).await?;
    a_server_boots(world).await
}

async fn a_service_whose_credentials_are_refused_waits(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    // All control services log in as one user; whoever is in stays in.
    let change = ["change_password", "guest"];
    broker(cloud)?.ctl(&change, Some("another\n")).await?;
    cloud.kill("volume")?;
    cloud.launch("volume")?;
    let why = "the broker does not let this process in: ACCESS_REFUSED";
    has_no_bus(cloud, "volume", why).await?;
    broker(cloud)?.ctl(&change, Some("guest\n")).await?;
    recovers(cloud, world).await
}

async fn a_blocked_broker_is_said_so_and_nothing_is_half_kept(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    let alarm = ["set_vm_memory_high_watermark", "0"];
    broker(cloud)?.ctl(&alarm, None).await?;
    has_no_bus(cloud, "api", "the broker takes no messages").await?;

    // What needs another service is refused, and a server needs two before it is
    // accepted: who owns its image says that it may be used, who owns its network
    // that it is there.
    let hasty = world.alice.at(&cloud.ports, AT_ONCE)?;
    let network = json!({"network": {"name": "unheard"}});
    let server = json!({"server": world.server("unheard")});
    for (api, path, body) in [
        (Api::Network, "/networks", &network),
        (Api::Compute, "/servers", &server),
    ] {
        is_refused_for(&hasty.post(api, path, body).await?, "message broker")?;
    }
    // Each finds out with the next message that it sends.
    for name in cloud.names() {
        has_no_bus(cloud, &name, "the broker takes no messages").await?;
    }

    let calm = ["set_vm_memory_high_watermark", "0.6"];
    broker(cloud)?.ctl(&calm, None).await?;
    recovers(cloud, world).await?;
    let left = named(&world.alice, Api::Network, "networks", "unheard").await?;
    ensure!(left == 0, "{left} networks are there");
    let left = named(&world.alice, Api::Compute, "servers", "unheard").await?;
    ensure!(left == 0, "{left} servers are there");
    a_server_boots(world).await
}

async fn memory_stays_flat_while_a_queue_is_full(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    /// After so many, whatever is made once and kept is there.
    const FIRST: usize = 100;
    const POSTS: usize = 600;
    /// As many at a time, of which some wait.
    const BESIDE: usize = 3 * WAITING;
    /// Bytes in each.
    const WEIGHT: usize = 200 * 1024;
    /// KiB. Those after the first hundred carry twice this together; what was under
    /// way then has been given back since, whatever else a service does meanwhile.
    const GROWTH: usize = 48 * 1024;

    let api = pid(cloud, "api")?;
    network_goes(cloud).await?;
    let body = json!({"network": {"name": "heavy", "description": "x".repeat(WEIGHT)}});
    let mut answers = stream::iter(0..POSTS)
        .map(|_| world.alice.post(Api::Network, "/networks", &body))
        .buffer_unordered(BESIDE);
    let (mut refused, mut full, mut first) = (0, 0, None);
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        // It was let in, and nobody came for it.
        if answer.status == 504 {
            continue;
        }
        is_told_to_come_back(&answer)?;
        refused += 1;
        if answer.text().contains("Too many messages are waiting") {
            full += 1;
        }
        if refused == FIRST {
            first = Some(resident(api)?);
        }
    }
    let first = first.context("hardly anything was refused")?;
    let last = resident(api)?;
    ensure!(
        full >= FIRST && refused >= POSTS * 3 / 4,
        "{full} of {refused} were refused by a full queue"
    );
    ensure!(
        last <= first + GROWTH,
        "{first} KiB after {FIRST}, {last} KiB after {POSTS}"
    );

    network_returns(cloud).await?;
    recovers(cloud, world).await?;
    // Those that were let in were not answered in time, and are not made later.
    let left = named(&world.alice, Api::Network, "networks", "heavy").await?;
    ensure!(left == 0, "{left} networks are there");
    a_server_boots(world).await
}

async fn a_database_that_goes_while_it_is_used_is_said_so(
    cloud: &mut TestCloud,
    world: &World,
) -> Result<()> {
    cloud.database()?.stop().await?;
    let asking = world.alice.at(&cloud.ports, BOUND)?;
    let body = json!({"server": world.server("unkept")});
    // Side by side: half a minute later nobody knows any more whether their token
    // was revoked, which would be another reason.
    let (shown, made) = futures::future::try_join(
        asking.get(Api::Compute, "/servers"),
        asking.post(Api::Compute, "/servers", &body),
    )
    .await?;
    is_refused_for(&shown, "database")?;
    is_refused_for(&made, "database")?;
    says(cloud, "api", "database api", "down", "").await?;

    cloud.database()?.resume().await?;
    recovers(cloud, world).await?;
    let left = named(&world.alice, Api::Compute, "servers", "unkept").await?;
    ensure!(left == 0, "{left} servers are there");
    a_server_boots(world).await
}

/// Waits until a process says that it has no bus, and why.
async fn has_no_bus(cloud: &TestCloud, process: &str, why: &str) -> Result<()> {
    says(cloud, process, "bus", "down", why).await
}

fn is_refused_for(answer: &Answer, why: &str) -> Result<()> {
    is_told_to_come_back(answer)?;
    ensure!(answer.text().contains(why), "{}", answer.text());
    Ok(())
}

/// The id of a process, while all of them run.
fn pid(cloud: &TestCloud, name: &str) -> Result<u32> {
    let (names, pids) = (cloud.names(), cloud.pids());
    ensure!(names.len() == pids.len(), "{pids:?} run of {names:?}");
    let at = names.iter().position(|it| it == name);
    Ok(pids[at.with_context(|| format!("no process {name}"))?])
}

/// KiB of memory that are resident.
fn resident(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let size = line.context("a process that has ended")?.trim();
    Ok(size.trim_end_matches("kB").trim().parse()?)
}

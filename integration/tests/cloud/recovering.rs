//! What the tests of bad days have in common: what goes away, what processes and
//! answers say meanwhile, and that all is well afterwards.

use std::time::Duration;

use anyhow::{Result, ensure};
use yakumo_integration::client::{Answer, Api, Client, list};
use yakumo_integration::cloud::TestCloud;
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, World};

use crate::broker;

/// Calls that may wait for a network service that is away.
pub const WAITING: usize = 10;

/// All processes at once, on a slow machine.
const START: Duration = Duration::from_secs(90);

/// Ends the network service, and lets few calls wait for it. Its queue for calls
/// outlives it by a minute.
pub async fn network_goes(cloud: &mut TestCloud) -> Result<()> {
    let short = format!("{{\"max-length\":{WAITING}}}");
    let policy = ["set_policy", "short", "^yakumo\\.network\\.calls$", &short];
    broker(cloud)?.ctl(&policy, None).await?;
    cloud.kill("network")
}

/// Starts it again, for which as many calls as usual may wait.
pub async fn network_returns(cloud: &mut TestCloud) -> Result<()> {
    cloud.launch("network")?;
    broker(cloud)?.ctl(&["clear_policy", "short"], None).await?;
    Ok(())
}

/// 503, and when to try again.
pub fn is_told_to_come_back(answer: &Answer) -> Result<()> {
    let header = answer.headers.get("retry-after");
    ensure!(
        answer.status == 503 && header.is_some(),
        "{} {:?} {}",
        answer.status,
        answer.headers,
        answer.text()
    );
    Ok(())
}

/// How many of a kind have this name.
pub async fn named(client: &Client, api: Api, kind: &str, name: &str) -> Result<usize> {
    let found = client.get(api, &format!("/{kind}")).await?.ok()?;
    let found = list(&found, kind)?.iter();
    Ok(found.filter(|it| it["name"] == name).count())
}

/// Waits until a process says that one of its components is in this state, and why.
pub async fn says(
    cloud: &TestCloud,
    process: &str,
    component: &str,
    status: &str,
    why: &str,
) -> Result<()> {
    let what = format!("{status}, the {component} of {process}");
    wait::until(&what, START, || async {
        // Its health is asked for before it listens.
        let Ok(health) = cloud.health(process).await else {
            return Ok(Look::NotYet("no health".into()));
        };
        let said = &health["components"][component];
        let reason = said["detail"].as_str().unwrap_or_default();
        Ok(if said["status"] == status && reason.contains(why) {
            Look::Yes(())
        } else {
            Look::NotYet(health.to_string())
        })
    })
    .await
}

/// Waits until all processes are well and answer, none of which may have ended
/// meanwhile.
pub async fn recovers(cloud: &mut TestCloud, world: &World) -> Result<()> {
    for name in cloud.names() {
        cloud.healthy(&name).await?;
    }
    let ended = cloud.ended()?;
    ensure!(ended.is_empty(), "{ended:?}");
    // Whoever verifies tokens has heard of identity again.
    cloud.answering().await?;
    for (api, path) in [(Api::Network, "/networks"), (Api::Volume, "/volumes")] {
        wait::until("an answer for everybody", BOUND, || async {
            let answer = world.alice.get(api, path).await?;
            Ok(match answer.status {
                200 => Look::Yes(()),
                _ => Look::NotYet(answer.text()),
            })
        })
        .await?;
    }
    Ok(())
}

/// A server runs, and is removed again.
pub async fn a_server_boots(world: &World) -> Result<()> {
    let server = world.running(&world.alice, "afterwards").await?;
    world.remove(&world.alice, &server).await
}

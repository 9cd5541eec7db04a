//! A cloud that is broken again and again while people use it. Afterwards what
//! they were told is compared with what is there: in the APIs, in the tables,
//! on the hosts' disks and on the broker.
//!
//! Who dies when, and what is asked for, follows from a seed. What happens in
//! between does not: a run with the same seed is as hard, but not the same.

mod adversary;
pub mod audit;
mod echo;
pub mod journal;
pub mod real_hosts;
mod user;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use yakumo_db::Backend;
use yakumo_testing::databases::Durability;

use crate::client::Api;
use crate::cloud::{Options, TestCloud};
use crate::real::{Host, RealCloud};
use crate::world::{self, World};
use adversary::Adversary;
use echo::Echo;
use user::User;

/// A user who stops ends what was begun within this.
const LAST_WORDS: Duration = Duration::from_secs(240);
/// Removing everything at the end.
const REMOVAL: Duration = Duration::from_secs(240);

/// What carries the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// Three hosts that exist in memory only.
    Simulated,
    /// Two real ones, whose guests boot.
    Libvirt,
}

/// What is to be done to a cloud.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What carries the guests.
    pub hypervisor: Hypervisor,
    /// How long it is broken.
    pub lasts: Duration,
    /// Where chance begins.
    pub seed: u64,
    /// The database server.
    pub database: Backend,
    /// People who use it at the same time, each with a project.
    pub users: usize,
    /// How often broker or database end.
    pub outage_every: Duration,
    /// How long everything is left alone before it is counted.
    pub quiet: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// HTTP requests that were sent.
    pub requests: u64,
    /// Things that were broken.
    pub faults: u64,
    /// What must not be.
    pub violations: Vec<String>,
    /// What may be, and is worth knowing.
    pub notes: Vec<String>,
}

/// Runs the plan; `say` hears what is being done.
pub async fn run(plan: &Plan, say: &(dyn Fn(&str) + Sync)) -> Result<Outcome> {
    // Nobody logs in a second time.
    let lifetime = plan.lasts.as_secs() + 3600;
    let options = Options {
        build_ms: 300,
        replicas: 2,
        hosts: 3,
        wired: true,
        durability: Durability::Durable,
        settings: vec![format!("identity.token_lifetime_seconds={lifetime}")],
        ..Options::default()
    };
    if plan.hypervisor == Hypervisor::Simulated {
        let cloud = TestCloud::distributed(plan.database, options).await?;
        let world = World::make(&cloud).await?;
        return run_on(plan, say, cloud, world, &[]).await;
    }
    let real = RealCloud::of_two_hosts(plan.database, options).await?;
    let network = real.carried_network("mesh", "10.77.0.0/24").await?;
    let (image, flavor) = (real.image.clone(), real.flavor.clone());
    let RealCloud {
        cloud,
        host,
        others,
        fabric,
        world,
        ..
    } = real;
    let world = World {
        image,
        flavor,
        network,
        ..world
    };
    let hosts: Vec<Host> = std::iter::once(host).chain(others).collect();
    let outcome = run_on(plan, say, cloud, world, &hosts).await;
    drop(hosts);
    drop(fabric);
    outcome
}

async fn run_on(
    plan: &Plan,
    say: &(dyn Fn(&str) + Sync),
    mut cloud: TestCloud,
    world: World,
    hosts: &[Host],
) -> Result<Outcome> {
    let world = Arc::new(world);
    // Guests that really boot are few on a small machine.
    let things = if hosts.is_empty() { 6 } else { 2 };
    let requests = Arc::new(AtomicU64::new(0));
    let echo = Echo::start(cloud.broker.as_ref().context("no broker")?, plan.seed).await?;

    let enough = CancellationToken::new();
    let mut users = Vec::new();
    for number in 0..plan.users {
        let name = format!("user-{number}");
        let client = world::member(&world.admin, &name, &format!("project-{number}")).await?;
        let path = format!("/os-quota-sets/{}", client.project_id);
        let quota = json!({"quota_set": {"instances": 50, "cores": 50, "ram": -1}});
        world.admin.put(Api::Compute, &path, &quota).await?.ok()?;
        let user = User::new(
            number,
            plan.seed,
            &client,
            &cloud.fronts,
            Arc::clone(&world),
            Arc::clone(&requests),
            things,
        )?;
        users.push(tokio::spawn(user.act(enough.clone())));
    }

    let mut adversary = Adversary::new(plan.seed, plan.outage_every);
    let begun = Instant::now();
    while begun.elapsed() < plan.lasts {
        adversary.turn(&mut cloud, &echo, say).await?;
    }
    adversary.relent(&mut cloud, &echo).await?;
    let mut outcome = Outcome {
        faults: adversary.faults(),
        violations: adversary.violations(),
        ..Outcome::default()
    };
    say("waiting for the users to end");
    enough.cancel();
    let mut journals = Vec::new();
    for user in users {
        let ended = tokio::time::timeout(LAST_WORDS, user).await;
        journals.push(ended.context("a user did not end")??);
    }
    say("holding still");
    tokio::time::sleep(plan.quiet).await;
    for (process, status) in cloud.ended()? {
        let violation = format!("{process} ended by itself: {status}");
        outcome.violations.push(violation);
    }

    say("counting");
    let mut audit = audit::Audit::new(&cloud, &world, &journals).with_hosts(hosts);
    audit.of_what_was_told().await?;
    audit.of_what_is_there().await?;
    say("removing everything");
    audit.remove_everything(REMOVAL).await?;
    audit.of_nothing().await?;
    outcome.violations.append(&mut audit.violations);
    outcome.notes.append(&mut audit.notes);
    for journal in &mut journals {
        outcome.violations.append(&mut journal.violations);
        outcome.notes.append(&mut journal.notes);
    }
    outcome
        .notes
        .push(format!("{} messages came twice", echo.count()));
    outcome.requests = requests.load(Ordering::Relaxed);
    drop(echo);
    if outcome.violations.is_empty() {
        cloud.done().await?;
    } else {
        let folder = cloud.keep();
        outcome
            .notes
            .push(format!("everybody's log is in {}", folder.display()));
    }
    Ok(outcome)
}

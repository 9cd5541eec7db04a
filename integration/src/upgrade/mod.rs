//! A cloud that is upgraded while people use it: it runs on the last release's
//! program at first, its schemas are brought up to date, and its processes are
//! replaced one by one. Nobody may notice.

mod load;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use yakumo_db::Backend;

use self::load::{Load, Tally};
use crate::cloud::{Options, TestCloud};
use crate::programs;
use crate::world::World;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The last release's program.
    pub previous: PathBuf,
    /// This release's.
    pub next: PathBuf,
    /// The database server.
    pub database: Backend,
    /// People who use it at the same time.
    pub users: usize,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Calls to the APIs.
    pub requests: u64,
    /// Processes that were replaced.
    pub replaced: usize,
    /// Calls that were told to come back (503 with `Retry-After`), and did.
    pub told_to_wait: u64,
    /// Calls that failed, in words.
    pub failed: Vec<String>,
}

/// Instances of each service that there may be several of.
const REPLICAS: usize = 2;
/// What a migration may take.
const MIGRATION: Duration = Duration::from_secs(300);
/// Processes that migrate at once.
const MIGRATORS: usize = 3;
/// How long a process that is taken out keeps the connections that it has.
const LET_END: Duration = Duration::from_secs(15);

/// Upgrades a cloud; `say` is told what is done.
pub async fn run(plan: &Plan, say: &(dyn Fn(&str) + Sync)) -> Result<Outcome> {
    let options = Options {
        replicas: REPLICAS,
        hosts: 2,
        balanced: true,
        program: Some(plan.previous.clone()),
        settings: vec![
            "api.quota.instances=200".into(),
            "api.quota.cores=200".into(),
        ],
        ..Options::default()
    };
    say("starting the last release");
    let mut cloud = TestCloud::distributed(plan.database, options).await?;
    let world = Arc::new(World::make(&cloud).await?);
    let load = Load::start(&world, plan.users);
    say("waiting for everybody to have used it once");
    load.goes_round().await?;

    say("migrating");
    let arguments = [
        "--config",
        &cloud.config("api")?.display().to_string(),
        "db",
        "migrate",
    ]
    .map(str::to_owned);
    let migrations = (0..MIGRATORS).map(|_| async {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        programs::run(&plan.next, &arguments, MIGRATION).await?.ok()
    });
    futures::future::try_join_all(migrations)
        .await
        .context("`yakumo db migrate`")?;
    load.goes_round().await?;

    let mut replaced = 0;
    for name in cloud.names() {
        say(&format!("replacing {name}"));
        if let Some(balancer) = &cloud.balancer {
            balancer.take_out(&name, LET_END).await;
        }
        let status = cloud.terminate(&name).await?;
        ensure!(status.success(), "{name} drained badly: {status}");
        cloud.use_program(&name, &plan.next)?;
        cloud.launch(&name)?;
        cloud.healthy(&name).await?;
        if let Some(balancer) = &cloud.balancer {
            balancer.put_back(&name);
        }
        replaced += 1;
        // Old and new ones together, for as long as everybody needs.
        load.goes_round().await?;
    }
    say("everything is replaced");
    load.goes_round().await?;
    let Tally {
        requests,
        told_to_wait,
        failed,
    } = load.stop().await?;
    if failed.is_empty() {
        cloud.done().await?;
    } else {
        say(&format!("the logs are in {}", cloud.keep().display()));
    }
    Ok(Outcome {
        requests,
        replaced,
        told_to_wait,
        failed,
    })
}

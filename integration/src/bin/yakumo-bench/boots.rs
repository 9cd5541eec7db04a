//! `POST /servers` to `ACTIVE`. All clients together watch what is still being
//! built by one list of servers, so that asking costs little.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::sync::oneshot;
use yakumo_integration::client::{Api, list, text};
use yakumo_integration::cloud::TestCloud;
use yakumo_integration::wait::hold_still;
use yakumo_integration::world::World;

use crate::report::{Report, count, millis, percentile};
use crate::setup;
use crate::usage::Cpu;

const REPETITIONS: usize = 3;
/// No new server is asked for after this long.
const BOUND: Duration = Duration::from_secs(12);
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

type Pending = Mutex<HashMap<String, (Instant, oneshot::Sender<()>)>>;

fn held(
    pending: &Pending,
) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, oneshot::Sender<()>)>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(world: &World, pending: &Pending) -> Result<()> {
    loop {
        let asked = Instant::now();
        let answer = world
            .admin
            .get(Api::Compute, "/servers?status=BUILD")
            .await?;
        let body = answer.ok()?;
        let building: HashSet<&str> = list(&body, "servers")?
            .iter()
            .filter_map(|server| server["id"].as_str())
            .collect();
        held(pending)
            .extract_if(|id, (known, _)| *known < asked && !building.contains(id.as_str()))
            .for_each(|(_, (_, done))| {
                let _ = done.send(());
            });
        hold_still(LOOK_EVERY).await;
    }
}

/// Boots servers, `concurrency` at a time, up to `number` or until `bound` has
/// passed; how long each took.
pub async fn boot(
    world: &World,
    number: usize,
    concurrency: usize,
    bound: Duration,
) -> Result<Vec<Duration>> {
    let pending = Arc::new(Pending::default());
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let worker = async || -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        while begun.elapsed() < bound {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= number {
                break;
            }
            let asked = Instant::now();
            let body = json!({"server": world.server(&format!("server-{index}"))});
            let made = world
                .admin
                .post(Api::Compute, "/servers", &body)
                .await?
                .ok()?;
            let (done, ready) = oneshot::channel();
            held(&pending).insert(text(&made, "/server/id")?, (Instant::now(), done));
            tokio::time::timeout(PATIENCE, ready)
                .await
                .context("a server is not built")??;
            took.push(asked.elapsed());
        }
        Ok(took)
    };
    let workers = futures::future::try_join_all((0..concurrency).map(|_| worker()));
    let all = tokio::select! {
        all = workers => all?,
        ended = watch(world, &pending) => {
            ended?;
            Vec::new()
        }
    };
    let errors = world
        .admin
        .get(Api::Compute, "/servers/detail?status=ERROR&limit=1")
        .await?
        .ok()?;
    let errors = list(&errors, "servers")?;
    ensure!(errors.is_empty(), "a server failed: {}", errors[0]["fault"]);
    Ok(all.into_iter().flatten().collect())
}

async fn measure(
    report: &mut Report,
    cloud: TestCloud,
    kind: &str,
    aims: (&'static str, &'static str),
) -> Result<()> {
    let world = setup::world(&cloud).await?;
    boot(&world, 30, 10, BOUND).await?;
    for _ in 0..REPETITIONS {
        for (concurrency, number) in [(10, 300), (100, 600)] {
            let name = format!("boots, {kind}, {concurrency} at a time");
            let cpu = Cpu::now()?;
            let begun = Instant::now();
            let mut took = boot(&world, number, concurrency, BOUND).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let cpu = cpu.since()?;
            let boots = count(took.len());
            report.add(&name, "boots/s", aims.0, boots / seconds);
            report.add(
                &format!("{name}, p50"),
                "ms",
                "",
                millis(percentile(&mut took, 0.5)),
            );
            report.add(
                &format!("{name}, p99"),
                "ms",
                "",
                millis(percentile(&mut took, 0.99)),
            );
            report.add(
                &format!("{name}, CPU of Yakumo"),
                "ms/boot",
                aims.1,
                cpu.cloud * 1e3 / boots,
            );
            if cpu.broker + cpu.database > 0.0 {
                report.add(
                    &format!("{name}, CPU of the broker"),
                    "ms/boot",
                    "",
                    cpu.broker * 1e3 / boots,
                );
                report.add(
                    &format!("{name}, CPU of the database"),
                    "ms/boot",
                    "",
                    cpu.database * 1e3 / boots,
                );
            }
        }
    }
    cloud.done().await
}

/// One process on SQLite.
pub async fn embedded(report: &mut Report) -> Result<()> {
    measure(
        report,
        setup::embedded().await?,
        "embedded",
        ("> 300", "< 5"),
    )
    .await
}

/// Eight processes on RabbitMQ and PostgreSQL.
pub async fn distributed(report: &mut Report) -> Result<()> {
    let cloud = setup::distributed().await?;
    measure(report, cloud, "distributed", ("> 150", "< 5")).await
}

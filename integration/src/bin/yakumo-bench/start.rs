//! From nothing to the first answers, and how much memory then rests.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use yakumo_integration::client::{Api, Client};
use yakumo_integration::cloud::TestCloud;
use yakumo_integration::config::ADMIN_PASSWORD;
use yakumo_integration::wait::hold_still;

use crate::report::{Report, millis};
use crate::{setup, usage};

const REPETITIONS: usize = 5;
const BOUND: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(2);

/// Until the first request is answered, and until somebody has logged in and
/// listed servers.
async fn one(cloud: &mut TestCloud) -> Result<(Duration, Duration)> {
    let client = Client::anonymous(&cloud.ports)?;
    let begun = Instant::now();
    cloud.launch("all")?;
    while client.get(Api::Identity, "").await.is_err() {
        ensure!(begun.elapsed() < BOUND, "no answer");
        hold_still(BETWEEN).await;
    }
    let first = begun.elapsed();
    loop {
        if let Ok(admin) = client.log_in("admin", ADMIN_PASSWORD, Some("admin")).await
            && let Ok(answer) = admin.get(Api::Compute, "/servers").await
            && answer.status == 200
        {
            return Ok((first, begun.elapsed()));
        }
        ensure!(begun.elapsed() < BOUND, "no list of servers");
        hold_still(BETWEEN).await;
    }
}

pub async fn run(report: &mut Report) -> Result<()> {
    let mut cloud = setup::embedded().await?;
    for _ in 0..REPETITIONS {
        cloud.terminate("all").await?;
        std::fs::remove_dir_all(cloud.folder().join("data"))?;
        let (first, usable) = one(&mut cloud).await?;
        report.add(
            "start on an empty folder, first answer",
            "ms",
            "< 1,000",
            millis(first),
        );
        report.add(
            "start on an empty folder, logged in and listed",
            "ms",
            "",
            millis(usable),
        );
        cloud.terminate("all").await?;
        let (first, usable) = one(&mut cloud).await?;
        report.add("start again, first answer", "ms", "< 1,000", millis(first));
        report.add(
            "start again, logged in and listed",
            "ms",
            "",
            millis(usable),
        );
        hold_still(Duration::from_secs(2)).await;
        let pid = cloud.pids().first().copied().context("no process")?;
        let before = usage::Cpu::now()?;
        hold_still(Duration::from_secs(2)).await;
        report.add(
            "resident memory, idle",
            "MiB",
            "< 100",
            usage::resident(pid)?,
        );
        report.add("CPU, idle", "ms/s", "", before.since()?.cloud * 500.0);
    }
    cloud.done().await
}

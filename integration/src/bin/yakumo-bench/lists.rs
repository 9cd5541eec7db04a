//! `GET /servers/detail` with 100, 1,000 and 10,000 servers in the project: the
//! time until the whole answer is there. Reading its JSON is not part of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use yakumo_integration::client::{Api, list};

use crate::boots::boot;
use crate::report::{Report, count, millis, percentile};
use crate::setup;
use crate::usage::Cpu;

const LOOKS: usize = 50;
/// How long the making of servers may take in all.
const BOUND: Duration = Duration::from_secs(300);

pub async fn run(report: &mut Report) -> Result<()> {
    let cloud = setup::embedded().await?;
    let world = setup::world(&cloud).await?;
    let token = world.admin.token.clone().context("no token")?;
    let url = world.admin.url(Api::Compute, "/servers/detail");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let begun = Instant::now();
    let mut there = 0;
    for wanted in [100, 1_000, 10_000] {
        let left = BOUND.saturating_sub(begun.elapsed());
        there += boot(&world, wanted - there, 50, left).await?.len();
        let cpu = Cpu::now()?;
        let mut took = Vec::new();
        let mut body = Bytes::new();
        for _ in 0..LOOKS {
            let asked = Instant::now();
            let answer = http.get(&url).header("X-Auth-Token", &token).send().await?;
            body = answer.error_for_status()?.bytes().await?;
            took.push(asked.elapsed());
        }
        let used = cpu.since()?.cloud;
        let first = list(&serde_json::from_slice(&body)?, "servers")?.len();
        let name = format!("first page ({first}) of {there} servers");
        report.add(
            &format!("{name}, p50"),
            "ms",
            "< 20",
            millis(percentile(&mut took, 0.5)),
        );
        report.add(
            &format!("{name}, p99"),
            "ms",
            "",
            millis(percentile(&mut took, 0.99)),
        );
        report.add(&format!("{name}, CPU"), "ms", "", used * 1e3 / count(LOOKS));
    }
    cloud.done().await
}

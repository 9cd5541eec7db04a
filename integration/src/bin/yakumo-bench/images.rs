//! 1 GiB into the image service and out again, over REST.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::json;
use yakumo_integration::client::{Api, text};

use crate::report::Report;
use crate::usage::Cpu;
use crate::{setup, usage};

const REPETITIONS: usize = 3;
const CHUNK: usize = 1 << 20;
const CHUNKS: u32 = 1024;

pub async fn run(report: &mut Report) -> Result<()> {
    let cloud = setup::embedded().await?;
    let admin = cloud.admin().await?;
    let token = admin.token.clone().context("no token")?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let pid = cloud.pids().first().copied().context("no process")?;
    let mut block = vec![0_u8; CHUNK];
    for (index, byte) in block.iter_mut().enumerate() {
        *byte = u8::try_from(index.wrapping_mul(2_654_435_761) >> 11 & 0xff)?;
    }
    // Shared, so that the client does not copy what it sends.
    let block = bytes::Bytes::from(block);
    for _ in 0..REPETITIONS {
        let body = json!({"name": "big", "disk_format": "raw", "container_format": "bare"});
        let made = admin.post(Api::Image, "/images", &body).await?.ok()?;
        let id = text(&made, "/id")?;
        let url = admin.url(Api::Image, &format!("/images/{id}/file"));
        for way in ["upload", "download"] {
            let before = usage::resident(pid)?;
            usage::forget_peak(pid)?;
            let cpu = Cpu::now()?;
            let begun = Instant::now();
            if way == "upload" {
                let block = block.clone();
                let stream = futures::stream::iter(0..CHUNKS)
                    .map(move |_| Ok::<_, std::io::Error>(block.clone()));
                let answer = http
                    .put(&url)
                    .header("X-Auth-Token", &token)
                    .header("Content-Type", "application/octet-stream")
                    .body(reqwest::Body::wrap_stream(stream))
                    .send()
                    .await?;
                ensure!(answer.status() == 204, "{}", answer.text().await?);
            } else {
                let answer = http.get(&url).header("X-Auth-Token", &token).send().await?;
                ensure!(answer.status() == 200, "{}", answer.text().await?);
                let mut stream = answer.bytes_stream();
                let mut size = 0;
                while let Some(chunk) = stream.next().await {
                    size += chunk?.len();
                }
                ensure!(
                    size == CHUNK * usize::try_from(CHUNKS)?,
                    "only {size} bytes"
                );
            }
            let seconds = begun.elapsed().as_secs_f64();
            let megabytes = f64::from(CHUNKS) * 1.048_576;
            report.add(
                &format!("image {way}, 1 GiB"),
                "MB/s",
                "> 500",
                megabytes / seconds,
            );
            report.add(
                &format!("image {way}, peak over idle"),
                "MiB",
                "< 64",
                usage::peak(pid)? - before,
            );
            report.add(
                &format!("image {way}, CPU"),
                "s/GiB",
                "",
                cpu.since()?.cloud,
            );
        }
        admin
            .delete(Api::Image, &format!("/images/{id}"))
            .await?
            .with_status(204)?;
    }
    cloud.done().await
}

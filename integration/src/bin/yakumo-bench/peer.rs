//! oslo.messaging as the bus's peer: a server and a caller, each a Python
//! process of its own, on the same broker.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const SCRIPT: &str = include_str!("peer.py");
/// An answer that takes longer never comes.
const BOUND: Duration = Duration::from_secs(60);

struct Process {
    // Killed when dropped.
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(role: &str, url: &str) -> Result<Self> {
        let folder = std::env::var_os("YAKUMO_BENCH_BUS_PEER").context(
            "YAKUMO_BENCH_BUS_PEER is not set: the virtual environment with oslo.messaging, which `cargo xtask bench` makes",
        )?;
        let mut child = Command::new(PathBuf::from(folder).join("bin/python"))
            .args(["-c", SCRIPT, role, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting oslo.messaging")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let mut process = Self {
            _child: child,
            input,
            output: BufReader::new(output).lines(),
        };
        let said: String = process.answer().await?;
        ensure!(said == "ready", "the peer said {said:?}");
        Ok(process)
    }

    async fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = tokio::time::timeout(BOUND, self.output.next_line())
            .await
            .context("the peer does not answer")??
            .context("the peer ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    async fn ask<T: DeserializeOwned>(&mut self, question: &str) -> Result<T> {
        self.input.write_all(question.as_bytes()).await?;
        self.answer().await
    }
}

/// Both sides.
pub struct Peer {
    server: Process,
    client: Process,
}

impl Peer {
    /// Starts both; `url` is a broker's, in AMQP's form.
    pub async fn start(url: &str) -> Result<Self> {
        let url = url.replacen("amqp://", "rabbit://", 1);
        Ok(Self {
            server: Process::start("serve", &url).await?,
            client: Process::start("call", &url).await?,
        })
    }

    /// CPU seconds that both sides have used.
    pub async fn cpu(&mut self) -> Result<f64> {
        Ok(self.server.ask::<f64>("cpu\n").await? + self.client.ask::<f64>("cpu\n").await?)
    }

    /// How long each of `number` calls took, or of as many as `bound` allows.
    pub async fn call(
        &mut self,
        concurrency: usize,
        number: usize,
        bound: Duration,
    ) -> Result<Vec<Duration>> {
        let question = format!("call {concurrency} {number} {}\n", bound.as_secs_f64());
        let took: Vec<f64> = self.client.ask(&question).await?;
        Ok(took.into_iter().map(Duration::from_secs_f64).collect())
    }
}

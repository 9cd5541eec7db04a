//! Breaks things, and mends them after a while.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::echo::Echo;
use crate::cloud::TestCloud;

/// Between two things that are broken.
const EVERY: Duration = Duration::from_secs(3);
/// How soon what was broken long enough is mended.
const TICK: Duration = Duration::from_millis(100);
/// Longer than a worker's lease, and than the bus waits for a heartbeat.
const STOPPED: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Cut,
    Slow,
    Echo,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kill => "killed",
            Self::Stop => "stopped",
            Self::Cut => "cut off",
            Self::Slow => "slowed down",
            Self::Echo => "hears things twice",
        })
    }
}

struct Broken {
    fault: Fault,
    process: String,
    until: Instant,
}

/// See the module.
pub struct Adversary {
    rng: StdRng,
    broken: Vec<Broken>,
    outage_every: Duration,
    last_outage: Instant,
    faults: u64,
    violations: Vec<String>,
}

impl Adversary {
    pub fn new(seed: u64, outage_every: Duration) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            broken: Vec::new(),
            outage_every,
            last_outage: Instant::now(),
            faults: 0,
            violations: Vec::new(),
        }
    }

    pub fn faults(&self) -> u64 {
        self.faults
    }

    pub fn violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Breaks one thing, and lets a few seconds pass.
    pub async fn turn(
        &mut self,
        cloud: &mut TestCloud,
        echo: &Echo,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        self.look_for_the_dead(cloud)?;
        if self.last_outage.elapsed() >= self.outage_every {
            self.outage(cloud, say).await?;
            self.last_outage = Instant::now();
        } else {
            self.fault(cloud, echo, say)?;
        }
        self.faults += 1;
        let begun = Instant::now();
        while begun.elapsed() < EVERY {
            tokio::time::sleep(TICK).await;
            self.mend(cloud, echo, Instant::now())?;
        }
        Ok(())
    }

    /// Nothing that is done here is a reason for a process to end.
    fn look_for_the_dead(&mut self, cloud: &mut TestCloud) -> Result<()> {
        for (process, status) in cloud.ended()? {
            let violation = format!("{process} ended by itself: {status}");
            self.violations.push(violation);
            cloud.launch(&process)?;
        }
        Ok(())
    }

    fn fault(
        &mut self,
        cloud: &mut TestCloud,
        echo: &Echo,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let names: Vec<String> = cloud
            .names()
            .into_iter()
            .filter(|name| !self.broken.iter().any(|it| it.process == *name))
            .collect();
        let Some(process) = names.choose(&mut self.rng).cloned() else {
            return Ok(());
        };
        let faults = [
            Fault::Kill,
            Fault::Kill,
            Fault::Stop,
            Fault::Cut,
            Fault::Slow,
            Fault::Echo,
        ];
        let fault = *faults.choose(&mut self.rng).context("no faults")?;
        let millis = |rng: &mut StdRng, from, to| Duration::from_millis(rng.random_range(from..to));
        let lasts = match fault {
            Fault::Kill => {
                cloud.kill(&process)?;
                millis(&mut self.rng, 0, 4000)
            }
            Fault::Stop => {
                cloud.signal(&process, Signal::SIGSTOP)?;
                STOPPED
            }
            Fault::Cut => {
                let refuses = self.rng.random_bool(0.5);
                for wire in cloud.wires(&process)? {
                    wire.refuse(refuses);
                    wire.cut();
                }
                millis(&mut self.rng, 500, 5000)
            }
            Fault::Slow => {
                let delay = millis(&mut self.rng, 20, 500);
                for wire in cloud.wires(&process)? {
                    wire.slow(delay);
                }
                millis(&mut self.rng, 2000, 8000)
            }
            Fault::Echo => {
                echo.often(300);
                millis(&mut self.rng, 2000, 8000)
            }
        };
        let process = match fault {
            Fault::Echo => "everybody".to_owned(),
            _ => process,
        };
        say(&format!(
            "{process} {fault} for {:.1} s",
            lasts.as_secs_f64()
        ));
        self.broken.push(Broken {
            fault,
            process,
            until: Instant::now() + lasts,
        });
        Ok(())
    }

    /// The broker or the database ends and comes back.
    async fn outage(&mut self, cloud: &TestCloud, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let away = Duration::from_millis(self.rng.random_range(0..3000));
        let hard = self.rng.random_bool(0.5);
        let how = if hard { "is killed" } else { "is stopped" };
        if self.rng.random_bool(0.5) {
            say(&format!("the broker {how}"));
            let broker = cloud.broker.as_ref().context("no broker")?;
            if hard {
                broker.kill().await?;
            } else {
                broker.stop().await?;
            }
            tokio::time::sleep(away).await;
            broker.resume().await
        } else {
            say(&format!("the database {how}"));
            let database = cloud.database()?;
            if hard {
                database.kill().await?;
            } else {
                database.stop().await?;
            }
            tokio::time::sleep(away).await;
            database.resume().await
        }
    }

    fn mend(&mut self, cloud: &mut TestCloud, echo: &Echo, now: Instant) -> Result<()> {
        let due: Vec<Broken> = self.broken.extract_if(.., |it| it.until <= now).collect();
        for it in due {
            match it.fault {
                Fault::Kill => cloud.launch(&it.process)?,
                Fault::Stop => cloud.signal(&it.process, Signal::SIGCONT)?,
                Fault::Cut => {
                    for wire in cloud.wires(&it.process)? {
                        wire.refuse(false);
                    }
                }
                Fault::Slow => {
                    for wire in cloud.wires(&it.process)? {
                        wire.slow(Duration::ZERO);
                    }
                }
                Fault::Echo => echo.often(0),
            }
        }
        Ok(())
    }

    /// Mends all that is broken.
    pub async fn relent(&mut self, cloud: &mut TestCloud, echo: &Echo) -> Result<()> {
        self.look_for_the_dead(cloud)?;
        self.mend(cloud, echo, Instant::now() + Duration::from_secs(3600))?;
        for name in cloud.names() {
            if let Err(error) = cloud.healthy(&name).await {
                self.violations.push(format!("{error:#}"));
            }
        }
        Ok(())
    }
}

//! People who use all parts of a cloud, over and over, and note every call that
//! does not go as it must.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Answer, Api, Client, text};
use crate::wait::{self, Look};
use crate::world::{PASSWORD, World};

/// A server, a volume or a removal takes at most so long.
const BOUND: Duration = Duration::from_secs(120);
/// Everybody is through once within this.
const ROUND: Duration = Duration::from_secs(300);
/// A call that is told to come back does so at most this often.
const PATIENCE: u32 = 5;

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub requests: u64,
    pub told_to_wait: u64,
    pub failed: Vec<String>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    told_to_wait: AtomicU64,
    failed: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// See the module.
pub struct Load {
    counts: Arc<Counts>,
    /// Of each person, how often they are through.
    rounds: Vec<Arc<AtomicU64>>,
    people: Vec<JoinHandle<()>>,
}

impl Load {
    /// Lets so many people begin.
    pub fn start(world: &Arc<World>, people: usize) -> Self {
        let counts = Arc::<Counts>::default();
        let rounds: Vec<_> = (0..people).map(|_| Arc::<AtomicU64>::default()).collect();
        let people = rounds
            .iter()
            .enumerate()
            .map(|(number, rounds)| {
                let person = Person {
                    number,
                    world: Arc::clone(world),
                    counts: Arc::clone(&counts),
                };
                tokio::spawn(person.live(Arc::clone(rounds)))
            })
            .collect();
        Self {
            counts,
            rounds,
            people,
        }
    }

    /// Waits until everybody has begun anew and come to the end of it.
    pub async fn goes_round(&self) -> Result<()> {
        let now = || -> Vec<u64> {
            let all = self.rounds.iter();
            all.map(|it| it.load(Ordering::SeqCst)).collect()
        };
        // The one that they are in may have begun before.
        let wanted: Vec<u64> = now().iter().map(|rounds| rounds + 2).collect();
        wait::until("everybody through once more", ROUND, || async {
            let rounds = now();
            Ok(
                if rounds
                    .iter()
                    .zip(&wanted)
                    .all(|(now, wanted)| now >= wanted)
                {
                    Look::Yes(())
                } else {
                    Look::NotYet(format!("{rounds:?} of {wanted:?}"))
                },
            )
        })
        .await
    }

    /// Lets everybody finish.
    pub async fn stop(self) -> Result<Tally> {
        self.counts.over.store(true, Ordering::SeqCst);
        for person in self.people {
            tokio::time::timeout(ROUND, person)
                .await
                .context("somebody does not end")??;
        }
        let failed = self
            .counts
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(Tally {
            requests: self.counts.requests.load(Ordering::SeqCst),
            told_to_wait: self.counts.told_to_wait.load(Ordering::SeqCst),
            failed: failed.clone(),
        })
    }
}

struct Person {
    number: usize,
    world: Arc<World>,
    counts: Arc<Counts>,
}

/// One person in one round.
struct Visit<'a> {
    client: Client,
    counts: &'a Counts,
    name: String,
}

impl Person {
    async fn live(self, rounds: Arc<AtomicU64>) {
        let mut round = 0_u64;
        while !self.counts.over.load(Ordering::SeqCst) {
            round += 1;
            if let Err(error) = self.once(round).await {
                let mut failed = self
                    .counts
                    .failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                failed.push(format!("person {}, round {round}: {error:#}", self.number));
            }
            rounds.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn once(&self, round: u64) -> Result<()> {
        let (user, project) = match self.number % 2 {
            0 => ("alice", "alpha"),
            _ => ("bob", "beta"),
        };
        // Each call comes over a connection of its own, as it does from most
        // programs: nobody is surprised by the end of an idle one.
        let anonymous = self.world.alice.without_pool()?;
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        let client = anonymous.log_in(user, PASSWORD, Some(project)).await?;
        let visit = Visit {
            client,
            counts: &self.counts,
            name: format!("person-{}-{round}", self.number),
        };
        visit.looks_around().await?;
        visit.keeps_an_object().await?;
        visit.keeps_an_image().await?;
        visit.makes_a_network().await?;
        visit.makes_a_volume().await?;
        visit.runs_a_server(&self.world).await
    }
}

impl Visit<'_> {
    /// One call, which must be answered with `wanted`. Only a call that is told
    /// when to come back is tried again.
    async fn call(
        &self,
        wanted: u16,
        method: Method,
        api: Api,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let key = format!(
            "{}-{}",
            self.name,
            self.counts.requests.load(Ordering::SeqCst)
        );
        let headers: &[(&str, &str)] = match (&method, api) {
            (&Method::POST, _) => &[("Idempotency-Key", key.as_str())],
            _ => &[],
        };
        let mut tries = 0;
        loop {
            self.counts.requests.fetch_add(1, Ordering::SeqCst);
            let answer = self
                .client
                .send(method.clone(), api, path, headers, body)
                .await?;
            tries += 1;
            if !self.is_told_to_wait(&answer, tries).await {
                return answer.with_status(wanted);
            }
        }
    }

    async fn is_told_to_wait(&self, answer: &Answer, tries: u32) -> bool {
        let after = answer.headers.get("retry-after");
        let after = after.and_then(|it| it.to_str().ok()?.parse().ok());
        let (503, Some(seconds)) = (answer.status, after) else {
            return false;
        };
        if tries > PATIENCE {
            return false;
        }
        self.counts.told_to_wait.fetch_add(1, Ordering::SeqCst);
        wait::hold_still(Duration::from_secs(seconds)).await;
        true
    }

    async fn get(&self, api: Api, path: &str) -> Result<Answer> {
        self.call(200, Method::GET, api, path, None).await
    }

    async fn looks_around(&self) -> Result<()> {
        for (api, path) in [
            (Api::Compute, "/servers/detail"),
            (Api::Compute, "/flavors/detail"),
            (Api::Network, "/networks"),
            (Api::Network, "/ports"),
            (Api::Volume, "/volumes/detail"),
            (Api::Image, "/images"),
        ] {
            self.get(api, path).await?;
        }
        Ok(())
    }

    async fn upload(&self, wanted: u16, api: Api, path: &str, bytes: &[u8]) -> Result<()> {
        let mut tries = 0;
        loop {
            self.counts.requests.fetch_add(1, Ordering::SeqCst);
            let answer = self.client.upload(api, path, bytes.to_vec()).await?;
            tries += 1;
            if !self.is_told_to_wait(&answer, tries).await {
                answer.with_status(wanted)?;
                return Ok(());
            }
        }
    }

    async fn keeps_an_object(&self) -> Result<()> {
        let container = format!("/{}", self.name);
        let object = format!("{container}/o");
        self.call(201, Method::PUT, Api::ObjectStore, &container, None)
            .await?;
        let bytes = self.name.repeat(1000).into_bytes();
        self.upload(201, Api::ObjectStore, &object, &bytes).await?;
        let found = self.get(Api::ObjectStore, &object).await?;
        anyhow::ensure!(found.bytes == bytes, "{object} is not what it was");
        for path in [&object, &container] {
            self.call(204, Method::DELETE, Api::ObjectStore, path, None)
                .await?;
        }
        Ok(())
    }

    async fn keeps_an_image(&self) -> Result<()> {
        let body = json!({"name": self.name, "disk_format": "raw", "container_format": "bare"});
        let made = self
            .call(201, Method::POST, Api::Image, "/images", Some(&body))
            .await?;
        let path = format!("/images/{}", text(&made.body, "/id")?);
        let (file, bytes) = (format!("{path}/file"), vec![7; 200_000]);
        self.upload(204, Api::Image, &file, &bytes).await?;
        let found = self.get(Api::Image, &file).await?;
        anyhow::ensure!(found.bytes == bytes, "{file} is not what it was");
        self.call(204, Method::DELETE, Api::Image, &path, None)
            .await?;
        Ok(())
    }

    async fn makes_a_network(&self) -> Result<()> {
        let body = json!({"network": {"name": self.name}});
        let made = self
            .call(201, Method::POST, Api::Network, "/networks", Some(&body))
            .await?;
        let path = format!("/networks/{}", text(&made.body, "/network/id")?);
        self.get(Api::Network, &path).await?;
        self.call(204, Method::DELETE, Api::Network, &path, None)
            .await?;
        Ok(())
    }

    async fn makes_a_volume(&self) -> Result<()> {
        let body = json!({"volume": {"name": self.name, "size": 1}});
        let made = self
            .call(202, Method::POST, Api::Volume, "/volumes", Some(&body))
            .await?;
        let path = format!("/volumes/{}", text(&made.body, "/volume/id")?);
        self.becomes(Api::Volume, &path, "/volume/status", "available")
            .await?;
        self.call(202, Method::DELETE, Api::Volume, &path, None)
            .await?;
        self.goes(Api::Volume, &path).await
    }

    async fn runs_a_server(&self, world: &World) -> Result<()> {
        let body = json!({"server": world.server(&self.name)});
        let made = self
            .call(202, Method::POST, Api::Compute, "/servers", Some(&body))
            .await?;
        let path = format!("/servers/{}", text(&made.body, "/server/id")?);
        self.becomes(Api::Compute, &path, "/server/status", "ACTIVE")
            .await?;
        self.call(204, Method::DELETE, Api::Compute, &path, None)
            .await?;
        self.goes(Api::Compute, &path).await
    }

    async fn becomes(&self, api: Api, path: &str, pointer: &str, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let shown = self.get(api, path).await?;
            let status = text(&shown.body, pointer)?;
            if status == wanted {
                return Ok(());
            }
            anyhow::ensure!(
                !status.eq_ignore_ascii_case("error") && begun.elapsed() < BOUND,
                "{path} is {status} and not {wanted}: {}",
                shown.body
            );
            wait::hold_still(Duration::from_millis(100)).await;
        }
    }

    async fn goes(&self, api: Api, path: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.counts.requests.fetch_add(1, Ordering::SeqCst);
            let shown = self.client.get(api, path).await?;
            match shown.status {
                404 => return Ok(()),
                200 => {}
                _ if self.is_told_to_wait(&shown, 1).await => {}
                _ => return shown.with_status(404).map(drop),
            }
            anyhow::ensure!(
                begun.elapsed() < BOUND,
                "{path} does not go: {}",
                shown.body
            );
            wait::hold_still(Duration::from_millis(100)).await;
        }
    }
}

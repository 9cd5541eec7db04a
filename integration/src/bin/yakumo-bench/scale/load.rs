//! What is asked of a cloud of many hosts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use yakumo_auth::{JwsContextSeal, SealConfig};
use yakumo_contracts::scheduler::{ChooseHostsRequest, Resources, SchedulerClient};
use yakumo_integration::client::{Api, Client, list, text};
use yakumo_integration::cloud::TestCloud;
use yakumo_integration::wait::{self, Look, hold_still};
use yakumo_integration::world::{World, member};
use yakumo_rpc::{AmqpConfig, Bus, Target};
use yakumo_service::system_env;
use yakumo_types::{Env, RequestContext, ServerId};

use super::PATIENCE;
use super::seed::Seed;
use crate::report::{Report, count, millis, percentile};
use crate::usage;

/// Hosts that are asked at the same time.
const AT_A_TIME: usize = 200;
/// Requests for servers that are made at the same time.
const CLIENTS: usize = 100;
/// Projects that the servers of a storm belong to.
const PROJECTS: usize = 50;
/// How long decisions are asked for.
const DECIDING: Duration = Duration::from_secs(5);
const LOOKS: usize = 20;

/// Speaks on the bus as a control service does.
pub struct Driver {
    bus: Bus,
    env: Env,
}

impl Driver {
    /// Connects.
    pub async fn start(cloud: &TestCloud) -> Result<Self> {
        let env = system_env();
        let keys = SealConfig {
            private_key: cloud.context_key.clone(),
            public_keys: Vec::new(),
        };
        let seal = JwsContextSeal::new(&keys, env.clone())?;
        let broker = cloud.broker.as_ref().context("no broker")?;
        let config = AmqpConfig::new(broker.url(), "bench");
        let bus = Bus::connect(config, env.clone(), Arc::new(seal)).await?;
        Ok(Self { bus, env })
    }

    fn client(&self) -> SchedulerClient {
        SchedulerClient::new(self.bus.clone(), Target::service("scheduler"))
    }

    fn choice(&self) -> ChooseHostsRequest {
        ChooseHostsRequest {
            server_id: self.env.id::<ServerId>().to_string(),
            wanted: Some(Resources {
                vcpus: 1,
                memory_mib: 64,
                disk_gib: 1,
            }),
            limit: 5,
            ..ChooseHostsRequest::default()
        }
    }

    /// Waits until the scheduler knows so many hosts.
    pub async fn sees(&self, hosts: usize) -> Result<()> {
        wait::until("all hosts are known", PATIENCE, async || {
            let context = RequestContext::internal(self.env.id());
            Ok(
                match self.client().choose_hosts(&context, self.choice()).await {
                    Ok(reply) if reply.considered as usize >= hosts => Look::Yes(()),
                    Ok(reply) => Look::NotYet(format!("{} hosts", reply.considered)),
                    Err(fault) => Look::NotYet(fault.to_string()),
                },
            )
        })
        .await
    }

    /// Waits until each host answers.
    pub async fn all_hear(&self, hosts: usize) -> Result<()> {
        let begun = Instant::now();
        futures::stream::iter(1..=hosts)
            .map(async |number| {
                let target = Target::host(format!("sim-{number:04}"));
                while self
                    .bus
                    .echo(&target, Duration::from_secs(5))
                    .await
                    .is_err()
                {
                    ensure!(begun.elapsed() < PATIENCE, "host {number} does not answer");
                    hold_still(Duration::from_millis(250)).await;
                }
                Ok(())
            })
            .buffer_unordered(AT_A_TIME)
            .collect::<Vec<Result<()>>>()
            .await
            .into_iter()
            .collect()
    }

    /// Asks for hosts without taking them: how many decisions a second, and the
    /// scheduler's CPU for each in microseconds.
    pub async fn decisions(&self, report: &mut Report) -> Result<(f64, f64)> {
        let scheduler = || -> Result<f64> {
            let all = usage::by_service()?;
            Ok(all.get("scheduler").context("no scheduler")?.cpu)
        };
        let (cpu, begun, made) = (scheduler()?, Instant::now(), AtomicUsize::new(0));
        let worker = async || -> Result<()> {
            while begun.elapsed() < DECIDING {
                let context = RequestContext::internal(self.env.id());
                self.client().choose_hosts(&context, self.choice()).await?;
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        futures::future::try_join_all((0..16).map(|_| worker())).await?;
        let made = count(made.into_inner());
        let rate = made / begun.elapsed().as_secs_f64();
        let micros = (scheduler()? - cpu) * 1e6 / made;
        report.add("scheduling decisions", "1/s", "", rate);
        report.add("CPU of a scheduling decision", "µs", "< 500", micros);
        Ok((rate, micros))
    }
}

async fn boot(client: &Client, world: &World, name: &str) -> Result<String> {
    let body = json!({"server": world.server(name)});
    let made = client.post(Api::Compute, "/servers", &body).await?.ok()?;
    text(&made, "/server/id")
}

/// One server that runs.
pub async fn one(world: &World) -> Result<()> {
    let id = boot(&world.admin, world, "one").await?;
    world.admin.server_becomes(&id, "ACTIVE", PATIENCE).await?;
    Ok(())
}

/// Somebody in each project of a storm.
pub async fn people(world: &World) -> Result<Vec<Client>> {
    let mut people = Vec::new();
    for number in 0..PROJECTS {
        let name = format!("storm-{number}");
        people.push(member(&world.admin, &name, &name).await?);
    }
    Ok(people)
}

/// Asks for servers of many projects as fast as answers come, and waits until
/// all of them run.
pub async fn storm(world: &World, people: &[Client], boots: usize) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = async || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= boots {
                break;
            }
            let Some(client) = people.get(number % people.len()) else {
                break;
            };
            if let Err(error) = boot(client, world, &format!("storm-{number}")).await {
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("{error:#}"));
            }
        }
    };
    futures::future::join_all((0..CLIENTS).map(|_| worker())).await;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(
        failed.is_empty(),
        "{} requests failed, the first: {}",
        failed.len(),
        failed.first().map_or("", String::as_str)
    );
    let one = async |status: &str| -> Result<Option<Value>> {
        let path = format!("/servers/detail?all_tenants=1&status={status}&limit=1");
        let answer = world.admin.get(Api::Compute, &path).await?.ok()?;
        Ok(list(&answer, "servers")?.first().cloned())
    };
    wait::until("no server is being built", PATIENCE, async || {
        Ok(match one("BUILD").await? {
            None => Look::Yes(()),
            Some(_) => Look::NotYet("servers are being built".into()),
        })
    })
    .await?;
    let failed = one("ERROR").await?;
    ensure!(
        failed.is_none(),
        "servers failed, for example: {}",
        failed.unwrap_or_default()["fault"]
    );
    Ok(())
}

/// Milliseconds of the first page of the large project, and of one behind half
/// of all servers.
pub async fn pages(report: &mut Report, world: &World, seed: &Seed) -> Result<(f64, f64)> {
    let middle = super::seed::server_id(seed.servers / 2);
    let mut median = async |name: &str, path: String| -> Result<f64> {
        let token = world.admin.token.clone().context("no token")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let url = world.admin.url(Api::Compute, &path);
        let mut took = Vec::new();
        for _ in 0..LOOKS {
            let asked = Instant::now();
            let answer = http.get(&url).header("X-Auth-Token", &token).send().await?;
            answer.error_for_status()?.bytes().await?;
            took.push(asked.elapsed());
        }
        let median = millis(percentile(&mut took, 0.5));
        report.add(name, "ms", "", median);
        Ok(median)
    };
    let first = median("first page of the large project", "/servers/detail".into()).await?;
    let deep = median(
        "page behind half of all servers",
        format!("/servers/detail?all_tenants=1&marker={middle}"),
    )
    .await?;
    Ok((first, deep))
}

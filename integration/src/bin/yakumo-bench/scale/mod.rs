//! Many hosts: simulated ones with compute, network and storage agents, each
//! with a queue of its own, on RabbitMQ and PostgreSQL. What they cost while
//! nothing happens, what a storm of boots costs, how old the schedulers' view
//! is, and how long everything takes to come back after the broker did.

mod load;
mod scrape;
mod seed;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;
use yakumo_db::Backend;
use yakumo_integration::cloud::{Options as CloudOptions, TestCloud};
use yakumo_integration::wait::{self, Look, hold_still};
use yakumo_integration::world::{World, network};

use self::load::Driver;
use self::scrape::Ages;
use self::seed::Seed;
use crate::report::Report;
use crate::setup;
use crate::usage::{self, Used};

/// How many hosts.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Of `scale`: simulated hosts.
    #[arg(long, default_value_t = 10_000)]
    hosts: usize,
    /// Of `scale`: servers that are there before; a tenth of them in one
    /// default security group.
    #[arg(long, default_value_t = 100_000)]
    servers: usize,
    /// Of `scale`: servers that are booted all at once.
    #[arg(long, default_value_t = 10_000)]
    boots: usize,
    /// Of `scale`: how hosts reach the broker.
    #[arg(long, value_enum, default_value = "shared")]
    connections: Connections,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Connections {
    /// All over one connection.
    Shared,
    /// Each over a connection of its own.
    Each,
}

/// How long things may take that are not measured, and the longest of those
/// that are.
const PATIENCE: Duration = Duration::from_secs(1800);
/// What idle hosts cost is counted for so long.
const IDLE: Duration = Duration::from_secs(60);
/// Before that, what a start began may end.
const SETTLE: Duration = Duration::from_secs(60);
/// One in so many servers is in the large project, whose servers are on one in
/// so many hosts.
const LARGE: usize = 10;
/// vCPUs of a host, at the least, and how many times its share of all servers it
/// has room for: a storm is not to end at hosts that are full.
const VCPUS: usize = 64;
const ROOM: usize = 2;

fn settings(options: &Options) -> Vec<String> {
    let mut settings = setup::options().settings;
    let connections = match options.connections {
        Connections::Shared => "shared",
        Connections::Each => "each",
    };
    settings.extend([
        // What a host has by itself, and not what a test is in a hurry for.
        "compute.simulated.memory_mib=262144".into(),
        "compute.simulated.disk_gib=10240".into(),
        "compute.simulated.flush=false".into(),
        "compute.heartbeat_seconds=10".into(),
        "api.heartbeat_seconds=10".into(),
        "network.host.announce_seconds=10".into(),
        "volume.host.announce_seconds=10".into(),
        format!("compute.simulated.hosts={}", options.hosts),
        format!("compute.simulated.connections={connections}"),
    ]);
    settings
}

/// Measures; returns all in one sentence.
pub async fn run(report: &mut Report, options: &Options) -> Result<String> {
    let mut cloud = TestCloud::distributed(
        Backend::Postgres,
        CloudOptions {
            vcpus: vcpus(options)?,
            trusted_hosts: true,
            start: PATIENCE,
            settings: settings(options),
            ..setup::options()
        },
    )
    .await?;
    let driver = Driver::start(&cloud).await?;
    driver.sees(options.hosts).await?;
    let world = wide_world(&cloud).await?;
    let mut said = Said::default();
    let template = template(&world).await?;

    say("planting servers");
    cloud.terminate("compute").await?;
    let large = options.servers / LARGE;
    let seed = Seed {
        hosts: options.hosts,
        servers: options.servers,
        large,
        large_hosts: (options.hosts / LARGE).max(1),
        template,
    };
    seed.plant(&cloud).await?;

    say("all hosts start");
    let (begun, before) = (Instant::now(), usage::by_service()?);
    cloud.launch("compute")?;
    cloud.healthy("compute").await?;
    driver.all_hear(options.hosts).await?;
    let took = begun.elapsed().as_secs_f64();
    report.add("all hosts started", "s", "", took);
    add_usage(report, "start", &before, took)?;
    hold_still(SETTLE).await;

    say("nothing happens");
    let (begun, before) = (Instant::now(), usage::by_service()?);
    let ages = Ages::now(&cloud).await?;
    hold_still(IDLE).await;
    let ages = Ages::now(&cloud).await?.since(&ages);
    said.cores = add_usage(report, "idle", &before, begun.elapsed().as_secs_f64())?;
    said.idle_age = ages.percentile(0.99);
    report.add(
        "idle: age of the schedulers' view, p99",
        "s",
        "< 2",
        said.idle_age,
    );

    say("pages of servers");
    said.pages = load::pages(report, &world, &seed).await?;

    say("a storm of boots");
    let people = load::people(&world).await?;
    let (begun, before) = (Instant::now(), usage::by_service()?);
    let ages = Ages::now(&cloud).await?;
    load::storm(&world, &people, options.boots).await?;
    said.storm = begun.elapsed().as_secs_f64();
    let ages = Ages::now(&cloud).await?.since(&ages);
    said.age = ages.percentile(0.99);
    report.add("storm: until all are ACTIVE", "s", "< 120", said.storm);
    report.add(
        "storm: age of the schedulers' view, p99",
        "s",
        "< 2",
        said.age,
    );
    said.boot = add_usage(report, "storm", &before, said.storm)? * said.storm * 1e3
        / crate::report::count(options.boots);
    report.add("storm: CPU of all for a boot", "ms", "", said.boot);

    say("decisions");
    let (rate, micros) = driver.decisions(report).await?;
    (said.decisions, said.decision) = (rate, micros);

    say("the broker dies and comes back");
    let broker = cloud.broker.as_ref().context("no broker")?;
    broker.kill().await?;
    broker.resume().await?;
    let begun = Instant::now();
    driver.all_hear(options.hosts).await?;
    load::one(&world).await?;
    said.recovery = begun.elapsed().as_secs_f64();
    report.add(
        "until all hosts hear again and a server boots",
        "s",
        "< 30",
        said.recovery,
    );
    cloud.done().await?;
    Ok(said.sentence(options))
}

fn vcpus(options: &Options) -> Result<u32> {
    let share = (options.servers + options.boots).div_ceil(options.hosts.max(1));
    let vcpus = VCPUS.max(share * ROOM);
    u32::try_from(vcpus).context("too many servers for so few hosts")
}

fn say(what: &str) {
    eprintln!("… {what}");
}

/// What the last line says.
#[derive(Default)]
struct Said {
    cores: f64,
    idle_age: f64,
    pages: (f64, f64),
    storm: f64,
    boot: f64,
    age: f64,
    decisions: f64,
    decision: f64,
    recovery: f64,
}

impl Said {
    fn sentence(&self, options: &Options) -> String {
        format!(
            "{} idle hosts with {} servers take {:.2} cores with a view that is {:.2} s old (p99), \
             {} boots end in {:.0} s with {:.1} ms \
             of CPU each while the schedulers' view is at most {:.2} s old (p99), {:.0} decisions/s \
             take {:.0} µs of CPU each, a first page takes {:.0} ms and a deep one {:.0} ms, and \
             {:.1} s after the broker all is back.",
            options.hosts,
            options.servers,
            self.cores,
            self.idle_age,
            options.boots,
            self.storm,
            self.boot,
            self.age,
            self.decisions,
            self.decision,
            self.pages.0,
            self.pages.1,
            self.recovery
        )
    }
}

/// Notes what each service used for each second of `took`; returns the sum
/// without the hosts' own process, in cores.
fn add_usage(
    report: &mut Report,
    phase: &str,
    before: &BTreeMap<String, Used>,
    took: f64,
) -> Result<f64> {
    let mut all = 0.0;
    for (name, now) in usage::by_service()? {
        let cores = (now.cpu - before.get(&name).map_or(0.0, |used| used.cpu)) / took;
        let shown = if name == "compute" {
            "all hosts' agents"
        } else {
            all += cores;
            &name
        };
        report.add(&format!("{phase}: CPU of {shown}"), "cores", "", cores);
        report.add(
            &format!("{phase}: memory of {shown}"),
            "MiB",
            "",
            now.memory,
        );
    }
    report.add(
        &format!("{phase}: CPU of services, broker and database"),
        "cores",
        "< 1",
        all,
    );
    Ok(all)
}

/// A world whose network has room for a million servers.
async fn wide_world(cloud: &TestCloud) -> Result<World> {
    let mut world = World::make(cloud).await?;
    world.network = network(
        &world.admin,
        &json!({"name": "wide", "shared": true}),
        &json!({"name": "wide", "cidr": "10.64.0.0/12"}),
    )
    .await?;
    Ok(world)
}

/// A server on the first host, that many are made after.
async fn template(world: &World) -> Result<String> {
    let mut server = world.server("template");
    server["availability_zone"] = json!("nova:sim-0001");
    let body = json!({"server": server});
    let made = world
        .admin
        .post(yakumo_integration::client::Api::Compute, "/servers", &body)
        .await?
        .ok()?;
    let id = yakumo_integration::client::text(&made, "/server/id")?;
    world.admin.server_becomes(&id, "ACTIVE", PATIENCE).await?;
    // Its action is closed a moment later, and its addresses are told by the
    // network service.
    wait::until("the template is told of", PATIENCE, async || {
        let server = world.admin.server(&id).await?;
        Ok(
            if server["addresses"]
                .as_object()
                .is_some_and(|it| !it.is_empty())
            {
                Look::Yes(())
            } else {
                Look::NotYet(server.to_string())
            },
        )
    })
    .await?;
    Ok(id)
}

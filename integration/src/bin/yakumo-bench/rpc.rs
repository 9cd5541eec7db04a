//! Calls and casts between two handles on a bus, with sealed contexts: within
//! the process, and over RabbitMQ (two connections, durable queues, casts
//! confirmed by the broker), there beside oslo.messaging, turn by turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use yakumo_auth::JwsContextSeal;
use yakumo_integration::wait::{self, Look};
use yakumo_rpc::{
    AmqpConfig, Bus, Handler, Incoming, MethodId, ServeOptions, Target, Topic, Version,
};
use yakumo_service::system_env;
use yakumo_testing::rabbitmq::Broker;
use yakumo_types::{Fault, RequestContext};

use crate::peer::Peer;
use crate::report::{Report, count, millis, percentile};
use crate::usage;

const REPETITIONS: usize = 3;
const BOUND: Duration = Duration::from_secs(5);
const TOPIC: &str = "bench";
/// Bytes of an argument, as many as the peer sends.
const PAYLOAD: usize = 200;
const VERSION: Version = Version { major: 1, minor: 0 };
const METHOD: MethodId = MethodId {
    service: "bench.v1.Bench",
    method: "Echo",
    version: VERSION,
};

#[derive(Default)]
struct Echo(AtomicUsize);

#[async_trait]
impl Handler for Echo {
    fn service(&self) -> &'static str {
        METHOD.service
    }

    fn version(&self) -> Version {
        VERSION
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(incoming.payload.to_vec())
    }
}

/// Which calls and casts: how many at a time, and how many at the most.
const SHAPES: [(&str, usize, usize); 5] = [
    ("call", 1, 3_000),
    ("call", 8, 10_000),
    ("call", 64, 20_000),
    ("cast", 1, 3_000),
    ("cast", 64, 20_000),
];

/// One repetition of one shape.
struct Taken {
    rate: f64,
    /// Milliseconds for each, on both sides.
    cpu: f64,
    took: Vec<Duration>,
}

impl Taken {
    fn add(&mut self, report: &mut Report, name: &str, p50: &'static str) {
        report.add(name, "1/s", "", self.rate);
        report.add(&format!("{name}, CPU of both sides"), "ms", "", self.cpu);
        for (share, label, aim) in [(0.5, "p50", p50), (0.99, "p99", "")] {
            let value = millis(percentile(&mut self.took, share));
            report.add(&format!("{name}, {label}"), "ms", aim, value);
        }
    }
}

/// Two handles on one bus and what answers behind the second.
struct Pair<'a> {
    client: &'a Bus,
    echo: Arc<Echo>,
    context: RequestContext,
}

impl Pair<'_> {
    async fn taken(&self, what: &str, concurrency: usize, number: usize) -> Result<Taken> {
        let target = Target::service(TOPIC);
        let next = AtomicUsize::new(0);
        let handled = self.echo.0.load(Ordering::Relaxed);
        let cpu = usage::own()?;
        let begun = Instant::now();
        let worker = async || -> Result<Vec<Duration>> {
            let mut took = Vec::new();
            while begun.elapsed() < BOUND && next.fetch_add(1, Ordering::Relaxed) < number {
                let (context, payload) = (&self.context, vec![7; PAYLOAD]);
                let asked = Instant::now();
                if what == "call" {
                    self.client
                        .call(context, &target, METHOD, payload, BOUND * 4)
                        .await?;
                } else {
                    self.client.cast(context, &target, METHOD, payload).await?;
                }
                took.push(asked.elapsed());
            }
            Ok(took)
        };
        let all = futures::future::try_join_all((0..concurrency).map(|_| worker())).await?;
        let took: Vec<_> = all.into_iter().flatten().collect();
        let total = took.len();
        // A cast counts when it was handled, too.
        wait::until("handled", BOUND * 4, async || {
            let done = self.echo.0.load(Ordering::Relaxed) - handled;
            Ok(if done >= total {
                Look::Yes(())
            } else {
                Look::NotYet(done.to_string())
            })
        })
        .await?;
        Ok(Taken {
            rate: count(total) / begun.elapsed().as_secs_f64(),
            cpu: (usage::own()? - cpu) * 1e3 / count(total),
            took,
        })
    }
}

async fn taken_by(peer: &mut Peer, concurrency: usize, number: usize) -> Result<Taken> {
    let cpu = peer.cpu().await?;
    let begun = Instant::now();
    let took = peer.call(concurrency, number, BOUND).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let total = count(took.len());
    Ok(Taken {
        rate: total / seconds,
        cpu: (peer.cpu().await? - cpu) * 1e3 / total,
        took,
    })
}

/// How much more of the peer's calls is aimed for.
fn aimed(concurrency: usize) -> &'static str {
    match concurrency {
        1 => "> 8",
        8 => "> 15",
        _ => "> 20",
    }
}

/// Measures `kind`, and each call beside the peer's, if there is one.
async fn measure(
    report: &mut Report,
    kind: &str,
    (client, server): (&Bus, &Bus),
    mut peer: Option<Peer>,
) -> Result<()> {
    let echo = Arc::new(Echo::default());
    let serving = server
        .serve(
            Topic::Control(TOPIC),
            vec![echo.clone()],
            ServeOptions::default(),
        )
        .await?;
    let mut context =
        RequestContext::internal(yakumo_types::RequestId::from_uuid(system_env().rng.uuid()));
    context.roles = vec!["member".into(), "reader".into()];
    let pair = Pair {
        client,
        echo,
        context,
    };
    for _ in 0..=REPETITIONS {
        for (what, concurrency, number) in SHAPES {
            let name = format!("RPC {what}, {kind}, {concurrency} at a time");
            let mut ours = pair.taken(what, concurrency, number).await?;
            let aim = match (kind, what, concurrency) {
                ("RabbitMQ", "call", 1) => "< 0.4",
                _ => "",
            };
            ours.add(report, &name, aim);
            if let (Some(peer), "call") = (&mut peer, what) {
                let mut theirs = taken_by(peer, concurrency, number).await?;
                let name = format!("oslo.messaging call, {concurrency} at a time");
                theirs.add(report, &name, "");
                let name = format!("RPC calls for one of oslo.messaging, {concurrency} at a time");
                report.add(&name, "", aimed(concurrency), ours.rate / theirs.rate);
            }
        }
    }
    serving.stop(BOUND).await;
    Ok(())
}

pub async fn run(report: &mut Report) -> Result<()> {
    let env = system_env();
    let seal = Arc::new(JwsContextSeal::ephemeral(env.clone())?);
    let bus = Bus::in_process(env.clone(), seal.clone());
    measure(report, "in process", (&bus, &bus), None).await?;
    let broker = Broker::start().await?;
    let connect = async |process: &str| {
        Bus::connect(
            AmqpConfig::new(broker.url(), process),
            env.clone(),
            seal.clone(),
        )
        .await
        .context("connecting")
    };
    let (client, server) = (connect("client").await?, connect("server").await?);
    let peer = Peer::start(&broker.url()).await?;
    measure(report, "RabbitMQ", (&client, &server), Some(peer)).await?;
    client.close().await;
    server.close().await;
    Ok(())
}

//! One trace follows a boot through every service, and a collector gets it.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};
use yakumo_integration::client::{Api, Client, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::collector::{Collector, Span};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, World};

/// Steps of a boot, by the names in the design.
const STEPS: [&str; 7] = [
    "choose_hosts",
    "claim_host",
    "allocate_ports",
    "wire_ports",
    "issue_ticket",
    "set_desired",
    "wait_active",
];

/// What each process of a distributed cloud with real guests has to do with a
/// boot: `service.name`, and a part of a span's name.
pub const REAL_HOST: [(&str, &str); 9] = [
    ("yakumo-api", "request"),
    ("yakumo-api", "choose_hosts"),
    ("yakumo-api", "issue_ticket"),
    ("yakumo-scheduler", "scheduler.v1."),
    ("yakumo-network", "network.v1."),
    ("yakumo-image", "/IssueTicket"),
    ("yakumo-compute", "build disk"),
    ("yakumo-compute", "fetch image"),
    ("yakumo-compute", "create domain"),
];

/// The same in one process, where nothing is fetched and no domain made.
const SIMULATED_HOST: [(&str, &str); 4] = [
    ("yakumo-all", "request"),
    ("yakumo-all", "/IssueTicket"),
    ("yakumo-all", "build disk"),
    ("yakumo-all", "create domain"),
];

/// The trace and the span that the client says it is in (W3C).
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_boot_is_one() -> Result<()> {
    let collector = Collector::start().await?;
    let cloud = TestCloud::embedded(Options {
        settings: vec![collector.setting()],
        ..Options::default()
    })
    .await?;
    let world = World::make(&cloud).await?;
    let document = world.server("traced");
    let server = of_a_boot(&collector, &world.alice, document, &SIMULATED_HOST).await?;
    world.remove(&world.alice, &server).await?;
    cloud.done().await
}

/// Boots a server for a client that is in a trace already, and waits until the
/// collector has that trace from the request down to the host, with a span for
/// each step and for each of `wanted`.
pub async fn of_a_boot(
    collector: &Collector,
    client: &Client,
    document: Value,
    wanted: &[(&str, &str)],
) -> Result<String> {
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let body = json!({"server": document});
    let headers = [("traceparent", parent.as_str())];
    let made = client
        .send(
            Method::POST,
            Api::Compute,
            "/servers",
            &headers,
            Some(&body),
        )
        .await?
        .with_status(202)?;
    let id = text(&made.body, "/server/id")?;
    client.server_becomes(&id, "ACTIVE", BOUND * 3).await?;
    wait::until("one whole trace", Duration::from_secs(30), || async {
        let traces = collector.traces();
        let spans = traces.get(TRACE).map_or(&[][..], Vec::as_slice);
        Ok(match is_whole(spans, wanted) {
            Ok(()) => Look::Yes(()),
            Err(reason) => Look::NotYet(reason),
        })
    })
    .await?;
    Ok(id)
}

fn is_whole(spans: &[Span], wanted: &[(&str, &str)]) -> Result<(), String> {
    let has = |service: &str, part: &str| {
        spans
            .iter()
            .any(|span| span.service.starts_with(service) && span.name.contains(part))
    };
    let steps = STEPS.iter().map(|step| ("", *step));
    for (service, part) in steps.chain(wanted.iter().copied()) {
        if !has(service, part) {
            let names: HashSet<(&str, &str)> = spans
                .iter()
                .map(|span| (span.service.as_str(), span.name.as_str()))
                .collect();
            return Err(format!("no {part} of {service} in {names:?}"));
        }
    }
    // From the API's request down, no span hangs in the air.
    let ids: HashSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let roots = spans.iter().filter(|span| span.parent == CALLER).count();
    let orphans: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parent != CALLER && !ids.contains(span.parent.as_str()))
        .collect();
    if roots != 1 || !orphans.is_empty() {
        return Err(format!("{roots} roots; without a parent: {orphans:?}"));
    }
    Ok(())
}

//! The scheduler on the in-process bus, with a fake in the api service's place.

// A test that cannot go on may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use yakumo_contracts::api::{
    ApiHandler, ApiServer, HostSnapshot, ServerProjection, SnapshotReply, SnapshotRequest,
};
use yakumo_contracts::scheduler::{
    ChooseHostsRequest, HostChanged, HostView, HostsChanged, Resources, SchedulerClient,
};
use yakumo_rpc::{Bus, Incoming, ServeOptions, Target, Topic};
use yakumo_scheduler::{Config, pipeline, start, view::HostTable};
use yakumo_service::{Process, system_env};
use yakumo_types::{ContextSeal, Fault, FaultCode, RequestContext};

struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

/// Pages of hosts, once it is told that it may answer.
#[derive(Default)]
struct FakeApi {
    ready: AtomicBool,
    hosts: Mutex<Vec<HostSnapshot>>,
}

impl FakeApi {
    /// These hosts are there.
    fn know(&self, hosts: &[&str]) {
        *self.hosts.lock().unwrap() = hosts
            .iter()
            .map(|name| HostSnapshot {
                host: (*name).to_owned(),
                availability_zone: "nova".into(),
                enabled: true,
                settings_revision: 1,
                incarnation: 1,
                sequence: 1,
                vcpus: 8,
                memory_mib: 8192,
                disk_gib: 100,
                ..HostSnapshot::default()
            })
            .collect();
    }
}

#[async_trait]
impl ApiServer for FakeApi {
    async fn snapshot(
        &self,
        _: &Incoming,
        request: SnapshotRequest,
    ) -> Result<SnapshotReply, Fault> {
        if !self.ready.load(Ordering::SeqCst) {
            return Err(Fault::unavailable("not yet"));
        }
        // Two on a page, whatever is asked for: pages must be followed.
        let marker = request.page.unwrap_or_default().marker;
        let all = self.hosts.lock().unwrap();
        let rest: Vec<_> = all.iter().filter(|host| host.host > marker).collect();
        let page: Vec<HostSnapshot> = rest.iter().take(2).map(|host| (*host).clone()).collect();
        Ok(SnapshotReply {
            next: match rest.len() {
                0..=2 => String::new(),
                _ => page[1].host.clone(),
            },
            hosts: page,
        })
    }

    async fn project_server(&self, _: &Incoming, _: ServerProjection) -> Result<(), Fault> {
        Ok(())
    }
}

struct World {
    bus: Bus,
    process: Process,
    api: Arc<FakeApi>,
    scheduler: SchedulerClient,
}

impl World {
    async fn start(hosts: &[&str]) -> Self {
        let env = system_env();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let api = Arc::new(FakeApi::default());
        api.know(hosts);
        bus.serve(
            Topic::Control("api"),
            vec![Arc::new(ApiHandler::new(api.clone()))],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        let process = Process::new("scheduler", env);
        start(process.clone(), bus.clone(), Config::default())
            .await
            .unwrap();
        let scheduler = SchedulerClient::new(bus.clone(), Target::service("scheduler"));
        Self {
            bus,
            process,
            api,
            scheduler,
        }
    }

    fn context(&self) -> RequestContext {
        RequestContext::internal(self.process.env.id())
    }

    async fn choose(&self) -> Result<Vec<String>, Fault> {
        let request = ChooseHostsRequest {
            server_id: self.process.env.rng.uuid().to_string(),
            wanted: Some(Resources {
                vcpus: 1,
                memory_mib: 1024,
                disk_gib: 1,
            }),
            ..ChooseHostsRequest::default()
        };
        let reply = self
            .scheduler
            .choose_hosts(&self.context(), request)
            .await?;
        let mut names: Vec<_> = reply.hosts.into_iter().map(|host| host.host).collect();
        names.sort();
        Ok(names)
    }

    async fn report(&self, change: HostChanged) {
        let message = HostsChanged {
            hosts: vec![change],
        };
        self.scheduler
            .hosts_reported(&self.context(), message)
            .await
            .unwrap();
    }

    /// A fanout is handled soon, and nobody says when.
    async fn until(&self, wanted: &[&str]) {
        let bound = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.choose().await.unwrap_or_default();
            if found == wanted {
                return;
            }
            assert!(Instant::now() < bound, "{found:?} and not {wanted:?}");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.shutdown.cancel();
    }
}

fn view(name: &str, change: impl FnOnce(&mut HostView)) -> HostChanged {
    let mut host = HostView {
        host: name.into(),
        availability_zone: "nova".into(),
        enabled: true,
        total: Some(Resources {
            vcpus: 8,
            memory_mib: 8192,
            disk_gib: 100,
        }),
        claimed: Some(Resources::default()),
        incarnation: 1,
        sequence: 2,
        settings_revision: 1,
        ..HostView::default()
    };
    change(&mut host);
    HostChanged {
        host: Some(host),
        ..HostChanged::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_first_view_of_the_hosts() {
    let world = World::start(&["a", "b", "c", "d", "e"]).await;
    let asked = world.choose();
    tokio::pin!(asked);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asked).await;
    assert!(early.is_err(), "{early:?}");
    world.api.ready.store(true, Ordering::SeqCst);
    assert_eq!(asked.await.unwrap(), ["a", "b", "c", "d", "e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_host_is_found_that_nobody_has_told_of_yet() {
    let world = World::start(&[]).await;
    world.api.ready.store(true, Ordering::SeqCst);
    let fault = world.choose().await.unwrap_err();
    assert!(fault.message.contains("no compute host has registered"));
    world.api.know(&["a"]);
    assert_eq!(world.choose().await.unwrap(), ["a"]);
    // What was looked for and is gone again is an answer within a bound, too.
    world
        .report(HostChanged {
            removed: true,
            ..view("a", |_| {})
        })
        .await;
    world.api.know(&[]);
    world.until(&[]).await;
    assert!(world.choose().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_report_counts_at_once() {
    let world = World::start(&["a", "b"]).await;
    world.api.ready.store(true, Ordering::SeqCst);
    world.until(&["a", "b"]).await;
    world
        .report(view("a", |host| {
            host.settings_revision = 2;
            host.enabled = false;
        }))
        .await;
    world.until(&["b"]).await;
    world.report(view("c", |_| {})).await;
    world.until(&["b", "c"]).await;
    let full = Resources {
        vcpus: 8,
        memory_mib: 8192,
        disk_gib: 0,
    };
    world
        .report(HostChanged {
            refusal: true,
            ..view("b", |host| host.claimed = Some(full))
        })
        .await;
    world.until(&["c"]).await;
    world
        .report(HostChanged {
            removed: true,
            ..view("c", |_| {})
        })
        .await;
    world.until(&[]).await;
    let fault = world.choose().await.unwrap_err();
    assert_eq!(fault.code, FaultCode::NoValidHost);
    assert!(fault.details.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_do_not_speak_to_the_scheduler() {
    let world = World::start(&["a"]).await;
    let client = SchedulerClient::new(world.bus.as_host("a").clone(), Target::service("scheduler"));
    let context = RequestContext::host(world.process.env.id());
    let fault = client
        .choose_hosts(&context, ChooseHostsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
}

#[test]
fn ten_thousand_hosts_are_all_considered() {
    let config = Config::default();
    let mut table = HostTable::new(&config);
    let now = Duration::from_secs(1000);
    for number in 0..10_000 {
        table.observe(&view(&format!("host-{number:05}"), |_| {}), now);
    }
    let env = system_env();
    let request = ChooseHostsRequest {
        server_id: "one".into(),
        wanted: Some(Resources {
            vcpus: 1,
            memory_mib: 512,
            disk_gib: 1,
        }),
        ..ChooseHostsRequest::default()
    };
    let reply = pipeline::choose_hosts(&mut table, &config, &request, now, &*env.rng).unwrap();
    assert_eq!(reply.considered, 10_000);
    assert_eq!(reply.hosts.len(), 5);
}

//! Tells the control plane what is.
//!
//! Reports are ordered by (incarnation, sequence) and sent one at a time, so
//! none overtakes another. What changed is sent until it is acknowledged;
//! meanwhile newer states of the same server take the older one's place.
//! Silence is broken by a heartbeat, which may get lost; one that is sent while
//! an answer is late tells what the host has promised by then. When the control
//! plane does not know this incarnation any more, the agent registers again
//! and reports everything.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info, warn};
use yakumo_contracts::api::{
    Heartbeat, HostReport, HostReportReply, HostReportsClient, RegisterHostRequest, ServerState,
    StorageFacts,
};
use yakumo_contracts::compute_host::ServerReport;
use yakumo_rpc::Target;
use yakumo_types::{Fault, FaultCode, ServerId, Timestamp};

use super::Host;
use crate::config::seconds;

/// Servers in one report; each takes a few hundred bytes of at most 1 MiB.
const BATCH: usize = 500;

/// How long news that only a patient reader wants (the stage of a build) waits
/// for company.
const PATIENCE: Duration = Duration::from_millis(200);

const DEADLINE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Every so many heartbeats one is a call, whose answer proves that this
/// process still hears.
const PROOF: u32 = 3;

/// Whether somebody waits for the news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A state was reached, or will not be.
    Now,
    /// Something is under way.
    Soon,
}

#[derive(Default)]
struct News {
    published: HashMap<ServerId, ServerReport>,
    dirty: BTreeSet<ServerId>,
    urgent: bool,
    /// When the oldest of what no message told came up.
    since: Option<Timestamp>,
}

/// What the owners publish, and what of it was not acknowledged yet.
#[derive(Default)]
pub(super) struct Reporter {
    news: Mutex<News>,
    woken: Notify,
}

impl Reporter {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a server's state, if it is news.
    pub(super) fn publish(
        &self,
        server: ServerId,
        report: ServerReport,
        urgency: Urgency,
        now: Timestamp,
    ) {
        let mut news = self.news();
        if news.published.get(&server) == Some(&report) {
            return;
        }
        news.published.insert(server, report);
        news.dirty.insert(server);
        news.urgent |= urgency == Urgency::Now;
        news.since.get_or_insert(now);
        drop(news);
        self.woken.notify_one();
    }

    /// The server is forgotten.
    pub(super) fn retract(&self, server: ServerId) {
        let mut news = self.news();
        news.published.remove(&server);
        news.dirty.remove(&server);
    }

    /// What was published last of a server.
    pub(super) fn last(&self, server: ServerId) -> Option<ServerReport> {
        self.news().published.get(&server).cloned()
    }

    /// Everything that is published.
    pub(super) fn published(&self) -> HashMap<ServerId, ServerReport> {
        self.news().published.clone()
    }

    fn everything_is_news(&self) {
        let mut news = self.news();
        news.dirty = news.published.keys().copied().collect();
        news.urgent = true;
    }

    fn pending(&self) -> Option<Urgency> {
        let news = self.news();
        match (news.dirty.is_empty(), news.urgent) {
            (true, _) => None,
            (false, true) => Some(Urgency::Now),
            (false, false) => Some(Urgency::Soon),
        }
    }

    /// Ends when there is news that somebody waits for.
    async fn urgent(&self) {
        while self.pending() != Some(Urgency::Now) {
            self.woken.notified().await;
        }
    }

    /// A batch of what is to be told, and since when that is so.
    fn take(&self) -> (Vec<(ServerId, ServerReport)>, Option<Timestamp>) {
        let mut news = self.news();
        let since = news.since;
        let ids: Vec<ServerId> = news.dirty.iter().take(BATCH).copied().collect();
        for id in &ids {
            news.dirty.remove(id);
        }
        if news.dirty.is_empty() {
            news.urgent = false;
            news.since = None;
        }
        let batch = ids
            .into_iter()
            .filter_map(|id| Some((id, news.published.get(&id)?.clone())))
            .collect();
        (batch, since)
    }

    fn put_back(&self, batch: &[(ServerId, ServerReport)], since: Option<Timestamp>) {
        let mut news = self.news();
        for (server, _) in batch {
            if news.published.contains_key(server) {
                news.dirty.insert(*server);
            }
        }
        news.urgent = true;
        news.since = since.or(news.since);
    }

    /// Ends when there is something that no message told.
    async fn untold(&self) {
        while self.news().since.is_none() {
            self.woken.notified().await;
        }
    }

    /// A heartbeat tells the sums that go with the news.
    fn told(&self) -> Option<Timestamp> {
        self.news().since.take()
    }

    fn running(&self) -> u32 {
        let running = self
            .news()
            .published
            .values()
            .filter(|report| report.power_state == "running")
            .count();
        u32::try_from(running).unwrap_or(u32::MAX)
    }
}

/// Registers, then reports until the process ends.
pub(super) async fn run(host: Arc<Host>) {
    let client =
        HostReportsClient::new(host.bus.clone(), Target::service("api")).with_deadline(DEADLINE);
    let shutdown = host.process.shutdown.clone();
    let work = async {
        loop {
            host.until_it_speaks(true).await;
            let speech = async {
                let mut session = register(&host, &client).await;
                host.reporter.everything_is_news();
                session.report_until_forgotten(&host, &client).await;
                info!(
                    host = host.name,
                    "the control plane wants the host to register again"
                );
            };
            tokio::select! {
                () = speech => {}
                () = host.until_it_speaks(false) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

struct Session {
    incarnation: u64,
    sequence: u64,
    heartbeat: Duration,
    beats: u32,
}

async fn register(host: &Host, client: &HostReportsClient) -> Session {
    let mut failures = 0u32;
    loop {
        let facts = host.facts();
        if let Some(facts) = facts {
            let request = RegisterHostRequest { facts: Some(facts) };
            match client.register(&host.context(), request).await {
                Ok(reply) => {
                    host.bus.mark_heard();
                    host.beat.carry(reply.passes_on);
                    host.accepted();
                    let heartbeat = match reply.heartbeat_seconds {
                        0 => seconds(host.config.heartbeat_seconds),
                        given => seconds(given),
                    };
                    if host.proves_hearing {
                        host.bus
                            .expect_to_hear_within(heartbeat.saturating_mul(PROOF * 3));
                    }
                    info!(
                        host = host.name,
                        incarnation = reply.incarnation,
                        "the host is registered"
                    );
                    return Session {
                        incarnation: reply.incarnation,
                        sequence: 0,
                        heartbeat,
                        beats: 0,
                    };
                }
                Err(fault) if fault.code == FaultCode::Conflict => host.refused(&fault),
                Err(fault) => tell(host, "registering", failures, &fault),
            }
        }
        failures = failures.saturating_add(1);
        host.env.clock.sleep(pause(host, failures)).await;
    }
}

fn tell(host: &Host, what: &str, failures: u32, fault: &Fault) {
    if failures.is_multiple_of(20) {
        warn!(host = host.name, %fault, what, "the control plane was not reached; it will be tried again");
    } else {
        debug!(host = host.name, %fault, what, "the control plane was not reached");
    }
}

/// Doubles from a quarter second up, and spreads so that hosts which lost the
/// same broker don't come back in step.
fn pause(host: &Host, failures: u32) -> Duration {
    let full = Duration::from_millis(250)
        .saturating_mul(1u32 << failures.saturating_sub(1).min(8))
        .min(LONGEST_PAUSE);
    host.env.rng.equal_jitter(full)
}

impl Session {
    fn next(
        &mut self,
        host: &Host,
        servers: Vec<ServerState>,
        since: Option<Timestamp>,
    ) -> HostReport {
        self.sequence = self.sequence.saturating_add(1);
        let (_, claimed) = host.ledger.state();
        let lives = host.beat.take();
        HostReport {
            host: host.name.clone(),
            host_id: host.host_id.to_string(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            claimed_vcpus: u32::try_from(claimed.vcpus).unwrap_or(u32::MAX),
            claimed_memory_mib: claimed.memory_mib,
            claimed_disk_gib: claimed.disk_gib,
            running_servers: host.reporter.running(),
            servers,
            changed_at: since.unwrap_or_else(|| host.env.now()).as_micros(),
            network_lives: lives.network,
            storage: lives.storage.map(|facts| StorageFacts {
                free_gib: facts.free_gib,
                total_gib: facts.total_gib,
                availability_zone: facts.availability_zone,
                reachable_everywhere: facts.reachable_everywhere,
            }),
        }
    }

    /// Returns when the control plane wants a new registration.
    async fn report_until_forgotten(&mut self, host: &Host, client: &HostReportsClient) {
        let clock = &host.env.clock;
        let mut failures = 0u32;
        let mut spoke = clock.monotonic();
        loop {
            let silent = clock.monotonic().saturating_sub(spoke);
            let beat_due = self.heartbeat.saturating_sub(silent);
            match host.reporter.pending() {
                Some(Urgency::Now) => {}
                Some(Urgency::Soon) => {
                    tokio::select! {
                        () = clock.sleep(PATIENCE) => {}
                        () = host.reporter.urgent() => {}
                    }
                }
                None if beat_due.is_zero() => {}
                None => {
                    tokio::select! {
                        () = clock.sleep(beat_due) => {}
                        () = host.reporter.woken.notified() => {}
                    }
                    continue;
                }
            }
            let (batch, since) = host.reporter.take();
            self.beats = self.beats.wrapping_add(1);
            let proof = host.proves_hearing && self.beats.is_multiple_of(PROOF);
            if batch.is_empty() && !proof {
                self.beat(host, client).await;
                spoke = clock.monotonic();
                continue;
            }
            let servers = batch.iter().map(|(_, report)| state(report)).collect();
            let report = self.next(host, servers, since);
            match self.report(host, client, report).await {
                Ok(reply) => {
                    host.bus.mark_heard();
                    failures = 0;
                    spoke = clock.monotonic();
                    if !reply.unknown_server_ids.is_empty() {
                        warn!(
                            host = host.name,
                            servers = reply.unknown_server_ids.join(", "),
                            "the control plane does not know these servers"
                        );
                    }
                    if reply.register_again {
                        host.reporter.put_back(&batch, since);
                        return;
                    }
                }
                Err(fault) => {
                    host.reporter.put_back(&batch, since);
                    if fault.code == FaultCode::Stale {
                        return;
                    }
                    tell(host, "reporting", failures, &fault);
                    failures = failures.saturating_add(1);
                    clock.sleep(pause(host, failures)).await;
                }
            }
        }
    }

    /// Sends a report and waits for its answer, which comes once a database has
    /// it. Schedulers hear earlier what comes up meanwhile.
    async fn report(
        &mut self,
        host: &Host,
        client: &HostReportsClient,
        report: HostReport,
    ) -> Result<HostReportReply, Fault> {
        let context = host.context();
        let mut answer = pin!(client.report(&context, report));
        loop {
            let news = async {
                host.reporter.untold().await;
                host.env.clock.sleep(PATIENCE).await;
            };
            tokio::select! {
                answer = &mut answer => return answer,
                () = news => {}
            }
            self.beat(host, client).await;
        }
    }

    async fn beat(&mut self, host: &Host, client: &HostReportsClient) {
        let report = self.next(host, Vec::new(), host.reporter.told());
        let beat = Heartbeat {
            report: Some(report),
        };
        let sent = client
            .beat_transient(&host.context(), beat, self.heartbeat)
            .await;
        if let Err(fault) = sent {
            debug!(host = host.name, %fault, "a heartbeat got lost");
        }
    }
}

/// A server's state in the words of the report's contract.
fn state(report: &ServerReport) -> ServerState {
    ServerState {
        server_id: report.server_id.clone(),
        generation: report.generation,
        converged: report.converged,
        power_state: report.power_state.clone(),
        stage: report.stage.clone(),
        fault: report.fault.clone(),
        fault_is_final: report.fault_is_final,
        reboot_count: report.reboot_count,
        attached_volume_ids: report.attached_volume_ids.clone(),
    }
}

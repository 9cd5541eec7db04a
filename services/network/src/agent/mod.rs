//! The network agent of a host.
//!
//! It pulls its desired state from the network service, keeps it on its own
//! disk, makes it real, and says so. Casts and timers only make it look; what
//! it does is always the same pass:
//!
//! ```text
//! pull ──► keep on disk ──► apply (driver) ──► note as applied ──► report
//! ```
//!
//! What it pulls is everything after a start and every ten to fifteen minutes,
//! and between that what became of it, when it is told that there is something:
//! by a nudge, or by the answer to its sign of life. Who joins or leaves a group
//! elsewhere it is sent, without asking. Only the real driver and the files look
//! at the whole host then; everything else costs what changed.
//!
//! After a start it applies what is on its disk before it asks anybody: guests
//! do not wait for the control plane. `state` is what should be, `applied` is
//! what was made real last; addresses that are in the latter alone must leave
//! nothing behind. The report is what lets the service give an address away
//! again, so it is sent only after everything of it is gone, and again until
//! the service has taken it.

pub(crate) mod desired;
pub(crate) mod dhcp;
pub(crate) mod driver;
pub(crate) mod flows;
#[cfg(test)]
mod following;
pub(crate) mod kernel;
pub(crate) mod links;
mod live;
pub(crate) mod model;
mod pulling;
pub(crate) mod real;
mod recognized;
pub(crate) mod render;
mod state;
pub(crate) mod uplinks;
mod wanted;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use yakumo_contracts::network::{
    AnnounceRequest, HostBeat, HostStatesClient, ReportAppliedRequest,
};
use yakumo_contracts::network_host::{
    ApplyReply, ApplyRequest, MembersChangedRequest, NetworkHostServer, StateChangedRequest,
};
use yakumo_rpc::Incoming;
use yakumo_service::{Process, Recognition, SharedBeat};
use yakumo_types::{Fault, RequestContext, Timestamp};

use desired::{Desired, MembersTaken};
use driver::NetworkDriver;
use live::Live;
use model::Model;
use pulling::Pulled;
use state::StateFiles;
use wanted::{Stale, Wanted};

/// The longest that a caller of `Apply` is kept waiting.
const APPLY_BOUND: Duration = Duration::from_secs(60);

/// After this time everything is pulled again, whatever became of it: transactions
/// that did not see each other may have left something untold.
const PULL_ALL: Duration = Duration::from_secs(600);

/// And up to so much later, so that hosts which started together are no wave.
const PULL_ALL_SPREAD: Duration = Duration::from_secs(300);

/// After this time, and up to so much later, the agent says again who it is.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(240);
const ANNOUNCE_SPREAD: Duration = Duration::from_secs(120);

/// Changes of groups that wait at the most; with more, groups are asked for.
const MAX_WAITING: usize = 1_000;

/// Who the agent is and how often it looks.
#[derive(Debug, Clone)]
pub(crate) struct AgentSettings {
    pub host: String,
    pub host_id: String,
    /// Whether it may speak for the host.
    pub recognition: Recognition,
    pub beat: SharedBeat,
    pub availability_zone: String,
    pub resync: Duration,
    pub announce: Duration,
    /// Between two reports of what nobody waits for: ports that came.
    pub report: Duration,
}

/// The network agent of one host.
pub(crate) struct Agent {
    process: Process,
    settings: AgentSettings,
    client: HostStatesClient,
    driver: Arc<dyn NetworkDriver>,
    /// `None` where nothing outlives the process: simulated hosts.
    files: Option<StateFiles>,
    started_at: Timestamp,
    /// After this time everything is pulled again.
    pull_all: Duration,
    /// After this time the agent says again who it is.
    announce_again: Duration,
    /// `None` before anything was ever heard.
    wanted: Mutex<Option<Wanted>>,
    live: Mutex<Live>,
    /// Up to here everything is wired that can be.
    applied: watch::Sender<u64>,
    nudge: Notify,
    /// Whether the service said that there is something to pull.
    changed: AtomicBool,
    /// The revision that callers wait for.
    awaited: AtomicU64,
    /// Changes of groups that the next pass takes.
    members: StdMutex<Vec<MembersChangedRequest>>,
    /// Whether some group may have other members than those that are here.
    groups_stale: AtomicBool,
}

impl Agent {
    pub(crate) fn new(
        process: Process,
        settings: AgentSettings,
        client: HostStatesClient,
        driver: Arc<dyn NetworkDriver>,
        files: Option<StateFiles>,
    ) -> Self {
        let rng = &process.env.rng;
        Self {
            started_at: process.env.now(),
            pull_all: PULL_ALL + rng.within(PULL_ALL_SPREAD),
            announce_again: ANNOUNCE_AGAIN + rng.within(ANNOUNCE_SPREAD),
            process,
            settings,
            client,
            driver,
            files,
            wanted: Mutex::default(),
            live: Mutex::default(),
            applied: watch::Sender::new(0),
            nudge: Notify::new(),
            changed: AtomicBool::new(false),
            awaited: AtomicU64::new(0),
            members: StdMutex::default(),
            groups_stale: AtomicBool::new(false),
        }
    }

    pub(crate) fn files(folder: &std::path::Path) -> StateFiles {
        StateFiles::new(folder)
    }

    /// Runs until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let health = self
            .process
            .health
            .component(&format!("network agent {}", self.settings.host));
        let mut failures: u32 = 0;
        if let Err(error) = self.restore().await {
            failures = 1;
            tracing::error!(
                error = format!("{error:#}"),
                "the kept state could not be made real"
            );
            health.degraded(format!("{error:#}"));
        }
        let clock = self.process.env.clock.clone();
        let mut announced: Option<Duration> = None;
        let mut spoke: Option<Duration> = None;
        let mut looked = clock.monotonic();
        let mut reason = true;
        'passes: loop {
            if !self.settings.recognition.is_given() {
                if !self.wait_for_recognition(&health).await {
                    break 'passes;
                }
                reason = true;
            }
            let now = clock.monotonic();
            let since = |at: Option<Duration>| at.map(|at| now.saturating_sub(at));
            if since(announced).is_none_or(|past| past >= self.announce_again) {
                match self.announce().await {
                    Some(revision) => {
                        (announced, spoke) = (Some(now), Some(now));
                        reason |= self.revision().await != Some(revision);
                    }
                    None => reason = true,
                }
            } else if since(spoke).is_none_or(|past| past >= self.settings.announce) {
                self.beat().await;
                spoke = Some(now);
            }
            let resync = now.saturating_sub(looked) >= self.settings.resync;
            let members = self.take_members().await;
            let stale = self.groups_stale.load(Ordering::Acquire);
            let pull = reason || stale || failures > 0 || !self.is_changeable().await;
            if pull || resync || members || self.live.lock().await.owes() {
                let passed = if pull {
                    self.pass(resync || failures > 0).await
                } else {
                    self.keep(resync).await
                };
                match passed {
                    Ok(whole) => {
                        if failures > 0 {
                            health.up();
                        }
                        failures = 0;
                        if whole {
                            looked = clock.monotonic();
                        }
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        let error = format!("{error:#}");
                        tracing::warn!(host = %self.settings.host, failures, error, "a pass failed and will be tried again");
                        health.degraded(error);
                    }
                }
            }
            reason = false;
            let pause = if failures == 0 && self.live.lock().await.owes() {
                self.settings.report
            } else if failures == 0 {
                self.settings.announce
            } else {
                self.after_failures(failures)
            };
            let rest = clock.sleep(pause);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    () = &mut rest => break,
                    () = self.nudge.notified() => {
                        reason = self.is_behind();
                        if reason || !self.waiting_members().is_empty() {
                            break;
                        }
                    }
                    () = self.process.shutdown.cancelled() => break 'passes,
                }
            }
        }
        self.driver.stop().await;
    }

    /// How long to wait after so many failures: twice as long each time, and by
    /// chance, so that hosts which were refused together do not come together.
    fn after_failures(&self, failures: u32) -> Duration {
        let longest = Duration::from_millis(250 << failures.min(5)).min(self.settings.announce);
        self.process.env.rng.equal_jitter(longest)
    }

    /// Whether a nudge still is a reason for a pass: what a caller waited for may
    /// have come with the pass that was under way.
    fn is_behind(&self) -> bool {
        let changed = self.changed.swap(false, Ordering::AcqRel);
        changed || *self.applied.borrow() < self.awaited.load(Ordering::Acquire)
    }

    fn waiting_members(&self) -> MutexGuard<'_, Vec<MembersChangedRequest>> {
        // Each entry is whole or not there.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the changes of groups that have come; whether anything is new.
    async fn take_members(&self) -> bool {
        let waiting = std::mem::take(&mut *self.waiting_members());
        if waiting.is_empty() {
            return false;
        }
        let mut wanted = self.wanted.lock().await;
        let Some(wanted) = wanted.as_mut() else {
            // All of them come with the first state.
            return false;
        };
        let mut new = false;
        for change in &waiting {
            match wanted.desired.change_members(change) {
                MembersTaken::Changed => new = true,
                MembersTaken::Nothing => {}
                MembersTaken::Gap => self.groups_stale.store(true, Ordering::Release),
            }
        }
        wanted.saved &= !new;
        new
    }

    fn context(&self) -> RequestContext {
        RequestContext::host(self.process.env.id())
    }

    async fn restore(&self) -> anyhow::Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let Some(state) = files.read_state().await? else {
            return Ok(());
        };
        tracing::info!(
            revision = state.revision,
            ports = state.ports.len(),
            "making the kept state real"
        );
        let mut wanted = self.wanted.lock().await;
        let mut kept = Desired::read(state, None);
        log_rejected(&mut kept);
        let kept = self.begin(kept).await?;
        let kept = wanted.insert(kept);
        kept.saved = true;
        self.apply(kept).await
    }

    /// The first state of this process. What was made real by an earlier one may
    /// have left something.
    async fn begin(&self, desired: Desired) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted::new(desired);
        if let Some(files) = &self.files
            && let Some(before) = files.read_applied().await?
        {
            let before = Model::read(&before);
            let addresses = before.by_address().into_keys();
            let gone = addresses.filter(|address| !wanted.desired.has_address(address));
            let gone: Vec<Ipv4Addr> = gone.collect();
            wanted.departed.extend(gone);
        }
        Ok(wanted)
    }

    /// The revision of what should be, if anything was heard.
    async fn revision(&self) -> Option<u64> {
        let wanted = self.wanted.lock().await;
        wanted.as_ref().map(|wanted| wanted.desired.revision())
    }

    /// Gives a sign of life, which may get lost.
    async fn beat(&self) {
        if self.settings.beat.network() {
            return;
        }
        let beat = HostBeat {
            host: self.settings.host.clone(),
        };
        let sent = self
            .client
            .beat_transient(&self.context(), beat, self.settings.announce)
            .await;
        if let Err(fault) = sent {
            tracing::debug!(%fault, "a sign of life got lost");
        }
    }

    /// Says who the agent is; returns the revision that the host should have.
    async fn announce(&self) -> Option<u64> {
        let applied_revision = *self.applied.borrow();
        let request = AnnounceRequest {
            host: self.settings.host.clone(),
            host_id: self.settings.host_id.clone(),
            driver: self.driver.name().into(),
            started_at: self.started_at.as_micros(),
            applied_revision,
            availability_zone: self.settings.availability_zone.clone(),
            follows_groups: true,
            groups: self.groups().await,
        };
        match self.client.announce(&self.context(), request).await {
            Ok(reply) => {
                if reply.groups_changed {
                    self.groups_stale.store(true, Ordering::Release);
                }
                Some(reply.revision)
            }
            Err(fault) => {
                tracing::debug!(%fault, "the network service did not hear of this host");
                None
            }
        }
    }

    /// Makes the host be as it was told, without asking whether that is still
    /// right; returns whether the whole host was looked at.
    async fn keep(&self, whole: bool) -> anyhow::Result<bool> {
        let mut wanted = self.wanted.lock().await;
        match wanted.as_mut() {
            Some(wanted) => self.settle(wanted, whole).await,
            None => Ok(false),
        }
    }

    /// One pass; returns whether the whole host was looked at.
    async fn pass(&self, whole: bool) -> anyhow::Result<bool> {
        let pulled = self.pull().await;
        let mut wanted = self.wanted.lock().await;
        match pulled {
            Ok(pulled) => {
                let taken = self.take(&mut wanted, pulled).await;
                if taken.is_err() {
                    self.groups_stale.store(true, Ordering::Release);
                }
                taken?;
            }
            // Without the control plane the host still is kept as it should be.
            Err(fault) => {
                if whole && let Some(wanted) = wanted.as_mut() {
                    self.apply(wanted).await?;
                }
                return Err(anyhow::anyhow!("the state could not be pulled: {fault}"));
            }
        }
        let Some(wanted) = wanted.as_mut() else {
            return Ok(false);
        };
        // Now and then all of it is said.
        if whole {
            let mut live = self.live.lock().await;
            live.told.clear();
            live.urgent = true;
        }
        self.settle(wanted, whole).await
    }

    /// Makes the host be as it should, if something is new or all of it is to be
    /// looked at, and says what is owed.
    async fn settle(&self, wanted: &mut Wanted, whole: bool) -> anyhow::Result<bool> {
        if whole {
            wanted.stale = Stale::All;
        }
        // A whole state may hold what its revision does not tell.
        let stale = !wanted.saved || *self.applied.borrow() != wanted.desired.revision();
        let applied = if whole || stale {
            self.apply(wanted).await
        } else {
            Ok(())
        };
        // What went well is said, whatever did not.
        let reported = self.report().await;
        applied?;
        reported?;
        Ok(whole || stale)
    }

    /// Takes what was pulled.
    async fn take(&self, wanted: &mut Option<Wanted>, pulled: Pulled) -> anyhow::Result<()> {
        match (pulled, wanted.as_mut()) {
            (Pulled::Nothing, _) => {}
            (Pulled::State(state), there) => {
                let before = there.as_ref().map(|there| &there.desired);
                let mut fresh = Desired::read(state, before);
                log_rejected(&mut fresh);
                let there = match there {
                    Some(there) => {
                        if there.desired != fresh {
                            there.replace(fresh);
                        }
                        there
                    }
                    None => wanted.insert(self.begin(fresh).await?),
                };
                there.pulled = Some(self.process.env.clock.monotonic());
            }
            (Pulled::Delta(delta), Some(there)) => {
                there.change(delta)?;
                log_rejected(&mut there.desired);
            }
            (Pulled::Delta(_), None) => anyhow::bail!("a change of nothing"),
        }
        Ok(())
    }

    /// Makes a state real. What can be is, even when this ends in an error.
    async fn apply(&self, wanted: &mut Wanted) -> anyhow::Result<()> {
        let revision = wanted.desired.revision();
        if let Some(files) = self.files.as_ref().filter(|_| !wanted.saved) {
            files.write_state(&wanted.desired.state()).await?;
        }
        let model = wanted.desired.model();
        let started = self.process.env.clock.monotonic();
        let outcome = self.driver.apply(model, &wanted.departed).await?;
        wanted.saved = true;
        let took = self.process.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("yakumo_network_apply_seconds").record(took.as_secs_f64());
        tracing::debug!(revision, ?took, "applied");
        if !outcome.remains {
            if let Some(files) = &self.files {
                files.write_applied(&wanted.desired.state()).await?;
            }
            wanted.departed.clear();
        }
        let mut live = self.live.lock().await;
        if !outcome.remains {
            live.cleared = revision;
        }
        live.urgent |= std::mem::take(&mut wanted.gone);
        let done = Stale::Ports(BTreeSet::new());
        match std::mem::replace(&mut wanted.stale, done) {
            Stale::Ports(ports) if live.broken == outcome.broken => {
                for id in ports {
                    // The service may have called it down meanwhile.
                    live.told.remove(&id);
                    live.settle(model, &id);
                }
            }
            _ => {
                live.broken = outcome.broken;
                live.settle_all(model);
            }
        }
        drop(live);
        self.applied.send_replace(revision);
        anyhow::ensure!(
            outcome.troubles.is_empty(),
            "{}",
            outcome.troubles.join("; ")
        );
        Ok(())
    }

    /// Says what was made real, as far as that was not heard already. What came is
    /// said together with what comes in the next moment.
    async fn report(&self) -> Result<(), Fault> {
        let now = self.process.env.clock.monotonic();
        let (revision, fresh) = {
            let live = self.live.lock().await;
            let early = live
                .told_at
                .is_some_and(|at| now.saturating_sub(at) < self.settings.report);
            if !live.owes() || (early && !live.urgent) {
                return Ok(());
            }
            (live.cleared, live.untold.clone())
        };
        self.client
            .report_applied(
                &self.context(),
                ReportAppliedRequest {
                    host: self.settings.host.clone(),
                    revision,
                    wired_port_ids: fresh.keys().cloned().collect(),
                },
            )
            .await?;
        let mut live = self.live.lock().await;
        live.told_cleared = revision;
        live.told_at = Some(now);
        live.urgent = false;
        for id in fresh.keys() {
            live.untold.remove(id);
        }
        live.told.extend(fresh);
        Ok(())
    }
}

fn log_rejected(desired: &mut Desired) {
    for rejected in desired.take_rejected() {
        tracing::error!(%rejected, "left out of this host");
    }
}

#[async_trait::async_trait]
impl NetworkHostServer for Agent {
    async fn state_changed(
        &self,
        call: &Incoming,
        _request: StateChangedRequest,
    ) -> Result<(), Fault> {
        call.sender.require_control()?;
        self.changed.store(true, Ordering::Release);
        self.nudge.notify_one();
        Ok(())
    }

    async fn members_changed(
        &self,
        call: &Incoming,
        request: MembersChangedRequest,
    ) -> Result<(), Fault> {
        call.sender.require_control()?;
        let mut waiting = self.waiting_members();
        if waiting.len() < MAX_WAITING {
            waiting.push(request);
        } else {
            waiting.clear();
            self.groups_stale.store(true, Ordering::Release);
            self.changed.store(true, Ordering::Release);
        }
        drop(waiting);
        self.nudge.notify_one();
        Ok(())
    }

    async fn apply(&self, call: &Incoming, request: ApplyRequest) -> Result<ApplyReply, Fault> {
        call.sender.require_control()?;
        let mut applied = self.applied.subscribe();
        self.awaited.fetch_max(request.revision, Ordering::AcqRel);
        if *applied.borrow() < request.revision {
            self.nudge.notify_one();
        }
        let bound = call.lifetime.unwrap_or(APPLY_BOUND).min(APPLY_BOUND);
        let reached = applied.wait_for(|applied| *applied >= request.revision);
        let revision = match tokio::time::timeout(bound, reached).await {
            Ok(Ok(applied)) => *applied,
            _ => return Err(Fault::timeout("The host's network is not ready yet.")),
        };
        let live = self.live.lock().await;
        let mut wired_port_ids = request.port_ids;
        if wired_port_ids.is_empty() {
            wired_port_ids.extend(live.wired.iter().cloned());
        }
        wired_port_ids.retain(|id| live.wired.contains(id));
        Ok(ApplyReply {
            revision,
            wired_port_ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_contracts::common::Empty;
    use yakumo_contracts::network::{
        AnnounceReply, HostDelta, HostState, HostStatesHandler, HostStatesServer, PullStateReply,
        PullStateRequest, RemotePort,
    };
    use yakumo_rpc::{Bus, Handler, ServeOptions, Target, Topic};
    use yakumo_service::system_env;

    use driver::Outcome;
    use model::tests::{GROUP_A, PORT_A, PORT_B, PORT_C, port, sample};
    use real::tests::NoSeal;

    /// Plays service and driver: says what should be, and what came of it.
    #[derive(Default)]
    struct Play {
        state: StdMutex<HostState>,
        outcome: StdMutex<Outcome>,
        departed: StdMutex<Vec<BTreeSet<Ipv4Addr>>>,
        reports: StdMutex<Vec<(u64, Vec<String>)>>,
    }

    #[async_trait::async_trait]
    impl HostStatesServer for Play {
        async fn pull_state(
            &self,
            _: &Incoming,
            request: PullStateRequest,
        ) -> Result<PullStateReply, Fault> {
            let state = self.state.lock().unwrap().clone();
            if state.revision == request.since_revision {
                return Ok(PullStateReply::default());
            }
            let chunk = prost::Message::encode_to_vec(&state);
            Ok(PullStateReply {
                revision: state.revision,
                total_bytes: chunk.len() as u64,
                chunk,
                ..PullStateReply::default()
            })
        }

        async fn report_applied(
            &self,
            _: &Incoming,
            request: ReportAppliedRequest,
        ) -> Result<Empty, Fault> {
            let report = (request.revision, request.wired_port_ids);
            self.reports.lock().unwrap().push(report);
            Ok(Empty {})
        }

        async fn announce(&self, _: &Incoming, _: AnnounceRequest) -> Result<AnnounceReply, Fault> {
            Ok(AnnounceReply::default())
        }

        async fn beat(&self, _: &Incoming, _: HostBeat) -> Result<(), Fault> {
            Ok(())
        }
    }

    #[async_trait::async_trait]
    impl NetworkDriver for Play {
        async fn apply(
            &self,
            _model: &Model,
            departed: &BTreeSet<Ipv4Addr>,
        ) -> anyhow::Result<Outcome> {
            self.departed.lock().unwrap().push(departed.clone());
            Ok(self.outcome.lock().unwrap().clone())
        }

        async fn stop(&self) {}

        fn name(&self) -> &'static str {
            "play"
        }
    }

    async fn play_and_agent() -> (Arc<Play>, Agent) {
        let env = system_env();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let play = Arc::new(Play::default());
        *play.state.lock().unwrap() = sample();
        let handlers: Vec<Arc<dyn Handler>> =
            vec![Arc::new(HostStatesHandler::new(Arc::clone(&play)))];
        bus.serve(Topic::Control("network"), handlers, ServeOptions::default())
            .await
            .unwrap();
        let settings = AgentSettings {
            host: "node-1".into(),
            host_id: String::new(),
            recognition: Recognition::always(),
            beat: SharedBeat::default(),
            availability_zone: String::new(),
            resync: Duration::from_secs(60),
            announce: Duration::from_secs(10),
            report: Duration::ZERO,
        };
        let agent = Agent::new(
            Process::new("host", env),
            settings,
            HostStatesClient::new(bus.as_host("node-1"), Target::service("network")),
            Arc::clone(&play) as Arc<dyn NetworkDriver>,
            None,
        );
        (play, agent)
    }

    #[tokio::test]
    async fn what_remains_is_not_reported_as_gone_and_wiring_is_reported_all_the_same() {
        let (play, agent) = play_and_agent().await;
        let last = || play.reports.lock().unwrap().last().cloned().unwrap();
        let first = sample();
        assert!(agent.pass(false).await.unwrap());
        let both = vec![PORT_A.to_owned(), PORT_B.to_owned()];
        assert_eq!(last(), (first.revision, both));

        // One port goes, and its tap does not; another one comes.
        let third = "cccccccc-aaaa-4aaa-8aaa-cccccccccccc";
        let mut second = sample();
        second.revision += 1;
        second.ports[1] = port(third, "fa:16:3e:00:00:0c", "10.0.0.7", GROUP_A);
        *play.state.lock().unwrap() = second.clone();
        *play.outcome.lock().unwrap() = Outcome {
            troubles: vec!["a tap is busy".into()],
            remains: true,
            ..Outcome::default()
        };
        let error = agent.pass(false).await.unwrap_err();
        assert_eq!(error.to_string(), "a tap is busy");
        assert_eq!(last(), (first.revision, vec![third.to_owned()]));
        assert_eq!(*agent.applied.borrow(), second.revision);

        *play.outcome.lock().unwrap() = Outcome::default();
        assert!(agent.pass(true).await.unwrap());
        let both = vec![PORT_B.to_owned(), third.to_owned()];
        assert_eq!(last(), (second.revision, both));
        // What was heard is not said again, unless the whole host was looked at.
        assert!(!agent.pass(false).await.unwrap());
        assert_eq!(play.reports.lock().unwrap().len(), 3);
        assert!(agent.pass(true).await.unwrap());
        assert_eq!(play.reports.lock().unwrap().len(), 4);
        assert!(agent.keep(true).await.unwrap());
        assert_eq!(play.reports.lock().unwrap().len(), 4, "nothing is new");
        // Until it was all gone, its address was to leave nothing behind.
        let gone = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 5)]);
        let none = BTreeSet::new();
        assert_eq!(
            *play.departed.lock().unwrap(),
            [none.clone(), gone.clone(), gone, none.clone(), none]
        );
    }

    #[tokio::test]
    async fn a_port_that_was_closed_is_said_again_when_it_opens() {
        let (play, agent) = play_and_agent().await;
        play.state.lock().unwrap().ports[0].admin_state_up = false;
        agent.pass(false).await.unwrap();
        let mut open = sample();
        open.revision += 1;
        *play.state.lock().unwrap() = open.clone();
        agent.pass(false).await.unwrap();
        let reports = play.reports.lock().unwrap();
        assert_eq!(reports[0].1.len(), 2);
        assert_eq!(reports[1], (open.revision, vec![PORT_B.to_owned()]));
    }

    #[tokio::test]
    async fn what_nobody_told_of_is_made_real_with_the_next_whole_state() {
        let (play, agent) = play_and_agent().await;
        assert!(agent.pass(false).await.unwrap());
        let again = async || {
            agent.wanted.lock().await.as_mut().unwrap().pulled = None;
            agent.pass(false).await.unwrap()
        };
        assert!(!again().await, "nothing is new");
        play.state.lock().unwrap().ports.remove(0);
        assert!(!agent.pass(false).await.unwrap());
        assert!(again().await);
        let gone = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 6)]);
        assert_eq!(play.departed.lock().unwrap().last(), Some(&gone));
        assert!(!agent.live.lock().await.wired.contains(PORT_B));
    }

    #[tokio::test]
    async fn ports_that_come_are_said_together_and_one_that_goes_at_once() {
        let (play, mut agent) = play_and_agent().await;
        agent.settings.report = Duration::from_secs(3600);
        let third = "cccccccc-aaaa-4aaa-8aaa-cccccccccccc";
        agent.pass(false).await.unwrap();
        assert_eq!(play.reports.lock().unwrap().len(), 1);
        let mut delta = HostDelta {
            since_revision: sample().revision,
            revision: sample().revision + 1,
            ports: vec![port(third, "fa:16:3e:00:00:0c", "10.0.0.7", GROUP_A)],
            ..HostDelta::default()
        };
        let take = async |delta: &HostDelta| {
            let mut wanted = agent.wanted.lock().await;
            let pulled = Pulled::Delta(delta.clone());
            agent.take(&mut wanted, pulled).await.unwrap();
            agent.apply(wanted.as_mut().unwrap()).await.unwrap();
            drop(wanted);
            agent.report().await.unwrap();
            play.reports.lock().unwrap().len()
        };
        // A member of a group comes elsewhere.
        delta.remote_ports = vec![RemotePort {
            port_id: PORT_C.into(),
            group_ids: vec![GROUP_A.into()],
            addresses: vec!["10.0.0.8".into()],
        }];
        assert_eq!(take(&delta).await, 1);
        assert!(agent.live.lock().await.owes());
        delta.since_revision += 1;
        delta.revision += 1;
        delta.ports.clear();
        delta.remote_ports = vec![RemotePort {
            port_id: PORT_B.into(),
            ..RemotePort::default()
        }];
        assert_eq!(take(&delta).await, 2);
        let reports = play.reports.lock().unwrap();
        assert_eq!(reports[1], (delta.revision, vec![third.to_owned()]));
    }

    #[tokio::test]
    async fn a_nudge_for_what_is_there_already_makes_no_pass() {
        let (_play, agent) = play_and_agent().await;
        agent.awaited.store(sample().revision, Ordering::Release);
        assert!(agent.is_behind());
        agent.pass(false).await.unwrap();
        assert!(!agent.is_behind());
        agent.changed.store(true, Ordering::Release);
        assert!(agent.is_behind(), "what changed is not known");
        assert!(!agent.is_behind());
    }
}

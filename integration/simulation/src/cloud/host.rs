//! A compute host that keeps its promises: claims and wishes are on its disk
//! before it answers, generations and epochs are compared as the real agent
//! does, and what it does about them takes time. Its process may die; its disk
//! and its guests stay.
//!
//! Power is as the real agent has it, too. What was begun is done to its end,
//! whatever was asked for meanwhile, and then it is looked again. A reboot is
//! taken note of while the guest is off. Nothing is said to be as it should be
//! while something is being done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use yakumo_contracts::api::{
    HostFacts, HostReport, HostReportsClient, RegisterHostRequest, ServerState,
};
use yakumo_contracts::common::{Empty, Fence};
use yakumo_contracts::compute_host::{
    ClaimServerReply, ClaimServerRequest, ComputeHostHandler, ComputeHostServer, ConsoleLogReply,
    ConsoleLogRequest, DesiredServer, ListServersReply, ListServersRequest, Power, Resources,
    ServerReport, ServerRequest, SetDesiredRequest,
};
use yakumo_rpc::{Bus, Incoming, RpcError, ServeOptions, Server, Target, Topic};
use yakumo_types::{Env, Fault, FaultCode, RequestContext};

use super::Flaw;
use crate::world::lock;

/// How many guests a host takes.
pub const ROOM: usize = 3;
/// The longest until what came before comes once more. A stop and a start fit
/// in between.
const AGAIN_WITHIN: u64 = 20_000;

/// What all lives of all hosts have in common.
#[derive(Clone)]
pub struct Nature {
    /// Thousandths of the guests that cannot be started.
    pub failing: u64,
    /// Thousandths of the desired states that come once more, later: a broker
    /// brings again what it does not know to have arrived.
    pub again: Arc<AtomicU64>,
    pub flaw: Flaw,
}

/// What a host does about a server at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Makes the disk, if there is none, and switches the guest on.
    Start,
    PullPlug,
    /// The reboots that were asked for need no more than a start.
    NoteReboots,
    Remove,
}

/// What is there of one server.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub claim: Option<u64>,
    floor: u64,
    pub desired: Option<DesiredServer>,
    /// Its disk was made.
    built: bool,
    /// Its guest runs.
    pub guest: bool,
    reboots_done: u64,
    tombstone: bool,
    /// Why the present generation cannot be reached.
    gave_up: Option<String>,
    fences: BTreeMap<String, u64>,
}

/// What outlives a host's process.
#[derive(Debug, Default)]
pub struct Disk {
    pub records: BTreeMap<String, Record>,
    /// More claims than there is room for, ever.
    pub oversold: bool,
}

/// One life of a host's process.
pub struct Host {
    name: String,
    host_id: String,
    env: Env,
    disk: Arc<Mutex<Disk>>,
    dirty: Mutex<BTreeSet<String>>,
    news: Notify,
    work: Notify,
    nature: Nature,
    /// The server about which something is being done.
    working: Mutex<Option<String>>,
    again: UnboundedSender<SetDesiredRequest>,
    reports: HostReportsClient,
}

impl Record {
    pub fn wants(&self, power: Power) -> bool {
        self.desired
            .as_ref()
            .is_some_and(|desired| desired.power() == power)
    }

    fn pass(&mut self, fence: Option<&Fence>) -> Result<(), Fault> {
        let Some(fence) = fence else { return Ok(()) };
        let newest = self.fences.entry(fence.workflow_id.clone()).or_default();
        if fence.epoch < *newest {
            return Err(Fault::stale("A later claim of this workflow was here."));
        }
        *newest = fence.epoch;
        Ok(())
    }

    /// Only the memory of what was here is left, which the real agent forgets
    /// after a while.
    pub fn is_bare(&self) -> bool {
        self.claim.is_none() && self.desired.is_none()
    }

    /// What is to be done next; nothing if it is as it is wanted, or was given
    /// up.
    fn next(&self) -> Option<Step> {
        let desired = self.desired.as_ref()?;
        let reboot_is_due = desired.reboot_count > self.reboots_done;
        match desired.power() {
            Power::Absent => (!self.tombstone).then_some(Step::Remove),
            Power::Running if self.gave_up.is_some() => None,
            Power::Running if self.guest => reboot_is_due.then_some(Step::PullPlug),
            Power::Running if reboot_is_due => Some(Step::NoteReboots),
            Power::Running => Some(Step::Start),
            Power::Stopped | Power::Paused | Power::Unspecified => match self.guest {
                true => Some(Step::PullPlug),
                false => reboot_is_due.then_some(Step::NoteReboots),
            },
        }
    }

    /// What a step brought about that was begun for `generation`.
    fn done(&mut self, step: Step, fails: bool, generation: u64) -> Result<(), Fault> {
        let Some(desired) = &self.desired else {
            return Err(stale());
        };
        match step {
            Step::Start if fails => {
                // A later wish is tried anew.
                if desired.generation == generation {
                    self.gave_up = Some("The guest does not start.".into());
                }
            }
            Step::Start => (self.built, self.guest) = (true, true),
            Step::PullPlug => self.guest = false,
            Step::NoteReboots => self.reboots_done = desired.reboot_count,
            Step::Remove => {
                self.floor = self.floor.max(desired.generation);
                (self.built, self.guest) = (false, false);
                self.reboots_done = 0;
                self.claim = None;
                self.tombstone = true;
            }
        }
        Ok(())
    }

    fn state(&self, id: &str) -> Option<ServerState> {
        let desired = self.desired.as_ref()?;
        let next = self.next();
        Some(ServerState {
            server_id: id.to_owned(),
            generation: desired.generation,
            converged: next.is_none() && self.gave_up.is_none(),
            power_state: match (self.guest, self.built) {
                (true, _) => "running",
                (false, true) => "shutdown",
                (false, false) => "nostate",
            }
            .into(),
            stage: match next {
                Some(Step::Start | Step::NoteReboots) => "spawning",
                Some(Step::PullPlug) => "stopping",
                Some(Step::Remove) => "removing",
                None => "",
            }
            .into(),
            fault: self.gave_up.clone().unwrap_or_default(),
            fault_is_final: self.gave_up.is_some(),
            reboot_count: self.reboots_done,
            ..ServerState::default()
        })
    }
}

fn stale() -> Fault {
    Fault::stale("A later generation was here.")
}

/// Serves the bus and begins to work and to report, in the current runtime.
pub async fn start(
    bus: &Bus,
    env: Env,
    name: &str,
    disk: Arc<Mutex<Disk>>,
    nature: Nature,
) -> Result<Server, RpcError> {
    let bus = bus.as_host(name);
    let known = lock(&disk).records.keys().cloned().collect();
    let (again, comes_again) = unbounded_channel();
    let host = Arc::new(Host {
        name: name.to_owned(),
        host_id: format!("00000000-0000-4000-8000-0000{:>08}", name.len()),
        dirty: Mutex::new(known),
        env,
        disk,
        news: Notify::new(),
        work: Notify::new(),
        nature,
        working: Mutex::default(),
        again,
        reports: HostReportsClient::new(bus.clone(), Target::service("api"))
            .with_deadline(Duration::from_secs(10)),
    });
    host.work.notify_one();
    let server = bus
        .serve(
            Topic::Host(name.to_owned()),
            vec![Arc::new(ComputeHostHandler::new(Arc::clone(&host)))],
            ServeOptions::default(),
        )
        .await?;
    drop(tokio::spawn(Arc::clone(&host).converge()));
    drop(tokio::spawn(Arc::clone(&host).bring_again(comes_again)));
    drop(tokio::spawn(host.report()));
    Ok(server)
}

impl Host {
    fn context(&self) -> RequestContext {
        RequestContext::host(self.env.id())
    }

    /// Changes a record and its copy on disk at once, or nothing.
    fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Record) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut disk = lock(&self.disk);
        let mut record = disk.records.get(id).cloned().unwrap_or_default();
        let value = change(&mut record)?;
        disk.records.insert(id.to_owned(), record);
        let claims = disk.records.values().filter(|it| it.claim.is_some());
        let claims = claims.count();
        disk.oversold |= claims > ROOM;
        Ok(value)
    }

    /// Makes everything as it is wanted, one after the other.
    async fn converge(self: Arc<Self>) {
        loop {
            let next = lock(&self.disk).records.iter().find_map(|(id, record)| {
                let generation = record.desired.as_ref()?.generation;
                Some((id.clone(), record.next()?, generation))
            });
            let Some((id, step, generation)) = next else {
                self.work.notified().await;
                continue;
            };
            let mut fails = false;
            if step != Step::NoteReboots {
                *lock(&self.working) = Some(id.clone());
                let takes = 5 + self.env.rng.below(3000);
                self.env.clock.sleep(Duration::from_millis(takes)).await;
                fails = self.env.rng.below(1000) < self.nature.failing;
                *lock(&self.working) = None;
            }
            // Forgotten meanwhile: nothing to do.
            let _ = self.change(&id, |record| record.done(step, fails, generation));
            self.say(&id);
        }
    }

    async fn bring_again(self: Arc<Self>, mut again: UnboundedReceiver<SetDesiredRequest>) {
        while let Some(request) = again.recv().await {
            let later = Duration::from_millis(self.env.rng.below(AGAIN_WITHIN));
            let host = Arc::clone(&self);
            drop(tokio::spawn(async move {
                host.env.clock.sleep(later).await;
                // Nobody waits for the answer.
                let _ = host.take(request);
            }));
        }
    }

    /// What is said of a server. While something is being done about it, it is
    /// not as it should be, whatever was asked for meanwhile.
    fn state_of(&self, id: &str, record: &Record) -> Option<ServerState> {
        let mut state = record.state(id)?;
        if lock(&self.working).as_deref() == Some(id) {
            state.converged = false;
            if state.stage.is_empty() {
                state.stage = "working".into();
            }
        }
        Some(state)
    }

    /// Takes a desired state, or says why not.
    fn take(&self, request: SetDesiredRequest) -> Result<(), Fault> {
        let mut desired = request
            .server
            .ok_or_else(|| Fault::invalid("There is no server."))?;
        if matches!(desired.power(), Power::Paused | Power::Unspecified) {
            return Err(Fault::invalid("This host knows no such power."));
        }
        let id = desired.server_id.clone();
        self.change(&id, |record| {
            record.pass(request.fence.as_ref())?;
            let known = record
                .desired
                .as_ref()
                .map_or(0, |mine| mine.generation)
                .max(record.floor);
            let absent = desired.power() == Power::Absent;
            let late = desired.generation < known;
            if late {
                let goes = absent || record.wants(Power::Absent);
                if goes || self.nature.flaw != Flaw::OlderPower {
                    return Err(stale());
                }
                desired.generation = known;
            }
            if record.tombstone {
                if !absent {
                    return Err(Fault::conflict("The server was removed from this host."));
                }
                record.floor = record.floor.max(desired.generation);
                record.desired = Some(desired);
                return Ok(());
            }
            if absent && record.is_bare() {
                record.tombstone = true;
                record.floor = record.floor.max(desired.generation);
                record.desired = Some(desired);
                return Ok(());
            }
            if !absent && record.claim.is_none() {
                return Err(Fault::conflict("The server has no claim on this host."));
            }
            if let Some(mine) = &record.desired
                && !late
            {
                let wish = |it: &DesiredServer| (it.power(), it.reboot_count, it.reboot_hard);
                if mine.generation == desired.generation {
                    if wish(mine) == wish(&desired) {
                        return Ok(());
                    }
                    return Err(Fault::conflict(
                        "The same generation asked for another thing.",
                    ));
                }
                if mine.power() == Power::Absent && !absent {
                    return Err(Fault::conflict("The server is being removed."));
                }
            }
            record.gave_up = None;
            record.desired = Some(desired);
            Ok(())
        })?;
        self.work.notify_one();
        self.say(&id);
        Ok(())
    }

    fn say(&self, id: &str) {
        lock(&self.dirty).insert(id.to_owned());
        self.news.notify_one();
    }

    async fn report(self: Arc<Self>) {
        let clock = Arc::clone(&self.env.clock);
        loop {
            let facts = HostFacts {
                host: self.name.clone(),
                host_id: self.host_id.clone(),
                vcpus: u32::try_from(ROOM).unwrap_or(1),
                memory_mib: 512 * u64::try_from(ROOM).unwrap_or(1),
                disk_gib: 1000,
                hypervisor_type: "simulated".into(),
                driver: "simulated".into(),
                cpu_ratio: 1.0,
                memory_ratio: 1.0,
                disk_ratio: 1.0,
                ..HostFacts::default()
            };
            let request = RegisterHostRequest { facts: Some(facts) };
            let Ok(reply) = self.reports.register(&self.context(), request).await else {
                clock.sleep(Duration::from_millis(700)).await;
                continue;
            };
            lock(&self.dirty).extend(lock(&self.disk).records.keys().cloned());
            self.report_until_forgotten(reply.incarnation).await;
        }
    }

    async fn report_until_forgotten(&self, incarnation: u64) {
        let clock = Arc::clone(&self.env.clock);
        let mut sequence = 0;
        loop {
            let batch = std::mem::take(&mut *lock(&self.dirty));
            sequence += 1;
            let report = self.report_of(&batch, incarnation, sequence);
            match self.reports.report(&self.context(), report).await {
                Ok(reply) if reply.register_again => {
                    lock(&self.dirty).extend(batch);
                    return;
                }
                Ok(_) => {
                    tokio::select! {
                        biased;
                        () = self.news.notified() => {}
                        () = clock.sleep(Duration::from_secs(10)) => {}
                    }
                }
                Err(fault) => {
                    lock(&self.dirty).extend(batch);
                    if fault.code == FaultCode::Stale {
                        return;
                    }
                    clock.sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn report_of(&self, batch: &BTreeSet<String>, incarnation: u64, sequence: u64) -> HostReport {
        let disk = lock(&self.disk);
        let claims = disk.records.values().filter(|it| it.claim.is_some());
        let claims = u32::try_from(claims.count()).unwrap_or(u32::MAX);
        HostReport {
            host: self.name.clone(),
            host_id: self.host_id.clone(),
            incarnation,
            sequence,
            claimed_vcpus: claims,
            claimed_memory_mib: 512 * u64::from(claims),
            claimed_disk_gib: u64::from(claims),
            running_servers: claims,
            servers: batch
                .iter()
                .filter_map(|id| self.state_of(id, disk.records.get(id)?))
                .collect(),
            ..HostReport::default()
        }
    }

    fn resources(&self) -> ClaimServerReply {
        let claims = lock(&self.disk)
            .records
            .values()
            .filter(|record| record.claim.is_some())
            .count();
        let amount = |count: usize| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Some(Resources {
                vcpus: count,
                memory_mib: 512 * u64::from(count),
                disk_gib: u64::from(count),
            })
        };
        ClaimServerReply {
            total: amount(ROOM),
            claimed: amount(claims),
        }
    }
}

#[async_trait]
impl ComputeHostServer for Host {
    async fn claim_server(
        &self,
        _: &Incoming,
        request: ClaimServerRequest,
    ) -> Result<ClaimServerReply, Fault> {
        let free = {
            let disk = lock(&self.disk);
            let others = disk
                .records
                .iter()
                .filter(|(id, record)| **id != request.server_id && record.claim.is_some());
            others.count() < ROOM
        };
        self.change(&request.server_id, |record| {
            record.pass(request.fence.as_ref())?;
            let newest = record.floor.max(record.claim.unwrap_or(0));
            if request.generation < newest
                || (request.generation == record.floor && record.claim.is_none())
            {
                return Err(stale());
            }
            if record.claim == Some(request.generation) {
                return Ok(());
            }
            if !free {
                return Err(Fault::conflict("The host is full."));
            }
            if record.tombstone {
                let fences = std::mem::take(&mut record.fences);
                *record = Record {
                    floor: record.floor,
                    fences,
                    ..Record::default()
                };
            }
            record.claim = Some(request.generation);
            Ok(())
        })?;
        Ok(self.resources())
    }

    async fn release_claim(&self, _: &Incoming, request: ServerRequest) -> Result<Empty, Fault> {
        if !lock(&self.disk).records.contains_key(&request.server_id) {
            return Ok(Empty {});
        }
        self.change(&request.server_id, |record| {
            record.pass(request.fence.as_ref())?;
            match record.claim {
                Some(claim) if claim <= request.generation => {}
                _ => return Ok(()),
            }
            if record.wants(Power::Absent) {
                return Ok(());
            }
            if record.desired.is_some() {
                return Err(Fault::conflict("The server is on this host."));
            }
            record.claim = None;
            record.floor = record.floor.max(request.generation);
            Ok(())
        })?;
        Ok(Empty {})
    }

    async fn set_desired(&self, _: &Incoming, request: SetDesiredRequest) -> Result<Empty, Fault> {
        if self.env.rng.below(1000) < self.nature.again.load(Ordering::Relaxed) {
            // The receiver ends with the process.
            let _ = self.again.send(request.clone());
        }
        self.take(request)?;
        Ok(Empty {})
    }

    async fn confirm_absent(&self, _: &Incoming, request: ServerRequest) -> Result<Empty, Fault> {
        if !lock(&self.disk).records.contains_key(&request.server_id) {
            return Ok(Empty {});
        }
        self.change(&request.server_id, |record| {
            record.pass(request.fence.as_ref())?;
            if !record.tombstone && !record.is_bare() {
                return Err(Fault::conflict("The server is not removed yet."));
            }
            let newest = record
                .desired
                .as_ref()
                .map_or(record.floor, |desired| desired.generation);
            if record.tombstone && request.generation < newest {
                return Err(stale());
            }
            Ok(())
        })?;
        lock(&self.disk).records.remove(&request.server_id);
        Ok(Empty {})
    }

    async fn get_console_log(
        &self,
        _: &Incoming,
        _: ConsoleLogRequest,
    ) -> Result<ConsoleLogReply, Fault> {
        Ok(ConsoleLogReply::default())
    }

    async fn list_servers(
        &self,
        _: &Incoming,
        _: ListServersRequest,
    ) -> Result<ListServersReply, Fault> {
        let mut reply = ListServersReply::default();
        for (id, record) in &lock(&self.disk).records {
            match self.state_of(id, record) {
                Some(state) => reply.servers.push(ServerReport {
                    server_id: id.clone(),
                    generation: state.generation,
                    converged: state.converged,
                    power_state: state.power_state,
                    stage: state.stage,
                    fault: state.fault,
                    fault_is_final: state.fault_is_final,
                    reboot_count: state.reboot_count,
                    ..ServerReport::default()
                }),
                None if record.claim.is_some() => reply.claims.push(id.clone()),
                None => {}
            }
        }
        Ok(reply)
    }
}

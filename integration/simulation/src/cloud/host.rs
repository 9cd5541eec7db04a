//! A compute host that keeps its promises: claims and wishes are on its disk
//! before it answers, generations and epochs are compared as the real agent
//! does, and what it does about them takes time. Its process may die; its disk
//! and its guests stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
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

use crate::world::lock;

/// How many guests a host takes.
pub const ROOM: usize = 3;

/// What is there of one server.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub claim: Option<u64>,
    floor: u64,
    pub desired: Option<DesiredServer>,
    /// The generation that was reached.
    converged: u64,
    pub guest: bool,
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
    /// Thousandths of the guests that cannot be started.
    failing: u64,
    reports: HostReportsClient,
}

impl Record {
    fn wants(&self, power: Power) -> bool {
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

    fn state(&self, id: &str) -> Option<ServerState> {
        let desired = self.desired.as_ref()?;
        Some(ServerState {
            server_id: id.to_owned(),
            generation: desired.generation,
            converged: self.converged >= desired.generation,
            power_state: if self.guest { "running" } else { "nostate" }.into(),
            stage: if self.converged >= desired.generation || self.gave_up.is_some() {
                String::new()
            } else {
                "spawning".into()
            },
            fault: self.gave_up.clone().unwrap_or_default(),
            fault_is_final: self.gave_up.is_some(),
            reboot_count: desired.reboot_count,
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
    failing: u64,
) -> Result<Server, RpcError> {
    let bus = bus.as_host(name);
    let known = lock(&disk).records.keys().cloned().collect();
    let host = Arc::new(Host {
        name: name.to_owned(),
        host_id: format!("00000000-0000-4000-8000-0000{:>08}", name.len()),
        dirty: Mutex::new(known),
        env,
        disk,
        news: Notify::new(),
        work: Notify::new(),
        failing,
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
            let next = lock(&self.disk)
                .records
                .iter()
                .find(|(_, record)| {
                    record.gave_up.is_none()
                        && record
                            .desired
                            .as_ref()
                            .is_some_and(|desired| desired.generation > record.converged)
                })
                .map(|(id, _)| id.clone());
            let Some(id) = next else {
                self.work.notified().await;
                continue;
            };
            let takes = 5 + self.env.rng.below(3000);
            self.env.clock.sleep(Duration::from_millis(takes)).await;
            let fails = self.env.rng.below(1000) < self.failing;
            // Forgotten meanwhile: nothing to do.
            let _ = self.change(&id, |record| {
                let Some(desired) = &record.desired else {
                    return Err(stale());
                };
                match desired.power() {
                    Power::Absent => {
                        record.guest = false;
                        record.claim = None;
                        record.tombstone = true;
                    }
                    _ if fails => {
                        record.gave_up = Some("The guest does not start.".into());
                        return Ok(());
                    }
                    _ => record.guest = true,
                }
                record.converged = desired.generation;
                Ok(())
            });
            self.say(&id);
        }
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
                .filter_map(|id| disk.records.get(id)?.state(id))
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
        let desired = request
            .server
            .ok_or_else(|| Fault::invalid("There is no server."))?;
        let id = desired.server_id.clone();
        self.change(&id, |record| {
            record.pass(request.fence.as_ref())?;
            let known = record
                .desired
                .as_ref()
                .map_or(0, |mine| mine.generation)
                .max(record.floor);
            if desired.generation < known {
                return Err(stale());
            }
            let absent = desired.power() == Power::Absent;
            if record.tombstone {
                if !absent {
                    return Err(Fault::conflict("The server was removed from this host."));
                }
                record.converged = desired.generation;
                record.floor = record.floor.max(desired.generation);
                record.desired = Some(desired);
                return Ok(());
            }
            if absent && record.is_bare() {
                record.tombstone = true;
                record.converged = desired.generation;
                record.floor = record.floor.max(desired.generation);
                record.desired = Some(desired);
                return Ok(());
            }
            if !absent && record.claim.is_none() {
                return Err(Fault::conflict("The server has no claim on this host."));
            }
            if let Some(mine) = &record.desired {
                if mine.generation == desired.generation && mine.power() != desired.power() {
                    return Err(Fault::conflict(
                        "The same generation asked for another thing.",
                    ));
                }
                if mine.power() == Power::Absent && !absent {
                    return Err(Fault::conflict("The server is being removed."));
                }
                if mine.generation == desired.generation {
                    return Ok(());
                }
            }
            record.gave_up = None;
            record.desired = Some(desired);
            Ok(())
        })?;
        self.work.notify_one();
        self.say(&id);
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
            match record.state(id) {
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

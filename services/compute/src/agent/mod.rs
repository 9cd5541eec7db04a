//! One host's agent: the owners of its servers, what it has and promised, and
//! the loops that keep looking.
//!
//! ```text
//!   control plane ──ComputeHost──► rpc ──commands──► owner task of the server ──► hypervisor
//!        ▲                                              │   ▲                        │
//!        └──HostReports── reporter ◄──published state───┘   └────── look! ◄──events──┘
//!                                                                          ▲── timer
//! ```
//!
//! Exactly one task, the server's owner ([`owner`]), changes a server's record
//! and its domain. Everybody else sends it commands or reads what it
//! published. Commands are answered when their effect is on disk; the work
//! itself goes on afterwards, and after a restart of the agent all the same.

mod commands;
mod owner;
mod reporter;
mod serving;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tracing::{info, warn};
use yakumo_contracts::api::HostFacts;
use yakumo_contracts::common::Fence;
use yakumo_contracts::compute_host::{ClaimServerReply, DesiredServer, ServerReport};
use yakumo_rpc::Bus;
use yakumo_service::{HealthHandle, Process, Recognition, SharedBeat};
use yakumo_types::{Env, Fault, HostId, RequestContext, RequestId, ServerId};

use crate::claims::{Amount, Ledger};
use crate::config::{Config, seconds};
use crate::decision::{LostGuests, Observed};
use crate::drivers::{Capacity, Hypervisor, HypervisorEvent, InUse};
use crate::store::{Durability, Record, Store};

use commands::Command;
use owner::Owner;
use reporter::Reporter;
pub use serving::Reports;
use serving::Standing;

/// How many commands may wait for an owner that is writing to its disk.
const COMMANDS: usize = 64;

/// How long the hypervisor may take to say what it has.
const MEASURE_BOUND: Duration = Duration::from_secs(30);

/// How long a bare record keeps late messages of a refused boot out.
const BARE_RECORD: Duration = Duration::from_secs(24 * 3600);

/// A host as everything in the agent sees it.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) host_id: HostId,
    pub(crate) env: Env,
    pub(crate) process: Process,
    pub(crate) bus: Bus,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) ledger: Ledger,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) builds: Arc<Semaphore>,
    reporter: Reporter,
    owners: Mutex<HashMap<ServerId, Handle>>,
    capacity: Mutex<Option<Capacity>>,
    /// Claims on servers that are not to be touched by anybody else.
    quarantined: BTreeSet<ServerId>,
    /// Taken up at the start and not looked at yet: a list without them would
    /// say that they are lost.
    unseen: Mutex<BTreeSet<ServerId>>,
    /// Whether this host keeps the connection under watch by its reports.
    proves_hearing: bool,
    hypervisor_answers: AtomicBool,
    health: HealthHandle,
    /// Whether it may say anything to the control plane.
    speaks: watch::Sender<bool>,
    /// What the control plane takes it for.
    standing: watch::Sender<Standing>,
    /// Whether the other agents of the host may speak for it.
    recognized: watch::Sender<bool>,
    /// What they say along with its reports.
    beat: SharedBeat,
    /// Whether the disk takes records.
    pub(crate) records: RecordsHealth,
}

/// What is said of the disk that the records are on.
pub(crate) struct RecordsHealth {
    fails: AtomicBool,
    health: HealthHandle,
}

impl RecordsHealth {
    /// A record could not be written.
    pub(crate) fn failed(&self, why: &str) {
        self.fails.store(true, Ordering::Release);
        self.health.degraded(format!(
            "the disk does not take the servers' records: {why}"
        ));
    }

    /// Tries the disk, if a record could not be written, until it takes one.
    async fn look(&self, store: &Store) {
        if !self.fails.load(Ordering::Acquire) {
            return;
        }
        match store.probe().await {
            Ok(()) => {
                self.fails.store(false, Ordering::Release);
                self.health.up();
            }
            Err(cause) => self.failed(&cause.reason()),
        }
    }
}

#[derive(Clone)]
struct Handle {
    commands: mpsc::Sender<Command>,
    /// Set while there is a claim and no wish.
    only_claim: Arc<AtomicBool>,
    /// The image that the server's disk is made from, and such.
    image: Arc<Mutex<Option<String>>>,
}

/// A page of what a host has: servers, bare claims, and where the next begins.
pub(crate) type Listed = (Vec<ServerReport>, Vec<ServerId>, Option<ServerId>);

/// One host's agent; a cheap handle.
#[derive(Clone)]
pub struct Agent {
    pub(crate) host: Arc<Host>,
}

/// What an agent is made of.
pub struct AgentParts {
    /// The running program.
    pub process: Process,
    /// A handle that speaks as the host.
    pub bus: Bus,
    /// The section `[compute]`.
    pub config: Arc<Config>,
    /// The host's name.
    pub name: String,
    /// Where this host's records live.
    pub root: std::path::PathBuf,
    /// Whether they survive a power cut.
    pub durability: Durability,
    /// What carries the guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Whether this host keeps the connection under watch by its reports.
    pub proves_hearing: bool,
    /// Since when it reports.
    pub reports: Reports,
}

impl Agent {
    /// Reads the records and takes every server up where it was left.
    pub async fn start(parts: AgentParts) -> anyhow::Result<Self> {
        let AgentParts {
            process,
            bus,
            config,
            name,
            root,
            durability,
            hypervisor,
            proves_hearing,
            reports,
        } = parts;
        let env = process.env.clone();
        let opening_env = env.clone();
        let (store, loaded, host_id) = tokio::task::spawn_blocking(move || {
            let (store, loaded) = Store::open(&root, durability)?;
            let host_id = store.host_id(&opening_env)?;
            Ok::<_, crate::store::StoreError>((store, loaded, host_id))
        })
        .await??;
        let health = process.health.component(&format!("compute {name}"));
        if !loaded.quarantined.is_empty() {
            health.degraded(format!(
                "{} unreadable records were set aside",
                loaded.quarantined.len()
            ));
            metrics::counter!("yakumo_compute_quarantined_total")
                .increment(u64::try_from(loaded.quarantined.len()).unwrap_or(u64::MAX));
        }
        let quarantined = loaded
            .quarantined
            .iter()
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .collect();
        let records = RecordsHealth {
            fails: AtomicBool::new(false),
            health: process.health.component(&format!("records {name}")),
        };
        let host = Arc::new(Host {
            ledger: Ledger::new(Amount::default(), config.ratios()),
            builds: Arc::new(Semaphore::new(config.concurrent_builds)),
            reporter: Reporter::default(),
            owners: Mutex::default(),
            capacity: Mutex::default(),
            hypervisor_answers: AtomicBool::new(true),
            name,
            host_id,
            env,
            process,
            bus,
            config,
            store,
            hypervisor,
            quarantined,
            unseen: Mutex::default(),
            proves_hearing,
            health,
            records,
            speaks: watch::Sender::new(reports == Reports::AtOnce),
            standing: watch::Sender::new(Standing::Unknown),
            recognized: watch::Sender::new(false),
            beat: SharedBeat::default(),
        });
        let agent = Self { host };
        agent.take_up(loaded.records).await;
        let events = agent.host.hypervisor.events();
        agent.host.measure().await;
        let watcher = Arc::clone(&agent.host);
        agent
            .host
            .process
            .spawn("compute watch", async move { watcher.watch(events).await });
        let reporting = Arc::clone(&agent.host);
        agent
            .host
            .process
            .spawn("compute reports", reporter::run(reporting));
        Ok(agent)
    }

    /// The host's own id, made at its first start and kept.
    pub fn host_id(&self) -> HostId {
        self.host.host_id
    }

    /// Whether the control plane takes this process for the host, for its other
    /// agents.
    pub fn recognition(&self) -> Recognition {
        Recognition::of(self.host.recognized.subscribe())
    }

    /// What says along with this agent's reports that the host's other agents live.
    pub fn beat(&self) -> SharedBeat {
        self.host.beat.clone()
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    async fn take_up(&self, records: Vec<Record>) {
        let now = self.host.env.now();
        let mut servers = 0u32;
        for record in records {
            if record.is_bare() && now.since(record.changed_at) > BARE_RECORD {
                if let Err(error) = self.host.store.forget(record.server_id).await {
                    warn!(server = %record.server_id, %error, "an old record could not be removed");
                }
                continue;
            }
            if let Some(claim) = &record.claim {
                self.host.ledger.restore(record.server_id, claim.amount);
            }
            servers = servers.saturating_add(1);
            if record.desired.is_some() {
                self.host.unseen().insert(record.server_id);
            }
            self.host.adopt(record);
        }
        info!(
            host = self.host.name,
            servers, "the compute agent took up its servers"
        );
    }

    /// Promises resources to a server; durable when it returns.
    pub(crate) async fn claim(
        &self,
        server: ServerId,
        generation: u64,
        amount: Amount,
        project_id: String,
        fence: Option<Fence>,
    ) -> Result<ClaimServerReply, Fault> {
        if self.host.capacity().is_none() {
            return Err(Fault::unavailable(
                "The host is still starting: its hypervisor does not answer yet.",
            ));
        }
        if self.host.quarantined.contains(&server) {
            return Err(Fault::conflict(
                "The host has an unreadable record of this server; an operator must look at it.",
            ));
        }
        self.host
            .command(server, Missing::Make, |reply| Command::Claim {
                generation,
                amount,
                project_id: project_id.clone(),
                fence: fence.clone(),
                reply,
            })
            .await?;
        Ok(self.host.ledger.reply())
    }

    /// Gives a claim back; fine when there is none.
    pub(crate) async fn release(
        &self,
        server: ServerId,
        generation: u64,
        fence: Option<Fence>,
    ) -> Result<(), Fault> {
        self.host
            .command(server, Missing::Fine, |reply| Command::Release {
                generation,
                fence: fence.clone(),
                reply,
            })
            .await
    }

    /// Stores a wish; durable when it returns.
    pub(crate) async fn set_desired(
        &self,
        server: ServerId,
        desired: DesiredServer,
        fence: Option<Fence>,
        request: RequestId,
    ) -> Result<(), Fault> {
        self.host
            .command(server, Missing::Make, |reply| Command::SetDesired {
                desired: Box::new(desired.clone()),
                fence: fence.clone(),
                span: tracing::Span::current(),
                request,
                reply,
            })
            .await
    }

    /// Forgets a tombstone; fine when there is none.
    pub(crate) async fn confirm_absent(
        &self,
        server: ServerId,
        generation: u64,
        fence: Option<Fence>,
    ) -> Result<(), Fault> {
        self.host
            .command(server, Missing::Fine, |reply| Command::ConfirmAbsent {
                generation,
                fence: fence.clone(),
                reply,
            })
            .await
    }

    /// What is published of the servers after `marker`, in the order of their
    /// ids, and the claims without a wish among them; `limit` of both together.
    pub(crate) fn list(&self, marker: Option<ServerId>, limit: usize) -> Result<Listed, Fault> {
        let reports = self.host.reporter.published();
        let unseen = {
            let owners = self.host.owners();
            let mut unseen = self.host.unseen();
            unseen.retain(|id| owners.contains_key(id) && !reports.contains_key(id));
            unseen.len()
        };
        if unseen > 0 {
            return Err(Fault::unavailable(format!(
                "The host has not looked at {unseen} of its servers yet."
            )));
        }
        let mut ids: BTreeSet<ServerId> = reports.keys().copied().collect();
        let claims: BTreeSet<ServerId> = self
            .host
            .owners()
            .iter()
            .filter(|(_, handle)| handle.only_claim.load(Ordering::Acquire))
            .map(|(server, _)| *server)
            .collect();
        ids.extend(&claims);
        let mut page = ids
            .into_iter()
            .filter(|server| marker.is_none_or(|marker| *server > marker));
        let taken: Vec<ServerId> = page.by_ref().take(limit).collect();
        let next = page.next().and(taken.last().copied());
        let servers = taken
            .iter()
            .filter_map(|server| reports.get(server).cloned())
            .collect();
        let claims = taken
            .into_iter()
            .filter(|server| claims.contains(server))
            .collect();
        Ok((servers, claims, next))
    }

    /// The end of a server's console log.
    pub(crate) async fn console_log(
        &self,
        server: ServerId,
        bytes: usize,
    ) -> Result<Vec<u8>, Fault> {
        if !self.host.owners().contains_key(&server) {
            return Err(Fault::not_found("The server is not on this host."));
        }
        self.host
            .hypervisor
            .console_log(server, bytes)
            .await
            .map_err(|error| {
                warn!(%server, error = ?error, "the console log could not be read");
                Fault::unavailable(error.fault)
            })
    }
}

/// What a command does when nobody owns the server yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Start an owner with an empty record.
    Make,
    /// Nothing to do.
    Fine,
}

impl Host {
    fn owners(&self) -> MutexGuard<'_, HashMap<ServerId, Handle>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the host is made of, once it is known.
    pub(crate) fn capacity(&self) -> Option<Capacity> {
        self.capacity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the host tells the control plane of itself, once it is known.
    pub(crate) fn facts(&self) -> Option<HostFacts> {
        let capacity = self.capacity()?;
        let (total, _) = self.ledger.state();
        Some(HostFacts {
            host: self.name.clone(),
            host_id: self.host_id.to_string(),
            vcpus: u32::try_from(total.vcpus).unwrap_or(u32::MAX),
            memory_mib: total.memory_mib,
            disk_gib: total.disk_gib,
            hypervisor_type: capacity.hypervisor_type,
            hypervisor_version: capacity.hypervisor_version,
            driver: self.hypervisor.kind().to_owned(),
            availability_zone: self.config.availability_zone.clone(),
            host_ip: self.config.host_ip.clone(),
            cpu_info: capacity.cpu_info,
            cpu_ratio: self.config.cpu_allocation_ratio,
            memory_ratio: self.config.memory_allocation_ratio,
            disk_ratio: self.config.disk_allocation_ratio,
        })
    }

    /// The context in which a host speaks: its own, without any rights.
    pub(crate) fn context(&self) -> RequestContext {
        RequestContext::host(self.env.id())
    }

    fn unseen(&self) -> MutexGuard<'_, BTreeSet<ServerId>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(self: &Arc<Self>, record: Record) -> Handle {
        let server = record.server_id;
        let (sender, receiver) = mpsc::channel(COMMANDS);
        let handle = Handle {
            commands: sender,
            only_claim: Arc::default(),
            image: Arc::default(),
        };
        let owner = Owner::new(Arc::clone(self), record, receiver, handle.clone());
        self.owners().insert(server, handle.clone());
        self.process.spawn("compute server", owner.run());
        handle
    }

    fn handle(self: &Arc<Self>, server: ServerId, missing: Missing) -> Option<Handle> {
        if let Some(handle) = self.owners().get(&server) {
            return Some(handle.clone());
        }
        match missing {
            Missing::Fine => None,
            Missing::Make => Some(self.adopt(Record::new(server, self.env.now()))),
        }
    }

    async fn command(
        self: &Arc<Self>,
        server: ServerId,
        missing: Missing,
        make: impl Fn(oneshot::Sender<Result<(), Fault>>) -> Command,
    ) -> Result<(), Fault> {
        // An owner may be on its way out, its record forgotten; then the next
        // one is asked. More than twice in a row cannot be.
        for _ in 0..4 {
            let Some(handle) = self.handle(server, missing) else {
                return Ok(());
            };
            let (reply, answer) = oneshot::channel();
            if handle.commands.send(make(reply)).await.is_err() {
                self.disown(server, &handle);
                continue;
            }
            if let Ok(result) = answer.await {
                return result;
            }
            if self.process.shutdown.is_cancelled() {
                break;
            }
        }
        Err(Fault::unavailable("The host's agent is restarting."))
    }

    /// Takes a finished owner off the list, unless it was replaced already.
    fn disown(&self, server: ServerId, gone: &Handle) {
        let mut owners = self.owners();
        if owners
            .get(&server)
            .is_some_and(|handle| handle.commands.same_channel(&gone.commands))
        {
            owners.remove(&server);
        }
    }

    fn look(&self, server: ServerId, observed: Option<Observed>) {
        let handle = self.owners().get(&server).cloned();
        if let Some(handle) = handle {
            // A full queue is looked at soon anyway.
            let _ = handle.commands.try_send(Command::Look(observed));
        }
    }

    fn look_at_all(&self) {
        let handles: Vec<Handle> = self.owners().values().cloned().collect();
        for handle in handles {
            let _ = handle.commands.try_send(Command::Look(None));
        }
    }

    /// Measures the host anew; the old figures stand when it fails.
    async fn measure(&self) {
        // A hypervisor that hangs must show as one that is down.
        let asked = tokio::time::timeout(MEASURE_BOUND, self.hypervisor.capacity());
        let measured = asked.await.unwrap_or_else(|_| {
            Err(crate::drivers::DriverError::not_yet(
                "The host's hypervisor does not answer.",
            ))
        });
        match measured {
            Ok(capacity) => {
                let total = capacity.total;
                self.ledger.set_total(Amount {
                    vcpus: total
                        .vcpus
                        .saturating_sub(u64::from(self.config.reserved_vcpus)),
                    memory_mib: total
                        .memory_mib
                        .saturating_sub(self.config.reserved_memory_mib),
                    disk_gib: total.disk_gib.saturating_sub(self.config.reserved_disk_gib),
                });
                *self.capacity.lock().unwrap_or_else(PoisonError::into_inner) = Some(capacity);
                if !self.hypervisor_answers.swap(true, Ordering::AcqRel) {
                    info!(host = self.name, "the hypervisor answers again");
                    self.health.up();
                    self.look_at_all();
                }
            }
            Err(error) => {
                if self.hypervisor_answers.swap(false, Ordering::AcqRel) {
                    warn!(host = self.name, error = ?error, "the hypervisor does not answer");
                    self.health.degraded("the hypervisor does not answer");
                }
            }
        }
    }

    /// Passes the hypervisor's events on, and looks at everything now and then.
    async fn watch(self: Arc<Self>, mut events: broadcast::Receiver<HypervisorEvent>) {
        let mut hypervisor_lives = true;
        let mut looked = self.env.clock.monotonic();
        loop {
            let every = if self.hypervisor_answers.load(Ordering::Acquire) {
                seconds(self.config.reconcile_seconds)
            } else {
                Duration::from_secs(1)
            };
            let due = every.saturating_sub(self.env.clock.monotonic().saturating_sub(looked));
            tokio::select! {
                () = self.process.shutdown.cancelled() => return,
                () = self.env.clock.sleep(due) => {
                    self.records.look(&self.store).await;
                    self.measure().await;
                    if self.hypervisor_answers.load(Ordering::Acquire) {
                        self.compare().await;
                    }
                    looked = self.env.clock.monotonic();
                }
                event = events.recv(), if hypervisor_lives => match event {
                    Ok(HypervisorEvent::Server(server)) => self.look(server, None),
                    Ok(HypervisorEvent::All) => {
                        self.measure().await;
                        self.look_at_all();
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
                    Err(broadcast::error::RecvError::Closed) => hypervisor_lives = false,
                },
            }
        }
    }

    /// Shows every owner what the hypervisor has of its server, and clears
    /// away what belongs to none.
    async fn compare(&self) {
        let seen = match self.hypervisor.observe_all().await {
            Ok(seen) => seen,
            Err(error) => {
                warn!(host = self.name, error = ?error, "the guests could not be listed");
                return;
            }
        };
        let owners: Vec<(ServerId, Handle)> = self
            .owners()
            .iter()
            .map(|(server, handle)| (*server, handle.clone()))
            .collect();
        let mut in_use = InUse::default();
        in_use.servers.extend(&self.quarantined);
        for (server, handle) in owners {
            let observed = seen.get(&server).cloned().unwrap_or_else(Observed::absent);
            let _ = handle.commands.try_send(Command::Look(Some(observed)));
            in_use.servers.insert(server);
            let image = handle.image.lock().unwrap_or_else(PoisonError::into_inner);
            in_use.images.extend(image.clone());
        }
        let strangers = seen
            .keys()
            .filter(|server| !in_use.servers.contains(server))
            .count();
        in_use.unknown = strangers > 0 || !self.quarantined.is_empty();
        if strangers > 0 {
            warn!(
                host = self.name,
                strangers, "there are guests that no record speaks of; they are left alone"
            );
        }
        if let Err(error) = self.hypervisor.tidy(&in_use).await {
            warn!(host = self.name, error = ?error, "clearing away failed");
        }
    }

    pub(crate) fn lost_guests(&self) -> LostGuests {
        self.config.lost_guests()
    }
}

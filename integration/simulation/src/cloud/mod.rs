//! Servers come and go: the api service's own workflows, reconcilers and intake
//! of reports, and the real scheduler, on a bus that loses, repeats and delays.
//! Network, image service and hosts are made up; they keep their promises (they
//! compare epochs and generations as the real ones do), and die and pause like
//! everybody else.
//!
//! At the end, when everything works again:
//!
//! * no workflow runs and no server is between two states;
//! * a server that is active has its claim and its guest on the one host that
//!   its row names, and its one address;
//! * nobody else has a claim, a guest, a record or an address anywhere;
//! * no host ever promised more than it has.

mod host;
mod neighbours;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use yakumo_api::simulation::Front;
use yakumo_contracts::compute_host::Power;
use yakumo_db::simulated::{Link, SimulatedStore, StoreFaults, Template};
use yakumo_rpc::{Bus, Faults, InProcessControl, InProcessOptions};
use yakumo_service::Process;
use yakumo_types::{ProjectId, RequestContext, RequestId, ServerId};

use self::host::Disk;
use self::neighbours::Ports;
use crate::scenario::{Detail, NoSeal, Run, bus_faults, listening, store_faults, template};
use crate::store::{ALL_SERVERS, AT_WORK};
use crate::world::{ProcessId, World, lock};

/// What is wrong on purpose, so that a test can see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The network service makes ports for a claim that has let them go
    /// already, when its message was late.
    LatePorts,
}

const APIS: usize = 2;
const HOSTS: [&str; 3] = ["node-a", "node-bb", "node-ccc"];
const SERVERS: usize = 5;
/// How long things go wrong, at most.
const TROUBLE: Duration = Duration::from_secs(90);
/// By when everything is as it should be after that: reconcilers look every
/// minute, those of addresses every five.
const PATIENCE: Duration = Duration::from_secs(3600);
const IMAGE: &str = "33333333-3333-4333-8333-333333333333";

struct Api {
    process: ProcessId,
    front: Front,
    link: Link,
}

struct Node {
    process: ProcessId,
    disk: Arc<Mutex<Disk>>,
}

struct Scene {
    world: World,
    store: SimulatedStore,
    bus: Bus,
    control: InProcessControl,
    apis: Vec<Api>,
    nodes: Vec<Node>,
    scheduler: ProcessId,
    neighbours: ProcessId,
    ports: Arc<Mutex<Ports>>,
    /// Thousandths of the guests that cannot be started.
    failing: u64,
    boot_bound: u64,
    started: usize,
    /// Servers that were accepted, as far as a client heard of it.
    known: Arc<Mutex<Vec<ServerId>>>,
}

fn context() -> RequestContext {
    RequestContext {
        project_id: Some(ProjectId::from_uuid(uuid::Uuid::from_u128(7))),
        ..RequestContext::internal(RequestId::from_uuid(uuid::Uuid::nil()))
    }
}

/// Runs one seed.
///
/// # Errors
/// If the simulation cannot be set up.
pub fn run(seed: u64, flaw: Flaw, detail: Detail) -> anyhow::Result<Run> {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    let schema = template::<yakumo_api::Migrator>(&TEMPLATE)?;
    let world = World::new(seed);
    let log = Arc::clone(world.log());
    let work = || -> anyhow::Result<Run> {
        let mut scene = Scene::new(world, flaw, &schema)?;
        scene.trouble()?;
        scene.heal();
        let mut violations = Vec::new();
        let every = Duration::from_secs(30);
        let until = scene.world.now() + PATIENCE;
        while scene.world.now() < until {
            scene.world.run_for(every);
            violations = scene.violations()?;
            if violations.is_empty() {
                break;
            }
        }
        for violation in &violations {
            scene.world.note(violation);
        }
        Ok(Run {
            seed,
            violations,
            lasted: scene.world.now(),
            log: scene.world.log().text(),
        })
    };
    match detail {
        Detail::Events => work(),
        Detail::Everything => listening(&log, work),
    }
}

impl Scene {
    fn new(mut world: World, flaw: Flaw, schema: &Template) -> anyhow::Result<Self> {
        let store = SimulatedStore::copy_of(schema, "db", world.env("db"), world.noter("db"))?;
        let (bus, control) = Bus::in_process_with(
            world.env("bus"),
            Arc::new(NoSeal),
            InProcessOptions::default(),
        );
        let chance = Arc::clone(world.chance());
        let ports: Arc<Mutex<Ports>> = Arc::default();
        let neighbours = world.start("neighbours")?;
        world.within(
            neighbours,
            neighbours::start(&bus, Arc::clone(&ports), flaw),
        )??;
        let mut scene = Self {
            scheduler: start_scheduler(&mut world, &bus, 0)?,
            world,
            store,
            bus,
            control,
            apis: Vec::new(),
            nodes: Vec::new(),
            neighbours,
            ports,
            // A flaw is in what is undone, so much is.
            failing: match flaw {
                Flaw::LatePorts => 500,
                Flaw::None if chance.happens(500) => chance.below(300),
                Flaw::None => 0,
            },
            boot_bound: match flaw {
                Flaw::None if chance.happens(500) => 600,
                _ => 30,
            },
            started: 0,
            known: Arc::default(),
        };
        for _ in 0..APIS {
            let api = scene.start_api()?;
            scene.apis.push(api);
        }
        for name in HOSTS {
            let disk: Arc<Mutex<Disk>> = Arc::default();
            let process = scene.start_node(name, &disk)?;
            scene.nodes.push(Node { process, disk });
        }
        scene.make_flavor();
        Ok(scene)
    }

    fn make_flavor(&mut self) {
        if let Some(api) = self.apis.first() {
            let front = api.front.clone();
            let minute = Duration::from_secs(60);
            self.world.complete(api.process, minute, async move {
                front.flavor_create(&context(), "tiny", 1, 512).await
            });
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.started += 1;
        format!("{what}-{}", self.started)
    }

    fn start_api(&mut self) -> anyhow::Result<Api> {
        let name = self.name("api");
        let id = self.world.start(&name)?;
        let process = Process::new(&name, self.world.env(&name));
        let (db, link) = self.world.within(id, self.store.open())??;
        let mut config = yakumo_api::Config {
            boot_bound_seconds: self.boot_bound,
            ..yakumo_api::Config::default()
        };
        config.quota.instances = -1;
        let bus = self.bus.clone();
        let front = self.world.within(id, async move {
            yakumo_api::simulation::start(&process, bus, config, db).await
        })??;
        Ok(Api {
            process: id,
            front,
            link,
        })
    }

    fn start_node(&mut self, name: &str, disk: &Arc<Mutex<Disk>>) -> anyhow::Result<ProcessId> {
        let process = self.world.start(name)?;
        let life = self.name(name);
        let env = self.world.env(&life);
        let (bus, failing) = (self.bus.clone(), self.failing);
        let disk = Arc::clone(disk);
        self.world
            .within(process, host::start(&bus, env, name, disk, failing))??;
        Ok(process)
    }

    fn trouble(&mut self) -> anyhow::Result<()> {
        // Everybody has met everybody.
        self.world.run_for(Duration::from_secs(20));
        let chance = Arc::clone(self.world.chance());
        self.control.set(bus_faults(&chance));
        self.store.set_faults(store_faults(&chance));
        let mut asked = 0;
        let until = self.world.now() + TROUBLE;
        while self.world.now() < until || asked < SERVERS {
            if asked < SERVERS && chance.happens(400) {
                asked += 1;
                self.create(asked);
            } else if chance.happens(200) {
                self.delete();
            } else {
                self.disturb()?;
            }
            if chance.happens(500) {
                self.world
                    .run_for(Duration::from_millis(chance.below(5000)));
            } else {
                self.world
                    .run_events(1 + chance.below(600), Duration::from_secs(5));
            }
        }
        Ok(())
    }

    fn create(&mut self, number: usize) {
        let chance = Arc::clone(self.world.chance());
        let Some(api) = chance.one_of(&self.apis) else {
            return;
        };
        let (front, known) = (api.front.clone(), Arc::clone(&self.known));
        let note = self.world.noter("client");
        self.world.spawn(api.process, async move {
            let name = format!("server-{number}");
            let outcome = front.server_create(&context(), &name, IMAGE, "tiny").await;
            note(&format!("{name} asked for: {outcome:?}"));
            if let Ok(id) = outcome {
                lock(&known).push(id);
            }
        });
    }

    fn delete(&mut self) {
        let chance = Arc::clone(self.world.chance());
        let Some(id) = chance.one_of(&lock(&self.known)).copied() else {
            return;
        };
        let Some(api) = chance.one_of(&self.apis) else {
            return;
        };
        let front = api.front.clone();
        let note = self.world.noter("client");
        self.world.spawn(api.process, async move {
            let outcome = front.server_delete(&context(), id).await;
            note(&format!("{id} to be deleted: {outcome:?}"));
        });
    }

    /// One thing goes wrong.
    fn disturb(&mut self) -> anyhow::Result<()> {
        let chance = Arc::clone(self.world.chance());
        let length = chance.between(Duration::from_millis(10), Duration::from_secs(40));
        let api = usize::try_from(chance.below(APIS as u64)).unwrap_or(0);
        let node = usize::try_from(chance.below(HOSTS.len() as u64)).unwrap_or(0);
        match chance.below(9) {
            0 | 1 => {
                if let Some(old) = self.apis.get(api) {
                    self.world.kill(old.process);
                }
                let new = self.start_api()?;
                if let Some(place) = self.apis.get_mut(api) {
                    *place = new;
                }
            }
            2 | 3 => {
                if let Some(api) = self.apis.get(api) {
                    api.link.cut();
                    self.world.pause(api.process, length);
                }
            }
            4 => {
                if let Some(api) = self.apis.get(api) {
                    api.link.cut();
                }
            }
            5 => {
                if let (Some(old), Some(name)) = (self.nodes.get(node), HOSTS.get(node)) {
                    self.world.kill(old.process);
                    let disk = Arc::clone(&old.disk);
                    let process = self.start_node(name, &disk)?;
                    if let Some(place) = self.nodes.get_mut(node) {
                        place.process = process;
                    }
                }
            }
            6 => {
                if let Some(node) = self.nodes.get(node) {
                    self.world.pause(node.process, length);
                }
            }
            7 => {
                self.world.kill(self.scheduler);
                self.started += 1;
                self.scheduler = start_scheduler(&mut self.world, &self.bus, self.started)?;
            }
            _ => self.world.pause(self.neighbours, length),
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    fn heal(&mut self) {
        self.world.note("trouble ends");
        self.control.set(Faults::default());
        self.store.set_faults(StoreFaults::default());
    }

    fn violations(&self) -> anyhow::Result<Vec<String>> {
        let mut violations = Vec::new();
        for row in self.store.peek(AT_WORK)? {
            violations.push(format!("a workflow does not end: {row:?}"));
        }
        let rows = self.store.peek(ALL_SERVERS)?;
        // Where each server may be.
        let mut homes: BTreeMap<String, String> = BTreeMap::new();
        for row in &rows {
            let [id, vm, task, host, workflow, deleted] = row.as_slice() else {
                continue;
            };
            let rests = task.is_empty() && workflow.is_empty();
            match (vm.as_str(), deleted.as_str()) {
                _ if !rests => violations.push(format!("between two states: {row:?}")),
                ("active", "0") => {
                    homes.insert(id.clone(), host.clone());
                }
                ("error", "0") => {}
                ("deleted", deleted) if deleted != "0" => {}
                _ => violations.push(format!("in an unheard-of state: {row:?}")),
            }
        }
        self.check_nodes(&homes, &mut violations);
        let ports = lock(&self.ports);
        for server in ports.addresses.keys() {
            if !homes.contains_key(server) {
                violations.push(format!("an address of nobody: {server}"));
            }
        }
        for server in homes.keys() {
            if !ports.addresses.contains_key(server) {
                violations.push(format!("active and without an address: {server}"));
            }
        }
        Ok(violations)
    }

    fn check_nodes(&self, homes: &BTreeMap<String, String>, violations: &mut Vec<String>) {
        let mut found: BTreeMap<&String, usize> = BTreeMap::new();
        let disks: Vec<_> = self.nodes.iter().map(|node| lock(&node.disk)).collect();
        for (disk, name) in disks.iter().zip(HOSTS) {
            if disk.oversold {
                violations.push(format!("{name} promised more than it has"));
            }
            for (id, record) in &disk.records {
                if record.is_bare() {
                    continue;
                }
                if homes.get(id).is_none_or(|home| home != name) {
                    violations.push(format!("{name} has what is not there: {id} {record:?}"));
                    continue;
                }
                let runs = record
                    .desired
                    .as_ref()
                    .is_some_and(|desired| desired.power() == Power::Running);
                if record.guest && record.claim.is_some() && runs {
                    *found.entry(id).or_default() += 1;
                }
            }
        }
        for id in homes.keys() {
            match found.get(id) {
                Some(1) => {}
                count => violations.push(format!("active and running {count:?} times: {id}")),
            }
        }
    }
}

fn start_scheduler(world: &mut World, bus: &Bus, number: usize) -> anyhow::Result<ProcessId> {
    let name = format!("scheduler-{number}");
    let id = world.start(&name)?;
    let process = Process::new(&name, world.env(&name));
    let config = yakumo_scheduler::Config::default();
    world.within(id, yakumo_scheduler::start(process, bus.clone(), config))??;
    Ok(id)
}

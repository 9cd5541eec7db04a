//! Servers come and go, are stopped, started and rebooted: the api service's own
//! workflows, reconcilers and intake of reports, and the real scheduler, on a
//! bus that loses, repeats and delays.
//! Network, image service and hosts are made up; they keep their promises (they
//! compare epochs and generations as the real ones do), and die and pause like
//! everybody else.
//!
//! At the end, when everything works again:
//!
//! * no workflow runs and no server is between two states;
//! * a server that is active has its claim and its running guest on the one host
//!   that its row names, one that is stopped has its claim there and a guest that
//!   is off, and either has its one address;
//! * nobody else has a claim, a guest, a record or an address anywhere;
//! * no host ever promised more than it has;
//! * a server that was not deleted and has no fault is as its user was told last
//!   that it would be;
//! * every request was answered, no user's key made two servers, and each key
//!   that was answered with an id made that server.

mod host;
mod neighbours;
mod users;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use yakumo_api::simulation::Front;
use yakumo_contracts::compute_host::Power;
use yakumo_db::simulated::{Link, SimulatedStore, StoreFaults, Template};
use yakumo_rpc::{Bus, Faults, InProcessControl, InProcessOptions};
use yakumo_service::Process;

use self::host::{Disk, Nature};
use self::neighbours::Ports;
use self::users::{Asking, EVERY_SERVER, Outlook, Users, Wanted, key, name, owner};
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
    /// Hosts take an older desired state for the present one, when it comes
    /// late.
    OlderPower,
    /// The front door does not look at keys.
    IgnoredKeys,
}

/// How often users do what in a time of trouble, in thousandths.
struct Habits {
    delete: u64,
    change_power: u64,
    ask_again: u64,
}

impl Flaw {
    /// A flaw is looked for where it is.
    const fn habits(self) -> Habits {
        let (delete, change_power, ask_again) = match self {
            Self::None => (120, 230, 80),
            Self::LatePorts => (200, 0, 20),
            Self::OlderPower => (50, 500, 50),
            Self::IgnoredKeys => (100, 100, 300),
        };
        Habits {
            delete,
            change_power,
            ask_again,
        }
    }
}

const APIS: usize = 2;
const HOSTS: [&str; 3] = ["node-a", "node-bb", "node-ccc"];
const SERVERS: usize = 5;
/// How long things go wrong, at most.
const TROUBLE: Duration = Duration::from_secs(90);
/// By when everything is as it should be after that, besides what a boot or a
/// change of power may take, which is undone then. Each of these may have to
/// wait for the one before it:
///
/// * 40 s: the longest pause of a process ends; what it was asked meanwhile was
///   given up before (after 30 s at most), and what comes once more has come (20 s);
/// * 30 s: users who have no answer ask again;
/// * 20 s: a worker's lease runs out (15 s), and another one looks (5 s);
/// * 38 s: a step that failed is tried again (30 s and a quarter);
/// * 15 s: a deletion looks whether what it called off is undone;
/// * 120 s: a host is compared, at the end of a round of 60 s after it was at the
///   beginning of the one before;
/// * 330 s: addresses are compared, every five minutes and a tenth.
///
/// A deletion's own bound is for hosts that stay away, and none does.
const PATIENCE: Duration = Duration::from_secs(40 + 30 + 20 + 38 + 15 + 120 + 330);
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

/// Where a server is to be found, and how.
struct Home {
    host: String,
    power: Power,
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
    flaw: Flaw,
    nature: Nature,
    boot_bound: u64,
    power_bound: u64,
    started: usize,
    users: Arc<Mutex<Users>>,
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
        let until = scene.world.now() + scene.patience();
        while scene.world.now() < until {
            scene.ask_again();
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
            flaw,
            nature: Nature {
                // A flaw is in what is undone, so much is.
                failing: match flaw {
                    Flaw::LatePorts => 500,
                    Flaw::None if chance.happens(500) => chance.below(300),
                    _ => 0,
                },
                again: Arc::default(),
                flaw,
            },
            boot_bound: match flaw {
                Flaw::None if chance.happens(500) => 600,
                _ => 30,
            },
            power_bound: match flaw {
                Flaw::None if chance.happens(500) => 30,
                _ => 300,
            },
            started: 0,
            users: Arc::default(),
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
                front.flavor_create(&owner(0), "tiny", 1, 512).await
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
            power_bound_seconds: self.power_bound,
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
        let (bus, nature) = (self.bus.clone(), self.nature.clone());
        let disk = Arc::clone(disk);
        self.world
            .within(process, host::start(&bus, env, name, disk, nature))??;
        Ok(process)
    }

    fn trouble(&mut self) -> anyhow::Result<()> {
        // Everybody has met everybody.
        self.world.run_for(Duration::from_secs(20));
        let chance = Arc::clone(self.world.chance());
        self.control.set(bus_faults(&chance));
        self.store.set_faults(store_faults(&chance));
        let again = match self.flaw {
            Flaw::OlderPower => 500,
            Flaw::None if chance.happens(500) => chance.below(150),
            _ => 0,
        };
        self.nature.again.store(again, Ordering::Relaxed);
        let habits = self.flaw.habits();
        let mut asked = 0;
        let until = self.world.now() + TROUBLE;
        while self.world.now() < until || asked < SERVERS {
            if asked < SERVERS && chance.happens(400) {
                asked += 1;
                self.create(asked);
            } else if chance.happens(habits.delete) {
                self.delete();
            } else if chance.happens(habits.change_power) {
                self.change_power();
            } else if chance.happens(habits.ask_again) {
                let open = lock(&self.users).unanswered();
                if let Some(order) = chance.one_of(&open) {
                    self.create(*order);
                }
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

    /// A user asks for a server, perhaps again.
    fn create(&mut self, order: usize) {
        let chance = Arc::clone(self.world.chance());
        let Some(api) = chance.one_of(&self.apis) else {
            return;
        };
        let (front, users) = (api.front.clone(), Arc::clone(&self.users));
        let key = (self.flaw != Flaw::IgnoredKeys).then(|| key(order));
        let note = self.world.noter("client");
        lock(&users).order(order);
        self.world.spawn(api.process, async move {
            let (context, name) = (owner(order), name(order));
            let asked = front.server_create(&context, &name, IMAGE, "tiny", key.as_ref());
            let outcome = asked.await;
            note(&format!("{name} asked for: {outcome:?}"));
            lock(&users).told(order, outcome);
        });
    }

    /// All who have no answer ask again.
    fn ask_again(&mut self) {
        let open = lock(&self.users).unanswered();
        for order in open {
            self.create(order);
        }
    }

    fn delete(&mut self) {
        let chance = Arc::clone(self.world.chance());
        let servers = lock(&self.users).servers();
        let Some(id) = chance.one_of(&servers).copied() else {
            return;
        };
        let Some(api) = chance.one_of(&self.apis) else {
            return;
        };
        let front = api.front.clone();
        let note = self.world.noter("client");
        self.world.spawn(api.process, async move {
            let outcome = front.server_delete(&owner(0), id).await;
            note(&format!("{id} to be deleted: {outcome:?}"));
        });
    }

    fn change_power(&mut self) {
        let chance = Arc::clone(self.world.chance());
        let servers = lock(&self.users).idle_servers();
        let Some(id) = chance.one_of(&servers).copied() else {
            return;
        };
        let Some(api) = chance.one_of(&self.apis) else {
            return;
        };
        let wanted = match chance.below(5) {
            0 | 1 => Wanted::Stop,
            2 | 3 => Wanted::Start,
            _ => Wanted::Reboot,
        };
        let outlook = match wanted {
            Wanted::Stop => Outlook::Off,
            Wanted::Start | Wanted::Reboot => Outlook::On,
        };
        let front = api.front.clone();
        let note = self.world.noter("client");
        let asking = Asking::of(&self.users, id);
        self.world.spawn(api.process, async move {
            let context = owner(0);
            let outcome = match wanted {
                Wanted::Stop => front.server_stop(&context, id).await,
                Wanted::Start => front.server_start(&context, id).await,
                Wanted::Reboot => front.server_reboot(&context, id).await,
            };
            note(&format!("{id}, {wanted:?} asked for: {outcome:?}"));
            asking.told(&outcome, outlook);
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
        self.nature.again.store(0, Ordering::Relaxed);
    }

    fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs(self.boot_bound.max(self.power_bound))
    }

    fn violations(&self) -> anyhow::Result<Vec<String>> {
        let mut violations = Vec::new();
        for row in self.store.peek(AT_WORK)? {
            violations.push(format!("a workflow does not end: {row:?}"));
        }
        let rows = self.store.peek(ALL_SERVERS)?;
        // Where each server may be.
        let mut homes: BTreeMap<String, Home> = BTreeMap::new();
        for row in &rows {
            let [id, vm, task, host, workflow, deleted] = row.as_slice() else {
                continue;
            };
            let rests = task.is_empty() && workflow.is_empty();
            match (vm.as_str(), deleted.as_str()) {
                _ if !rests => violations.push(format!("between two states: {row:?}")),
                ("active" | "stopped", "0") => {
                    let host = host.clone();
                    let power = match vm.as_str() {
                        "active" => Power::Running,
                        _ => Power::Stopped,
                    };
                    homes.insert(id.clone(), Home { host, power });
                }
                ("error", "0") => {}
                ("deleted", deleted) if deleted != "0" => {}
                _ => violations.push(format!("in an unheard-of state: {row:?}")),
            }
        }
        self.check_nodes(&homes, &mut violations);
        let ever = self.store.peek(EVERY_SERVER)?;
        lock(&self.users).check(&ever, &mut violations);
        let ports = lock(&self.ports);
        for server in ports.addresses.keys() {
            if !homes.contains_key(server) {
                violations.push(format!("an address of nobody: {server}"));
            }
        }
        for server in homes.keys() {
            if !ports.addresses.contains_key(server) {
                violations.push(format!("there and without an address: {server}"));
            }
        }
        Ok(violations)
    }

    fn check_nodes(&self, homes: &BTreeMap<String, Home>, violations: &mut Vec<String>) {
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
                let Some(home) = homes.get(id).filter(|home| home.host == name) else {
                    violations.push(format!("{name} has what is not there: {id} {record:?}"));
                    continue;
                };
                let is_so = record.guest == (home.power == Power::Running);
                if is_so && record.claim.is_some() && record.wants(home.power) {
                    *found.entry(id).or_default() += 1;
                }
            }
        }
        for (id, home) in homes {
            match found.get(id) {
                Some(1) => {}
                count => violations.push(format!(
                    "it should be {:?} on its host and is so {count:?} times: {id}",
                    home.power
                )),
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

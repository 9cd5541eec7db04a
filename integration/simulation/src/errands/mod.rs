//! The workflow engine with a workflow made up for the purpose: an errand takes
//! three things from an outside world, over a bus that loses, repeats and
//! delays, and waits for a word in between. Several workers run the errands on
//! one database whose connections die; they are killed, paused for longer than
//! their lease, and cut off.
//!
//! At the end, when everything works again:
//!
//! * every errand has ended;
//! * of one that succeeded each thing is taken exactly once, of one that failed
//!   none, and none is taken for an errand that never was;
//! * no write was made in the name of a claim that was not the valid one.

mod outside;
mod workflow;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use yakumo_db::simulated::{Link, SimulatedStore, StoreFaults, Template};
use yakumo_db::{Db, DbError};
use yakumo_rpc::{Bus, Faults, InProcessControl, InProcessOptions};
use yakumo_types::{Fault, RequestContext, RequestId, WorkflowId};
use yakumo_workflow::Engine;

use self::outside::Outside;
use self::workflow::{Errand, Input, THINGS};
use crate::scenario::{Detail, NoSeal, Run, bus_faults, listening, store_faults, template};
use crate::store::{
    EFFECTS, ErrandTables, OVERTAKEN, OutsideTables, UNFINISHED, WORKFLOWS, word_say,
};
use crate::world::{Chance, ProcessId, World, lock};

/// What is wrong on purpose, so that a test can see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Steps write without the condition that the workflow is still theirs.
    UnfencedWrites,
    /// The outside world carries out every message that it gets.
    CarelessReceiver,
    /// The outside world takes a message of a claim that has undone that step.
    LateReceiver,
}

impl Flaw {
    /// A flaw is looked for where it is: of messages that are late there are few
    /// by themselves, and of those few come after what was undone.
    fn bus_faults(self, chance: &Chance) -> Faults {
        let faults = bus_faults(chance);
        match self {
            Self::LateReceiver => Faults {
                duplicate: 300,
                delay: 900,
                delay_limit: Duration::from_secs(8),
                ..faults
            },
            Self::None | Self::UnfencedWrites | Self::CarelessReceiver => faults,
        }
    }
}

const WORKERS: usize = 3;
const ERRANDS: usize = 5;
/// How long things go wrong, at most.
const TROUBLE: Duration = Duration::from_secs(40);
/// By when everything has ended after that.
const PATIENCE: Duration = Duration::from_secs(1800);

struct Worker {
    process: ProcessId,
    engine: Engine,
    db: Db,
    link: Link,
}

struct Scene {
    world: World,
    store: SimulatedStore,
    outside_store: SimulatedStore,
    bus: Bus,
    control: InProcessControl,
    flaw: Flaw,
    workers: Vec<Worker>,
    outside: ProcessId,
    outside_link: Link,
    started: usize,
    /// Words that are still to be said.
    unsaid: Arc<Mutex<Vec<String>>>,
}

fn resource(number: usize) -> String {
    format!("errand-{number}")
}

fn context() -> RequestContext {
    RequestContext::internal(RequestId::from_uuid(uuid::Uuid::nil()))
}

/// Runs one seed.
///
/// # Errors
/// If the simulation cannot be set up.
pub fn run(seed: u64, flaw: Flaw, detail: Detail) -> anyhow::Result<Run> {
    static ERRANDS_TEMPLATE: OnceLock<Template> = OnceLock::new();
    static OUTSIDE_TEMPLATE: OnceLock<Template> = OnceLock::new();
    let errands = template::<ErrandTables>(&ERRANDS_TEMPLATE)?;
    let outside = template::<OutsideTables>(&OUTSIDE_TEMPLATE)?;
    let world = World::new(seed);
    let log = Arc::clone(world.log());
    let work = || -> anyhow::Result<Run> {
        let mut scene = Scene::new(world, flaw, &errands, &outside)?;
        scene.trouble()?;
        scene.heal()?;
        let ended = scene.wait_for_the_end();
        let violations = scene.violations(ended)?;
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
    fn new(
        mut world: World,
        flaw: Flaw,
        errands: &Template,
        outside: &Template,
    ) -> anyhow::Result<Self> {
        let store = SimulatedStore::copy_of(errands, "db", world.env("db"), world.noter("db"))?;
        let outside_store = SimulatedStore::copy_of(
            outside,
            "outside db",
            world.env("outside db"),
            world.noter("outside db"),
        )?;
        let (bus, control) = Bus::in_process_with(
            world.env("bus"),
            Arc::new(NoSeal),
            InProcessOptions::default(),
        );
        let (outside, outside_link) = start_outside(&mut world, &bus, &outside_store, flaw)?;
        let mut scene = Self {
            world,
            store,
            outside_store,
            bus,
            control,
            flaw,
            workers: Vec::new(),
            outside,
            outside_link,
            started: 0,
            unsaid: Arc::default(),
        };
        for _ in 0..WORKERS {
            let worker = scene.start_worker()?;
            scene.workers.push(worker);
        }
        Ok(scene)
    }

    fn start_worker(&mut self) -> anyhow::Result<Worker> {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let process = self.world.start(&name)?;
        let env = self.world.env(&name);
        let (db, link) = self.world.within(process, self.store.open())??;
        let engine = Engine::new(db.clone(), env).register(Arc::new(Errand {
            bus: self.bus.clone(),
            flaw: self.flaw,
        }));
        let starting = engine.clone();
        self.world.within(process, async move {
            starting.start(
                &|_, task| drop(tokio::spawn(task)),
                CancellationToken::new(),
            );
        })?;
        Ok(Worker {
            process,
            engine,
            db,
            link,
        })
    }

    fn trouble(&mut self) -> anyhow::Result<()> {
        let chance = Arc::clone(self.world.chance());
        self.control.set(self.flaw.bus_faults(&chance));
        self.store.set_faults(store_faults(&chance));
        self.outside_store.set_faults(store_faults(&chance));
        let mut submitted = 0;
        while self.world.now() < TROUBLE || submitted < ERRANDS {
            if submitted < ERRANDS && chance.happens(400) {
                self.submit(submitted);
                submitted += 1;
            } else {
                self.disturb()?;
            }
            if chance.happens(300) {
                self.world
                    .run_for(Duration::from_millis(chance.below(4000)));
            } else {
                self.world
                    .run_events(1 + chance.below(400), Duration::from_secs(5));
            }
        }
        Ok(())
    }

    fn submit(&mut self, number: usize) {
        let chance = Arc::clone(self.world.chance());
        let input = Input {
            refused_at: chance
                .happens(350)
                .then(|| chance.one_of(&THINGS).map(|thing| (*thing).to_owned()))
                .flatten(),
            waits: chance.happens(600),
        };
        if input.waits {
            lock(&self.unsaid).push(resource(number));
        }
        let deadline = match chance.below(3) {
            0 => Duration::from_secs(20),
            _ => Duration::from_secs(240),
        };
        let note = self.world.noter("client");
        self.by_some_worker(move |db, engine| async move {
            let what = resource(number);
            let outcome = db
                .write(move |txn| {
                    let (engine, input) = (engine.clone(), json!(input));
                    Box::pin(async move {
                        engine
                            .submit(
                                txn,
                                Errand::KIND,
                                &resource(number),
                                input,
                                &context(),
                                deadline,
                            )
                            .await
                    })
                })
                .await;
            note(&format!("{what} submitted: {outcome:?}"));
        });
    }

    /// Runs something in a worker that is there.
    fn by_some_worker<F>(&mut self, work: impl FnOnce(Db, Engine) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let chance = Arc::clone(self.world.chance());
        let Some(worker) = chance.one_of(&self.workers) else {
            return;
        };
        let task = work(worker.db.clone(), worker.engine.clone());
        self.world.spawn(worker.process, task);
    }

    /// One thing goes wrong, or one that errands wait for happens.
    fn disturb(&mut self) -> anyhow::Result<()> {
        let chance = Arc::clone(self.world.chance());
        let index = usize::try_from(chance.below(WORKERS as u64)).unwrap_or(0);
        let what = match self.flaw {
            // Nothing is undone as soon as what is called off.
            Flaw::LateReceiver if chance.happens(600) => 7,
            _ => chance.below(10),
        };
        match what {
            0..=2 => {
                if let Some(worker) = self.workers.get(index) {
                    self.world.kill(worker.process);
                }
                let worker = self.start_worker()?;
                if let Some(place) = self.workers.get_mut(index) {
                    *place = worker;
                }
            }
            3 | 4 => {
                if let Some(worker) = self.workers.get(index) {
                    // The server does not keep a transaction open for it.
                    worker.link.cut();
                    let length = chance.between(Duration::from_millis(10), Duration::from_secs(40));
                    self.world.pause(worker.process, length);
                }
            }
            5 => {
                if let Some(worker) = self.workers.get(index) {
                    worker.link.cut();
                }
            }
            6 => {
                self.outside_link.cut();
                self.world.kill(self.outside);
                self.world
                    .run_for(Duration::from_millis(chance.below(3000)));
                (self.outside, self.outside_link) =
                    start_outside(&mut self.world, &self.bus, &self.outside_store, self.flaw)?;
            }
            7 => self.cancel(),
            _ => self.say(),
        }
        Ok(())
    }

    /// Says one of the words that errands wait for.
    fn say(&mut self) {
        let chance = Arc::clone(self.world.chance());
        let Some(what) = chance.one_of(&lock(&self.unsaid)).cloned() else {
            return;
        };
        let unsaid = Arc::clone(&self.unsaid);
        self.by_some_worker(move |db, engine| async move {
            let said = what.clone();
            let outcome = db
                .write(move |txn| {
                    let (engine, what) = (engine.clone(), said.clone());
                    Box::pin(async move {
                        // Workflows first, as everywhere.
                        engine.wake(txn, &what).await?;
                        word_say(txn, &what).await
                    })
                })
                .await;
            if outcome.is_ok() {
                lock(&unsaid).retain(|it| *it != what);
            }
        });
    }

    fn cancel(&mut self) {
        let chance = Arc::clone(self.world.chance());
        let number = usize::try_from(chance.below(ERRANDS as u64)).unwrap_or(0);
        self.by_some_worker(move |db, engine| async move {
            let Ok(found) = engine.of_resource(&resource(number)).await else {
                return;
            };
            let Some(id) = found.first().map(|view| view.id) else {
                return;
            };
            // Whether it was heard does not matter.
            let _ = cancel(db, engine, id).await;
        });
    }

    /// Nothing goes wrong any more.
    fn heal(&mut self) -> anyhow::Result<()> {
        self.world.note("trouble ends");
        self.control.set(Faults::default());
        self.store.set_faults(StoreFaults::default());
        self.outside_store.set_faults(StoreFaults::default());
        for _ in 0..100 {
            if lock(&self.unsaid).is_empty() {
                break;
            }
            self.say();
            self.world.run_for(Duration::from_secs(1));
        }
        Ok(())
    }

    fn wait_for_the_end(&mut self) -> bool {
        let store = self.store.clone();
        let ended = move |_: &World| store.peek(UNFINISHED).is_ok_and(|rows| rows.is_empty());
        self.world
            .run_until(PATIENCE, Duration::from_secs(1), ended)
    }

    fn violations(&self, ended: bool) -> anyhow::Result<Vec<String>> {
        let mut violations = Vec::new();
        if !ended {
            violations.push("an errand does not end".to_owned());
        }
        if !lock(&self.unsaid).is_empty() {
            violations.push("a healthy database takes no write".to_owned());
        }
        let workflows = self.store.peek(WORKFLOWS)?;
        let mut effects = self.outside_store.peek(EFFECTS)?;
        for workflow in &workflows {
            let [id, resource, state, input] = workflow.as_slice() else {
                continue;
            };
            let (own, others) = effects
                .into_iter()
                .partition(|it| it.first() == Some(resource));
            effects = others;
            let own: Vec<Vec<String>> = own;
            let expected = match state.as_str() {
                "succeeded" => THINGS
                    .iter()
                    .map(|thing| vec![resource.clone(), (*thing).to_owned(), "1".to_owned()])
                    .collect(),
                _ => Vec::new(),
            };
            if own != expected {
                violations.push(format!("{resource} {state}, and has {own:?} ({id})"));
            }
            let input: Input = serde_json::from_str(input)?;
            if state == "succeeded" && input.refused_at.is_some() {
                violations.push(format!("{resource} succeeded although it was refused"));
            }
        }
        for effect in effects {
            violations.push(format!("something is taken for nobody: {effect:?}"));
        }
        let overtaken = self.store.peek(OVERTAKEN)?;
        for row in overtaken {
            violations.push(format!("a write by a claim that was not valid: {row:?}"));
        }
        Ok(violations)
    }
}

async fn cancel(db: Db, engine: Engine, id: WorkflowId) -> Result<(), DbError> {
    db.write(move |txn| {
        let engine = engine.clone();
        Box::pin(async move {
            let fault = Fault::conflict("It is not wanted any more.");
            engine.cancel(txn, id, &fault).await
        })
    })
    .await
}

fn start_outside(
    world: &mut World,
    bus: &Bus,
    store: &SimulatedStore,
    flaw: Flaw,
) -> anyhow::Result<(ProcessId, Link)> {
    let process = world.start("outside")?;
    let (db, link) = world.within(process, store.open())??;
    let outside = Arc::new(Outside {
        db,
        flaw,
        note: world.noter("outside"),
    });
    world.within(process, outside::serve(bus.clone(), outside))??;
    Ok((process, link))
}

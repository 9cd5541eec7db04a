//! What a scenario is: a function from a seed to a log and a verdict. And
//! running many of them.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tracing::level_filters::LevelFilter;
use yakumo_db::MigratorTrait;
use yakumo_db::simulated::{SimulatedStore, StoreFaults, Template};
use yakumo_rpc::Faults;
use yakumo_types::{ContextSeal, Fault, RequestContext};

use crate::world::{Chance, Log, World, lock};

/// How one seed went.
#[derive(Debug, Clone)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Everything that happened.
    pub log: String,
    /// What should not be so at the end.
    pub violations: Vec<String>,
    /// How much time passed in it.
    pub lasted: Duration,
}

/// Whether the log holds what the product says, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What happened.
    Events,
    /// And what the product logged.
    Everything,
}

/// A scenario: everything that it does follows from the seed.
pub type Scenario<'s> = dyn Fn(u64) -> anyhow::Result<Run> + Sync + 's;

/// How many seeds went how.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seeds that were run.
    pub seeds: u64,
    /// The failing run with the lowest seed.
    pub failure: Option<Run>,
    /// All time that passed in them.
    pub lasted: Duration,
}

/// Runs `count` seeds from `first` on, some at the same time, up to the first
/// one that fails.
///
/// # Errors
/// If a simulation cannot be set up.
pub fn run_many(scenario: &Scenario<'_>, first: u64, count: u64) -> anyhow::Result<Tally> {
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(count);
    let tally = Mutex::new(Tally::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= end.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let run = scenario(first.wrapping_add(index))?;
                let mut tally = lock(&tally);
                tally.seeds += 1;
                tally.lasted += run.lasted;
                let lowest = tally.failure.as_ref().is_none_or(|it| run.seed < it.seed);
                if !run.violations.is_empty() && lowest {
                    // Those below it may still be under way; none above begins.
                    end.fetch_min(index, Ordering::Relaxed);
                    tally.failure = Some(run);
                }
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    Ok(tally.into_inner().unwrap_or_default())
}

/// Runs `work`, and puts what the product logs on the way into `log`, too.
pub fn listening<T>(log: &Arc<Log>, work: impl FnOnce() -> T) -> T {
    let log = Arc::clone(log);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .without_time()
        .with_ansi(false)
        .with_writer(move || LogWriter(Arc::clone(&log)))
        .finish();
    tracing::subscriber::with_default(subscriber, work)
}

struct LogWriter(Arc<Log>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A database with a schema that is built once, in a world of its own.
///
/// # Errors
/// If it cannot be built.
pub fn template<M: MigratorTrait>(cell: &OnceLock<Template>) -> anyhow::Result<Template> {
    if let Some(template) = cell.get() {
        return Ok(template.clone());
    }
    let mut world = World::new(0);
    let process = world.start("schema")?;
    let store = SimulatedStore::empty("schema", world.env("schema"), Arc::new(|_| {}))?;
    let (db, _) = world.within(process, store.open())??;
    world
        .complete(process, Duration::from_secs(600), async move {
            db.migrate::<M>().await
        })
        .context("the schema took too long")??;
    let template = store.template()?;
    Ok(cell.get_or_init(|| template).clone())
}

/// Nobody needs it: contexts never leave the process.
pub struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

/// How badly a seed treats its bus. Each kind of fault is left out by some
/// seeds: what hides behind another one shows there.
pub fn bus_faults(chance: &Chance) -> Faults {
    let some = |most: u64| {
        let drawn = if chance.happens(700) {
            chance.below(most)
        } else {
            0
        };
        u16::try_from(drawn).unwrap_or(0)
    };
    Faults {
        lose: some(80),
        duplicate: some(80),
        delay: 400 + some(500),
        lose_replies: some(80),
        delay_replies: 300 + some(500),
        delay_limit: if chance.happens(500) {
            Duration::from_millis(20 + chance.below(200))
        } else {
            Duration::from_millis(500 + chance.below(7000))
        },
    }
}

/// How badly a seed treats its databases.
pub fn store_faults(chance: &Chance) -> StoreFaults {
    let some = |most: u64| {
        if chance.happens(700) {
            chance.below(most)
        } else {
            0
        }
    };
    StoreFaults {
        statement: some(15),
        before_commit: some(40),
        after_commit: some(40),
        slow: some(60),
        slow_by: Duration::from_millis(1 + chance.below(4000)),
    }
}

//! A world of processes whose time, chance and order come from a seed.
//!
//! Each process is a tokio runtime of one thread with its clock stopped. The
//! world runs one of them at a time until nothing in it can go on, then the
//! next; when none can, time jumps to the next timer. Which of several comes
//! first is drawn. Killing a process drops its runtime, and with it every task
//! at whichever await it stood; pausing one means not to run it while time goes
//! on, so that it later continues as if nothing had happened.

mod chance;
mod log;
mod process;
mod timers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use yakumo_types::Env;

pub use self::chance::Chance;
pub use self::log::Log;
use self::process::Process;
pub use self::process::ProcessId;
use self::timers::{SimulatedClock, Timers};

/// A runtime's own timers, which only bound things, are looked at this often.
const GLANCE: Duration = Duration::from_millis(500);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processes, time and chance of one run.
pub struct World {
    seed: u64,
    timers: Arc<Timers>,
    chance: Arc<Chance>,
    log: Arc<Log>,
    processes: Vec<Process>,
}

impl World {
    /// An empty world in which everything is drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            timers: Arc::new(Timers::new(Chance::of(seed, "timers"))),
            chance: Arc::new(Chance::of(seed, "world")),
            log: Arc::default(),
            processes: Vec::new(),
        }
    }

    /// Everything that happened.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Puts a line into the log.
    pub fn note(&self, what: &str) {
        self.log.note(self.now(), "world", what);
    }

    /// What the scenario draws from.
    pub fn chance(&self) -> &Arc<Chance> {
        &self.chance
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.timers.now()
    }

    /// This world's clock, and chance of its own for whoever is called `name`.
    pub fn env(&self, name: &str) -> Env {
        Env {
            clock: Arc::new(SimulatedClock(Arc::clone(&self.timers))),
            rng: Arc::new(Chance::of(self.seed, name)),
        }
    }

    /// Something that puts lines into the log in the name of `who`.
    pub fn noter(&self, who: &'static str) -> Arc<dyn Fn(&str) + Send + Sync> {
        let (log, timers) = (Arc::clone(&self.log), Arc::clone(&self.timers));
        Arc::new(move |what| log.note(timers.now(), who, what))
    }

    /// A process in which nothing runs yet.
    ///
    /// # Errors
    /// If the system has no room for another runtime.
    pub fn start(&mut self, name: &str) -> anyhow::Result<ProcessId> {
        let id = ProcessId(self.processes.len());
        self.log.note(self.now(), name, "starts");
        self.processes.push(Process::start(name, self.now())?);
        Ok(id)
    }

    /// Does within a process what needs its runtime and waits for nothing.
    ///
    /// # Errors
    /// If the process is gone, or if `work` waits for something after all.
    pub fn within<T>(&mut self, id: ProcessId, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let process = self
            .processes
            .get(id.0)
            .context("there is no such process")?;
        process.within(work)
    }

    /// Runs `work` in a process and everything else along with it, until it is
    /// done or `length` has passed.
    pub fn complete<T: Send + 'static>(
        &mut self,
        id: ProcessId,
        length: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        self.spawn(id, async move {
            let value = work.await;
            *lock(&result) = Some(value);
        });
        let every = Duration::from_millis(100);
        self.run_until(length, every, |_| lock(&slot).is_some());
        lock(&slot).take()
    }

    /// Runs `task` in a process, from the next turn on.
    pub fn spawn(&mut self, id: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = self.processes.get(id.0) {
            process.spawn(task);
        }
    }

    /// Ends a process at once: its tasks are dropped where they stand.
    pub fn kill(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id.0)
            && process.end()
        {
            self.log
                .note(self.timers.now(), process.name(), "is killed");
        }
    }

    /// Stops a process without its knowing, for as long as `length`.
    pub fn pause(&mut self, id: ProcessId, length: Duration) {
        let until = self.now() + length;
        if let Some(process) = self.processes.get_mut(id.0) {
            process.pause_until(until);
            let what = format!("is paused for {length:?}");
            self.log.note(self.timers.now(), process.name(), &what);
            self.timers.touch_at(until);
        }
    }

    /// Whether the process is there, paused or not.
    pub fn is_alive(&self, id: ProcessId) -> bool {
        self.processes.get(id.0).is_some_and(Process::is_alive)
    }

    /// Lets `length` pass.
    pub fn run_for(&mut self, length: Duration) {
        let until = self.now() + length;
        self.timers.touch_at(until);
        while self.step(until) {}
    }

    /// Lets so many things happen (a process's turn, a timer), but no more time
    /// pass than `length`: where much happens, little time passes.
    pub fn run_events(&mut self, count: u64, length: Duration) {
        let until = self.now() + length;
        self.timers.touch_at(until);
        for _ in 0..count {
            if !self.step(until) {
                return;
            }
        }
    }

    /// Lets time pass until `done` says so, which is asked every `every`, or
    /// until `length` has passed; returns whether it did say so.
    pub fn run_until(
        &mut self,
        length: Duration,
        every: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> bool {
        let until = self.now() + length;
        loop {
            if done(self) {
                return true;
            }
            if self.now() >= until {
                return false;
            }
            self.run_for(every);
        }
    }

    /// Runs one process, or lets the next timer ring. False once nothing is
    /// left to do up to `until`.
    fn step(&mut self, until: Duration) -> bool {
        let now = self.now();
        let ready: Vec<usize> = (0..self.processes.len())
            .filter(|index| {
                self.processes
                    .get(*index)
                    .is_some_and(|process| process.is_ready(now, GLANCE))
            })
            .collect();
        let count = u64::try_from(ready.len()).unwrap_or(u64::MAX);
        if count > 0 {
            let drawn = usize::try_from(self.chance.below(count)).unwrap_or(0);
            if let Some(process) = ready
                .get(drawn)
                .and_then(|index| self.processes.get_mut(*index))
            {
                process.run(now);
            }
            return true;
        }
        self.timers.ring_next(until)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.end();
        }
    }
}

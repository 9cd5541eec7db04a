//! One simulated process: a runtime of its own.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use super::lock;

/// A process of one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(pub(super) usize);

pub(super) struct Process {
    name: String,
    runtime: Option<Runtime>,
    idle: Arc<Idle>,
    /// Where its own clock stands.
    at: Duration,
    paused_until: Duration,
}

/// Says when a runtime has nothing left to do.
#[derive(Default)]
struct Idle {
    reached: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Idle {
    fn reach(&self) {
        self.reached.store(true, Ordering::Relaxed);
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }

    async fn reached(&self) {
        self.reached.store(false, Ordering::Relaxed);
        poll_fn(|context| {
            if self.reached.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *lock(&self.waker) = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Process {
    pub(super) fn start(name: &str, now: Duration) -> anyhow::Result<Self> {
        let idle = Arc::new(Idle::default());
        let parks = Arc::clone(&idle);
        let runtime = Builder::new_current_thread()
            .enable_time()
            // Its clock moves only when the world says so.
            .start_paused(true)
            .on_thread_park(move || parks.reach())
            .build()?;
        Ok(Self {
            name: name.to_owned(),
            runtime: Some(runtime),
            idle,
            at: now,
            paused_until: Duration::ZERO,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_alive(&self) -> bool {
        self.runtime.is_some()
    }

    pub(super) fn within<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let runtime = self.runtime.as_ref().context("the process is gone")?;
        runtime.block_on(async {
            tokio::select! {
                biased;
                value = work => Ok(value),
                () = self.idle.reached() => Err(anyhow::anyhow!("this waits for something")),
            }
        })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(task));
        }
    }

    pub(super) fn pause_until(&mut self, until: Duration) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Drops all tasks; whether there were any to drop.
    pub(super) fn end(&mut self) -> bool {
        self.runtime.take().is_some()
    }

    /// Whether a task can go on, or one may that waits by the runtime's own
    /// clock, which is behind by `glance` or more.
    pub(super) fn is_ready(&self, now: Duration, glance: Duration) -> bool {
        let Some(runtime) = &self.runtime else {
            return false;
        };
        now >= self.paused_until
            // What was woken from outside waits there, and nothing else is left
            // over from the last turn.
            && (runtime.metrics().global_queue_depth() > 0 || now >= self.at + glance)
    }

    /// Runs it until it has nothing left to do at `now`.
    pub(super) fn run(&mut self, now: Duration) {
        let Some(runtime) = &self.runtime else { return };
        let passed = now.saturating_sub(self.at);
        self.at = now;
        let idle = &self.idle;
        runtime.block_on(async {
            if !passed.is_zero() {
                tokio::time::advance(passed).await;
            }
            idle.reached().await;
        });
    }
}

//! One running program: its tasks, and how it ends.
//!
//! A drain cancels [`Process::shutdown`], which everything that loops must
//! watch, and then waits for the tracked tasks within a bound. Listeners stop
//! accepting and finish what they have; workflow workers give their lease up.
//! What must be there until all of that has happened (the operators' listener)
//! is spawned by [`Process::spawn_attendant`] and ended last.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use yakumo_types::Env;

use crate::health::{ComponentHealth, HealthRegistry};

/// How long running work may take once the process ends, unless it is told.
const DRAIN: Duration = Duration::from_secs(20);

/// One running program, or one service of it; a cheap handle.
#[derive(Clone, Debug)]
pub struct Process {
    /// The clock and chance.
    pub env: Env,
    /// The service's name, for logs.
    pub name: Arc<str>,
    /// Cancelled when the process must end.
    pub shutdown: CancellationToken,
    /// What it says about its health.
    pub health: HealthRegistry,
    tasks: TaskTracker,
    /// The names of those that run, and of how many.
    running: Running,
    attendants: TaskTracker,
    /// Cancelled when a drain is over.
    drained: CancellationToken,
    drain_bound: Duration,
}

/// Tasks by name.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// Counts until it is dropped.
struct Runs(Running, &'static str);

impl Running {
    fn count(&self, name: &'static str) -> Runs {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(name).or_default() += 1;
        drop(all);
        Runs(self.clone(), name)
    }

    fn names(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<&str> = all.keys().copied().collect();
        names.join(", ")
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                all.remove(self.1);
            }
        }
    }
}

impl Process {
    /// A process without tasks.
    pub fn new(name: &str, env: Env) -> Self {
        Self {
            env,
            name: name.into(),
            shutdown: CancellationToken::new(),
            health: HealthRegistry::default(),
            tasks: TaskTracker::new(),
            running: Running::default(),
            attendants: TaskTracker::new(),
            drained: CancellationToken::new(),
            drain_bound: DRAIN,
        }
    }

    /// The same process with another bound for what runs when it ends; to be
    /// said before anything is started.
    #[must_use]
    pub fn with_drain_bound(self, drain_bound: Duration) -> Self {
        Self {
            drain_bound,
            ..self
        }
    }

    /// How long requests that run may take once the process ends.
    pub fn drain_bound(&self) -> Duration {
        self.drain_bound
    }

    /// The same process under the name of one of its services: shares
    /// shutdown, health and tasks.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self {
            name: name.into(),
            ..self.clone()
        }
    }

    /// A part that can be ended on its own: it ends with this process, and
    /// not the other way round. Health is shared.
    #[must_use]
    pub fn part(&self, name: &str) -> Self {
        Self {
            env: self.env.clone(),
            name: name.into(),
            shutdown: self.shutdown.child_token(),
            health: self.health.clone(),
            tasks: TaskTracker::new(),
            running: Running::default(),
            attendants: TaskTracker::new(),
            drained: self.drained.child_token(),
            drain_bound: self.drain_bound,
        }
    }

    /// Runs `future` in the background until it ends; a drain waits for it.
    ///
    /// A panic is logged and marks the task as down in the health report: the
    /// process goes on, and whoever watches it can decide to restart it.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let service = Arc::clone(&self.name);
        let health = self.health.clone();
        let runs = self.running.count(name);
        self.tasks.spawn(async move {
            let _runs = runs;
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                let reason = panic_text(&*panic);
                error!(
                    service = &*service,
                    task = name,
                    reason,
                    "a background task panicked"
                );
                metrics::counter!("yakumo_task_panics_total", "task" => name).increment(1);
                health.set(
                    &format!("task {service}/{name}"),
                    ComponentHealth::Down(format!("panicked: {reason}")),
                );
            }
        });
    }

    /// Runs `future` in the background until it ends or a drain is over. A drain
    /// does not wait for it: it attends to the process until everything else
    /// has ended.
    pub fn spawn_attendant(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let (service, drained) = (Arc::clone(&self.name), self.drained.clone());
        self.attendants.spawn(async move {
            tokio::select! {
                outcome = AssertUnwindSafe(future).catch_unwind() => if let Err(panic) = outcome {
                    let reason = panic_text(&*panic);
                    error!(service = &*service, task = name, reason, "a background task panicked");
                    metrics::counter!("yakumo_task_panics_total", "task" => name).increment(1);
                },
                () = drained.cancelled() => {}
            }
        });
    }

    /// How many background tasks run.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Ends everything: cancels `shutdown` and waits for the tasks, at most
    /// for `bound`. Returns whether all of them ended.
    pub async fn drain(&self, bound: Duration) -> bool {
        self.shutdown.cancel();
        self.tasks.close();
        let in_order = tokio::time::timeout(bound, self.tasks.wait()).await.is_ok();
        if !in_order {
            warn!(
                service = &*self.name,
                tasks = self.tasks.len(),
                names = %self.running.names(),
                "some tasks did not end within the bound"
            );
        }
        // These end by themselves once they are told.
        self.drained.cancel();
        self.attendants.close();
        self.attendants.wait().await;
        in_order
    }

    /// Waits for SIGTERM, SIGINT or `shutdown`, then drains. A second signal
    /// ends the wait. Returns whether everything ended in order.
    pub async fn run_until_signal(&self, bound: Duration) -> std::io::Result<bool> {
        tokio::select! {
            signal = wait_for_signal() => info!(signal = signal?, "draining"),
            () = self.shutdown.cancelled() => info!("draining"),
        }
        tokio::select! {
            ended = self.drain(bound) => Ok(ended),
            signal = wait_for_signal() => {
                warn!(signal = signal?, "second signal: not waiting any longer");
                Ok(false)
            }
        }
    }
}

/// Waits for SIGTERM or SIGINT and says which.
pub async fn wait_for_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system_env;

    #[tokio::test]
    async fn a_drain_waits_for_what_runs() {
        let process = Process::new("test", system_env());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let shutdown = process.shutdown.clone();
        process.spawn("loop", async move {
            shutdown.cancelled().await;
            let _ = sender.send(());
        });
        assert!(process.drain(Duration::from_secs(5)).await);
        receiver.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_never_ends_does_not_hold_a_drain_forever() {
        let process = Process::new("test", system_env());
        process.spawn("stuck", std::future::pending());
        process.spawn("done", std::future::ready(()));
        assert!(!process.drain(Duration::from_millis(20)).await);
        assert_eq!(process.running.names(), "stuck");
    }

    #[tokio::test]
    async fn an_attendant_is_there_until_the_drain_is_over_and_does_not_prolong_it() {
        let process = Process::new("test", system_env());
        let (there, still_there) = tokio::sync::oneshot::channel::<()>();
        process.spawn_attendant("attendant", async move {
            let _there = there;
            std::future::pending().await
        });
        let (go_on, may_end) = tokio::sync::oneshot::channel::<()>();
        process.spawn("work", async move {
            let _ = may_end.await;
        });
        let draining = tokio::spawn({
            let process = process.clone();
            async move { process.drain(Duration::from_secs(5)).await }
        });
        process.shutdown.cancelled().await;
        let mut still_there = still_there;
        assert!(futures::poll!(&mut still_there).is_pending());
        go_on.send(()).unwrap();
        assert!(draining.await.unwrap());
        assert!(futures::poll!(&mut still_there).is_ready());
    }

    #[tokio::test]
    async fn a_panic_shows_in_the_health_report() {
        let process = Process::new("test", system_env());
        process.spawn("careless", async { panic!("oh no") });
        assert!(process.drain(Duration::from_secs(5)).await);
        let report = process.health.report();
        assert_eq!(report.status, "down");
        assert_eq!(
            report.components["task test/careless"],
            ComponentHealth::Down("panicked: oh no".into())
        );
    }

    #[tokio::test]
    async fn a_part_ends_alone() {
        let process = Process::new("test", system_env());
        let part = process.part("part");
        assert!(part.drain(Duration::from_secs(1)).await);
        assert!(!process.shutdown.is_cancelled());
        let other = process.part("other");
        process.shutdown.cancel();
        assert!(other.shutdown.is_cancelled());
    }
}

//! What runs by itself. A reconciler takes no input: it compares what should
//! be with what is and mends the difference. A timer and a nudge run the same
//! code, so the happy path and recovery cannot drift apart.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::process::{Process, panic_text};

/// A pass may take so long in any case.
const SHORTEST_LIMIT: Duration = Duration::from_secs(600);

/// Compares intent with reality and mends the difference; idempotent.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// For logs, metrics and health, for example `rotate_keys`.
    fn name(&self) -> &'static str;

    /// One whole pass.
    async fn reconcile(&self) -> anyhow::Result<()>;
}

/// Asks a reconciler to run soon. Several nudges before it runs are one.
#[derive(Clone, Debug, Default)]
pub struct Nudge {
    notify: Arc<Notify>,
}

impl Nudge {
    /// A nudge that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs the reconciler soon.
    pub fn nudge(&self) {
        self.notify.notify_one();
    }

    /// Waits for the next nudge; one that came before counts.
    pub async fn nudged(&self) {
        self.notify.notified().await;
    }
}

/// Runs `reconciler` now, then every `every` (give or take a tenth, so that
/// replicas don't march in step) and on every nudge, until the process ends.
/// A failed pass is logged, marks the component as degraded, and is tried
/// again after a delay that doubles from a second up to `every`. One that takes
/// ten times `every`, and ten minutes at the least, is given up and has failed:
/// whatever it waits for may never come.
pub fn drive_reconciler(
    process: &Process,
    reconciler: Arc<dyn Reconciler>,
    every: Duration,
) -> Nudge {
    let nudge = Nudge::new();
    let task = drive(process.clone(), reconciler, every, nudge.clone());
    process.spawn("reconciler", task);
    nudge
}

async fn drive(process: Process, reconciler: Arc<dyn Reconciler>, every: Duration, nudge: Nudge) {
    let name = reconciler.name();
    let health = process
        .health
        .component(&format!("reconciler {}/{name}", process.name));
    let mut failures: u32 = 0;
    loop {
        let started = process.env.clock.monotonic();
        let limit = every.saturating_mul(10).max(SHORTEST_LIMIT);
        let outcome = tokio::select! {
            biased;
            outcome = AssertUnwindSafe(reconciler.reconcile()).catch_unwind() => outcome,
            () = process.env.clock.sleep(limit) => {
                Ok(Err(anyhow::anyhow!("it took longer than {limit:?} and was given up")))
            }
            () = process.shutdown.cancelled() => return,
        };
        let took = process.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("yakumo_reconcile_seconds", "reconciler" => name)
            .record(took.as_secs_f64());
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
        };
        match error {
            None => {
                if failures > 0 {
                    health.up();
                }
                failures = 0;
                debug!(reconciler = name, took = ?took, "reconciled");
            }
            Some(error) => {
                failures = failures.saturating_add(1);
                metrics::counter!("yakumo_reconcile_failures_total", "reconciler" => name)
                    .increment(1);
                warn!(
                    reconciler = name,
                    failures, error, "a pass failed; it will be tried again"
                );
                health.degraded(error);
            }
        }
        let pause = if failures == 0 {
            jittered(&process, every)
        } else {
            let doubled = Duration::from_secs(1u64 << failures.saturating_sub(1).min(16));
            jittered(&process, doubled.min(every))
        };
        tokio::select! {
            biased;
            () = process.env.clock.sleep(pause) => {}
            () = nudge.nudged() => {}
            () = process.shutdown.cancelled() => return,
        }
    }
}

fn jittered(process: &Process, every: Duration) -> Duration {
    every - every / 10 + process.env.rng.within(every / 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system_env;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Counting {
        passes: AtomicU32,
        done: Notify,
        fail_first: bool,
    }

    #[async_trait]
    impl Reconciler for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        async fn reconcile(&self) -> anyhow::Result<()> {
            let pass = self.passes.fetch_add(1, Ordering::SeqCst);
            self.done.notify_one();
            if self.fail_first && pass == 0 {
                anyhow::bail!("not yet");
            }
            Ok(())
        }
    }

    /// Pauses are over at once; counts passes that never end by themselves.
    struct Stuck(AtomicU32);

    #[async_trait]
    impl Reconciler for Stuck {
        fn name(&self) -> &'static str {
            "stuck"
        }

        async fn reconcile(&self) -> anyhow::Result<()> {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
    }

    struct Hasty;

    impl yakumo_types::Clock for Hasty {
        fn now(&self) -> yakumo_types::Timestamp {
            yakumo_types::Timestamp::from_micros(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> futures::future::BoxFuture<'static, ()> {
            tokio::task::yield_now().boxed()
        }
    }

    #[tokio::test]
    async fn a_pass_that_hangs_is_given_up_and_tried_again() {
        let env = yakumo_types::Env {
            clock: Arc::new(Hasty),
            ..system_env()
        };
        let process = Process::new("test", env);
        let reconciler = Arc::new(Stuck(AtomicU32::new(0)));
        drive_reconciler(&process, reconciler.clone(), Duration::from_secs(1));
        let again = async {
            while reconciler.0.load(Ordering::SeqCst) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), again)
            .await
            .unwrap();
        let report = process.health.report();
        assert_eq!(report.status, "degraded", "{report:?}");
        assert!(process.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_nudge_runs_it_without_waiting_for_the_timer() {
        let process = Process::new("test", system_env());
        let reconciler = Arc::new(Counting {
            passes: AtomicU32::new(0),
            done: Notify::new(),
            fail_first: true,
        });
        let nudge = drive_reconciler(&process, reconciler.clone(), Duration::from_secs(3600));
        reconciler.done.notified().await;
        nudge.nudge();
        tokio::time::timeout(Duration::from_secs(5), reconciler.done.notified())
            .await
            .unwrap();
        assert!(process.drain(Duration::from_secs(5)).await);
        assert_eq!(reconciler.passes.load(Ordering::SeqCst), 2);
    }
}

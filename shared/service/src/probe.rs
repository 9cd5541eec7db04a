//! Asking again and again whether something outside the process answers.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tracing::{info, warn};
use yakumo_types::Ailment;

use crate::process::Process;

/// The pause between two questions while all is well.
const EVERY: Duration = Duration::from_secs(5);
/// The pause after a question that was not answered.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an answer may take.
const BOUND: Duration = Duration::from_secs(5);

/// Runs `open` until it succeeds, and says in the health of `component` what is
/// wrong meanwhile: a service waits for what it cannot do without, and comes up
/// by itself.
///
/// # Errors
/// What `open` says that does not pass.
pub async fn wait_for<T, E, F>(
    process: &Process,
    component: &str,
    passes: impl Fn(&E) -> bool,
    mut open: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    let health = process.health.component(component);
    let mut said = String::new();
    loop {
        let error = match open().await {
            Ok(opened) => {
                health.up();
                return Ok(opened);
            }
            Err(error) if passes(&error) => error,
            Err(error) => return Err(error),
        };
        let problem = error.to_string();
        health.down(problem.clone());
        // It may be away for hours: what is known stays said once.
        if problem != said {
            warn!(component, problem, "waiting for it");
            said = problem;
        }
        process.env.clock.sleep(AGAIN).await;
    }
}

/// Keeps the health of `component` by asking `probe` until the process ends.
///
/// One question without an answer makes it degraded (a pool may have been busy
/// for a moment), a second one in a row makes it down; one answer makes it up.
/// So it is down at the latest 16 seconds after it went away. What is wrong with
/// only a part of it leaves it degraded for as long as that is so.
pub fn probe<F, E>(
    process: &Process,
    component: &str,
    mut probe: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = Result<(), E>> + Send,
    E: Ailment + Send,
{
    let health = process.health.component(component);
    let (clock, shutdown) = (process.env.clock.clone(), process.shutdown.clone());
    let component = component.to_owned();
    let ask = async move {
        let mut failures = 0_u32;
        loop {
            let problem = match tokio::time::timeout(BOUND, probe()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((error.to_string(), error.is_partial())),
                Err(_) => Some(("no answer in time".to_owned(), false)),
            };
            match problem {
                None if failures == 0 => {}
                None => {
                    info!(component, failures, "it answers again as it should");
                    failures = 0;
                    health.up();
                }
                Some((problem, is_partial)) => {
                    failures = failures.saturating_add(1);
                    if failures == 2 {
                        warn!(
                            component,
                            problem, "it does not answer, or not as it should"
                        );
                    }
                    if failures == 1 || is_partial {
                        health.degraded(problem);
                    } else {
                        health.down(problem);
                    }
                }
            }
            clock.sleep(if failures == 0 { EVERY } else { AGAIN }).await;
        }
    };
    process.spawn("probe", async move {
        tokio::select! {
            () = ask => {}
            () = shutdown.cancelled() => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt;
    use futures::future::BoxFuture;
    use tokio::sync::Mutex;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use yakumo_types::{Clock, Env, Timestamp};

    use super::*;
    use crate::health::ComponentHealth;
    use crate::system_env;

    /// A pause ends when the test says so.
    struct ByHand(Arc<Mutex<UnboundedReceiver<()>>>);

    impl Clock for ByHand {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            let turns = Arc::clone(&self.0);
            async move {
                let _ = turns.lock().await.recv().await;
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn what_does_not_answer_twice_is_down_until_it_answers() {
        let (turn, turns) = unbounded_channel();
        let env = Env {
            clock: Arc::new(ByHand(Arc::new(Mutex::new(turns)))),
            ..system_env()
        };
        let process = Process::new("test", env);
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        probe(&process, "database test", move || {
            let away = (1..=3).contains(&count.fetch_add(1, Ordering::SeqCst));
            async move { if away { Err("gone") } else { Ok(()) } }
        });
        for (number, wanted) in ["up", "degraded", "down", "down", "up"].iter().enumerate() {
            let so = || {
                let report = process.health.report();
                asked.load(Ordering::SeqCst) as usize == number + 1 && report.status == *wanted
            };
            let wait = async {
                while !so() {
                    tokio::task::yield_now().await;
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(10), wait).await;
            assert!(ended.is_ok(), "{number}: {:?}", process.health.report());
            if *wanted == "down" {
                assert_eq!(
                    process.health.report().components["database test"],
                    ComponentHealth::Down("gone".into())
                );
            }
            turn.send(()).unwrap();
        }
        assert!(process.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn what_is_waited_for_is_down_until_it_is_there_and_what_never_comes_is_said() {
        let (turn, turns) = unbounded_channel();
        let env = Env {
            clock: Arc::new(ByHand(Arc::new(Mutex::new(turns)))),
            ..system_env()
        };
        let process = Process::new("test", env);
        let health = || process.health.report().components["database test"].clone();
        let mut tries = 0;
        let opened = wait_for(
            &process,
            "database test",
            |error| *error == "away",
            || {
                tries += 1;
                let there = tries == 3;
                async move { if there { Ok(7) } else { Err("away") } }
            },
        );
        let watched = async {
            for _ in 0..2 {
                while health() != ComponentHealth::Down("away".into()) {
                    tokio::task::yield_now().await;
                }
                turn.send(()).unwrap();
            }
        };
        let both = async { tokio::join!(opened, watched).0 };
        let opened = tokio::time::timeout(Duration::from_secs(10), both).await;
        assert_eq!(opened.unwrap(), Ok(7));
        assert_eq!(health(), ComponentHealth::Up);
        let refused = wait_for(
            &process,
            "database test",
            |error| *error == "away",
            || async { Err::<(), _>("no such user") },
        );
        assert_eq!(refused.await, Err("no such user"));
    }
}

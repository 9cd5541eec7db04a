//! Children that are held up: started again when they end, recognised after a
//! restart of ours, and never left twice.
//!
//! The pid file holds `<pid> <start time>`; the start time (clock ticks since
//! boot, from `/proc/<pid>/stat`) tells the process from a later one that got
//! the same number. A child has its own process group, so that a Ctrl-C at a
//! terminal does not reach it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use yakumo_types::Env;

use crate::command::command_line;
use crate::files::{read_if_there, remove_durably, write_durably};

/// Between the end of a program and its next start, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest that the pause grows to.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What happens to a process that an earlier life of ours left running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// It is ended, and a new one started.
    Replace,
    /// It is kept and watched, and a new one is started only when it ends.
    Adopt,
}

/// A program to keep running.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// For the log.
    pub name: String,
    /// The program.
    pub program: String,
    /// Its arguments; it must stay in the foreground.
    pub args: Vec<String>,
    /// The network namespace that it runs in.
    pub netns: Option<String>,
    /// Where its identity is kept.
    pub pid_file: PathBuf,
    /// Where its output goes; nowhere if `None`.
    pub log_file: Option<PathBuf>,
    /// What to do with one that is running already.
    pub leftover: Leftover,
}

enum Order {
    Restart(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
    Abandon,
}

/// How a program failed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// How often it could not be started, or ended by itself.
    pub count: u64,
    /// What was wrong the last time; empty when nothing ever was.
    pub last: String,
}

/// A handle on a program that is being kept running. Dropping it leaves the
/// program as it is: it goes on, without being watched.
pub struct Child {
    orders: mpsc::Sender<Order>,
    running: watch::Receiver<Option<u32>>,
    failures: watch::Receiver<Failures>,
}

impl Child {
    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        *self.running.borrow()
    }

    /// How it failed since it is being kept running.
    pub fn failures(&self) -> Failures {
        self.failures.borrow().clone()
    }

    /// Waits until it runs; false after the bound.
    pub async fn wait_running(&self, bound: Duration) -> bool {
        let mut running = self.running.clone();
        tokio::time::timeout(bound, running.wait_for(Option::is_some))
            .await
            .is_ok_and(|result| result.is_ok())
    }

    /// Ends it and starts it anew; returns when the new one runs.
    pub async fn restart(&self) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Restart(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Ends it for good: asked, then killed after two seconds.
    pub async fn stop(self) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Stops watching it and leaves it running.
    pub async fn abandon(self) {
        let _ = self.orders.send(Order::Abandon).await;
    }
}

/// Starts a program and keeps it running until it is stopped.
pub fn keep_running(env: Env, spec: ChildSpec) -> Child {
    let (orders, inbox) = mpsc::channel(4);
    let (state, running) = watch::channel(None);
    let (failed, failures) = watch::channel(Failures::default());
    tokio::spawn(supervise(env, Arc::new(spec), inbox, state, failed));
    Child {
        orders,
        running,
        failures,
    }
}

/// The identity of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Clock ticks since boot at which it started.
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The identity of a process that is alive and not a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may itself hold blanks and parentheses.
        let rest = stat.rsplit_once(')')?.1;
        let mut fields = rest.split_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// Reads a pid file; `None` if there is none or it makes no sense.
    pub fn read(pid_file: &Path) -> Option<Self> {
        let content = read_if_there(pid_file).ok()??;
        let text = String::from_utf8(content).ok()?;
        let (pid, start_time) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    /// Whether that very process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Keeps the identity in a pid file. Blocks for an fsync.
    pub fn write(self, pid_file: &Path) -> io::Result<()> {
        write_durably(
            pid_file,
            format!("{} {}\n", self.pid, self.start_time).as_bytes(),
            0o644,
        )
    }

    fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks the process to end, kills it after two seconds, and returns when it is gone.
    pub async fn end(self, env: &Env) {
        self.signal(Signal::SIGTERM);
        for _ in 0..200 {
            if !self.is_alive() {
                return;
            }
            env.clock.sleep(Duration::from_millis(10)).await;
        }
        self.signal(Signal::SIGKILL);
        for _ in 0..200 {
            if !self.is_alive() {
                return;
            }
            env.clock.sleep(Duration::from_millis(10)).await;
        }
        tracing::warn!(pid = self.pid, "the process does not end");
    }
}

/// Ends what a pid file names, if it still runs, and removes the file.
pub async fn end_leftover(env: &Env, pid_file: &Path) {
    if let Some(identity) = ProcessIdentity::read(pid_file) {
        identity.end(env).await;
    }
    forget(pid_file).await;
}

/// Removes a pid file. That waits for the disk, and this runtime must not.
async fn forget(pid_file: &Path) {
    let path = pid_file.to_owned();
    if let Err(error) = blocking(move || remove_durably(&path)).await {
        tracing::warn!(file = %pid_file.display(), %error, "the pid file stays");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

enum Held {
    Ours(tokio::process::Child, ProcessIdentity),
    Adopted(ProcessIdentity),
}

async fn supervise(
    env: Env,
    spec: Arc<ChildSpec>,
    mut inbox: mpsc::Receiver<Order>,
    state: watch::Sender<Option<u32>>,
    failed: watch::Sender<Failures>,
) {
    let note = |what: String| {
        tracing::warn!(child = %spec.name, what, "the child does not run and is started again");
        failed.send_modify(|failures| {
            failures.count += 1;
            failures.last = what;
        });
    };
    let mut backoff = FIRST_PAUSE;
    let mut leftover = spec.leftover;
    let mut restarted: Option<oneshot::Sender<()>> = None;
    loop {
        let held = match obtain(&env, &spec, leftover).await {
            Ok(held) => Some(held),
            Err(error) => {
                note(format!("it cannot be started: {error}"));
                None
            }
        };
        leftover = Leftover::Replace;
        let began = env.clock.monotonic();
        let _ = state.send(held.as_ref().map(|held| match held {
            Held::Ours(_, identity) | Held::Adopted(identity) => identity.pid,
        }));
        if let Some(done) = restarted.take() {
            let _ = done.send(());
        }
        let mut order = match held {
            None => None,
            Some(Held::Ours(mut child, identity)) => {
                let order = tokio::select! {
                    order = inbox.recv() => Some(order),
                    status = child.wait() => {
                        note(match status {
                            Ok(status) => format!("it ended by itself: {status}"),
                            Err(error) => format!("it was lost: {error}"),
                        });
                        None
                    }
                };
                if matches!(&order, Some(Some(Order::Stop(_) | Order::Restart(_)))) {
                    identity.signal(Signal::SIGTERM);
                    if tokio::time::timeout(Duration::from_secs(2), child.wait())
                        .await
                        .is_err()
                    {
                        let _ = child.kill().await;
                    }
                }
                order
            }
            Some(Held::Adopted(identity)) => {
                let order = tokio::select! {
                    order = inbox.recv() => Some(order),
                    () = gone(&env, identity) => {
                        note("it ended by itself".into());
                        None
                    }
                };
                if matches!(&order, Some(Some(Order::Stop(_) | Order::Restart(_)))) {
                    identity.end(&env).await;
                }
                order
            }
        };
        if order.is_none() {
            let _ = state.send(None);
            if env.clock.monotonic().saturating_sub(began) > Duration::from_secs(30) {
                backoff = FIRST_PAUSE;
            }
            // Whoever wants it stopped does not wait for the next attempt.
            order = tokio::select! {
                order = inbox.recv() => Some(order),
                () = env.clock.sleep(backoff) => None,
            };
            backoff = (backoff * 2).min(LONGEST_PAUSE);
        }
        match order {
            Some(None | Some(Order::Abandon)) => return,
            Some(Some(Order::Stop(done))) => {
                let _ = state.send(None);
                forget(&spec.pid_file).await;
                let _ = done.send(());
                return;
            }
            Some(Some(Order::Restart(done))) => restarted = Some(done),
            None => {}
        }
    }
}

async fn gone(env: &Env, identity: ProcessIdentity) {
    while identity.is_alive() {
        env.clock.sleep(Duration::from_millis(250)).await;
    }
}

async fn obtain(env: &Env, spec: &ChildSpec, leftover: Leftover) -> io::Result<Held> {
    if leftover == Leftover::Adopt
        && let Some(identity) = ProcessIdentity::read(&spec.pid_file)
        && identity.is_alive()
    {
        return Ok(Held::Adopted(identity));
    }
    end_leftover(env, &spec.pid_file).await;
    let netns = spec.netns.as_deref().filter(|name| !name.is_empty());
    let words = command_line(netns, None, &spec.program, &spec.args);
    let mut words = words.into_iter();
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the room that starts processes"
    )]
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .process_group(0);
    match &spec.log_file {
        Some(path) => {
            let log = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        None => {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    let child = command.spawn()?;
    let identity = child
        .id()
        .and_then(ProcessIdentity::of)
        .ok_or_else(|| io::Error::other("it ended at once"))?;
    let pid_file = spec.pid_file.clone();
    blocking(move || identity.write(&pid_file)).await?;
    Ok(Held::Ours(child, identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use yakumo_types::{Clock, Rng, Timestamp};

    struct Real(std::time::Instant);

    #[allow(clippy::disallowed_methods, reason = "the test's own clock")]
    impl Clock for Real {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(1)
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            Box::pin(tokio::time::sleep(duration))
        }
    }

    struct NoChance;

    impl Rng for NoChance {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(7);
        }
    }

    fn env() -> Env {
        Env {
            clock: Arc::new(Real(std::time::Instant::now())),
            rng: Arc::new(NoChance),
        }
    }

    fn spec(name: &str, leftover: Leftover) -> ChildSpec {
        let folder = std::env::temp_dir().join(format!("yk-child-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        ChildSpec {
            name: name.into(),
            program: "sleep".into(),
            args: vec!["600".into()],
            netns: None,
            pid_file: folder.join("pid"),
            log_file: None,
            leftover,
        }
    }

    async fn other_than(child: &Child, old: u32) -> u32 {
        let mut running = child.running.clone();
        let wait = running.wait_for(|pid| pid.is_some_and(|pid| pid != old));
        let found = tokio::time::timeout(Duration::from_secs(10), wait).await;
        found.unwrap().unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_until_it_is_stopped() {
        let spec = spec("restart", Leftover::Replace);
        let pid_file = spec.pid_file.clone();
        let child = keep_running(env(), spec);
        let first = other_than(&child, 0).await;
        kill(
            Pid::from_raw(i32::try_from(first).unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        let second = other_than(&child, first).await;
        assert_eq!(ProcessIdentity::read(&pid_file).unwrap().pid, second);
        child.restart().await;
        let third = other_than(&child, second).await;
        child.stop().await;
        for pid in [first, second, third] {
            assert_eq!(ProcessIdentity::of(pid), None, "{pid} still runs");
        }
        assert!(!pid_file.exists());
        std::fs::remove_dir(pid_file.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_leftover_is_adopted_or_replaced_as_wished() {
        let wanted = spec("leftover", Leftover::Adopt);
        let folder = wanted.pid_file.parent().unwrap().to_owned();
        let child = keep_running(env(), wanted.clone());
        let first = other_than(&child, 0).await;
        child.abandon().await;
        let child = keep_running(env(), wanted.clone());
        assert_eq!(other_than(&child, 0).await, first);
        child.abandon().await;
        let child = keep_running(
            env(),
            ChildSpec {
                leftover: Leftover::Replace,
                ..wanted
            },
        );
        assert_ne!(other_than(&child, 0).await, first);
        child.stop().await;
        assert_eq!(ProcessIdentity::of(first), None);
        std::fs::remove_dir(folder).unwrap();
    }

    /// Time stands still: no pause ever ends.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(1)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    async fn until_it_failed(child: &Child) {
        let mut failures = child.failures.clone();
        failures
            .wait_for(|failures| failures.count > 0)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_order_does_not_wait_for_the_next_attempt() {
        let still = Env {
            clock: Arc::new(Still),
            rng: Arc::new(NoChance),
        };
        let missing = ChildSpec {
            program: "no-such-program".into(),
            ..spec("missing", Leftover::Replace)
        };
        let folder = missing.pid_file.parent().unwrap().to_owned();
        let child = keep_running(still.clone(), missing);
        until_it_failed(&child).await;
        assert!(child.failures().last.contains("cannot be started"));
        // Each of these would wait for ever.
        child.restart().await;
        assert_eq!(child.pid(), None);
        child.stop().await;
        let short = ChildSpec {
            program: "false".into(),
            args: Vec::new(),
            ..spec("missing", Leftover::Replace)
        };
        let child = keep_running(still, short);
        until_it_failed(&child).await;
        child.stop().await;
        std::fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_number_alone_is_no_identity() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = ProcessIdentity {
            start_time: me.start_time + 1,
            ..me
        };
        assert!(!other.is_alive());
    }
}

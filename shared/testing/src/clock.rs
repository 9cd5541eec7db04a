//! A clock whose time of day a test can put back and forward, as an operator or
//! a time server does under a running process. Durations go on as they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use yakumo_types::{Clock, Env, Timestamp};

/// See the module.
pub struct WallClock {
    inner: Arc<dyn Clock>,
    /// Microseconds.
    by: AtomicI64,
}

impl WallClock {
    /// The system's clock and chance, and the means to put that clock.
    pub fn env() -> (Arc<Self>, Env) {
        let system = yakumo_service::system_env();
        let clock = Arc::new(Self {
            inner: system.clock.clone(),
            by: AtomicI64::new(0),
        });
        let env = Env {
            clock: clock.clone(),
            ..system
        };
        (clock, env)
    }

    /// Puts it so far before the system's.
    pub fn put_back(&self, by: Duration) {
        self.by.store(-micros(by), Ordering::SeqCst);
    }

    /// Puts it so far after the system's.
    pub fn put_forward(&self, by: Duration) {
        self.by.store(micros(by), Ordering::SeqCst);
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let now = self.inner.now().as_micros();
        Timestamp::from_micros(now.saturating_add(self.by.load(Ordering::SeqCst)))
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }
}

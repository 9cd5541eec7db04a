//! What a program cannot compute: the time and chance. Everything takes them
//! from here, so that a simulation can play them back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::time::Timestamp;

/// The time, and waiting for it.
pub trait Clock: Send + Sync {
    /// The time of day. It may jump; use [`Clock::monotonic`] for durations.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point; never goes backwards.
    fn monotonic(&self) -> Duration;

    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Chance, good enough for ids and for secrets.
pub trait Rng: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A random (version 4) UUID.
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// An even choice below `bound`; zero if `bound` is zero.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        let wide = u128::from_le_bytes(bytes);
        u64::try_from(wide.checked_rem(u128::from(bound)).unwrap_or(0)).unwrap_or(0)
    }

    /// Any time below `bound`, to the microsecond; zero if `bound` is shorter than that.
    fn within(&self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros))
    }

    /// A pause of which half is by chance ("equal jitter"), so that those who began
    /// to wait together do not end together.
    fn equal_jitter(&self, pause: Duration) -> Duration {
        let half = pause / 2;
        half + self.within(half)
    }
}

/// The clock and the chance of one process.
#[derive(Clone)]
pub struct Env {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
}

impl Env {
    /// A fresh typed id, for example `env.id::<ServerId>()`.
    pub fn id<T: From<Uuid>>(&self) -> T {
        T::from(self.rng.uuid())
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Env")
    }
}

//! The real clock and real chance: the one room where the wall clock, sleeping
//! and random numbers are taken from the system.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::RngCore;
use yakumo_types::{Clock, Env, Rng, Timestamp};

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        Timestamp::from_micros(micros)
    }

    #[allow(clippy::disallowed_methods)]
    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    #[allow(clippy::disallowed_methods)]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, buffer: &mut [u8]) {
        // Thread-local ChaCha, seeded and reseeded by the kernel: fit for secrets.
        rand::rng().fill_bytes(buffer);
    }
}

/// The system's clock and the system's chance.
pub fn system_env() -> Env {
    Env {
        clock: Arc::new(SystemClock),
        rng: Arc::new(SystemRng),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_the_clock_is_of_this_century() {
        let env = system_env();
        assert_ne!(env.rng.uuid(), env.rng.uuid());
        assert!(env.now().as_secs() > 1_700_000_000);
        assert!(env.rng.below(3) < 3);
    }
}

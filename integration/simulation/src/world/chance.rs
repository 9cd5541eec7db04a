//! Chance from a seed: SplitMix64 (Steele, Lea and Flood, 2014), which is short,
//! good enough for choices, and will be the same in ten years.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use yakumo_types::Rng;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers that depends on a seed and a name.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// The stream of `name` under `seed`.
    pub fn of(seed: u64, name: &str) -> Self {
        let mut state = mixed(seed.wrapping_add(GOLDEN));
        for byte in name.bytes() {
            state = mixed(state ^ u64::from(byte)).wrapping_add(GOLDEN);
        }
        Self(AtomicU64::new(state))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        mixed(
            self.0
                .fetch_add(GOLDEN, Ordering::Relaxed)
                .wrapping_add(GOLDEN),
        )
    }

    /// An even choice below `bound`; zero if `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        Rng::below(self, bound)
    }

    /// Whether something happens that does so `thousandths` times of 1000.
    pub fn happens(&self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }

    /// A duration between two, by the millisecond.
    pub fn between(&self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_millis();
        shortest + Duration::from_millis(self.below(u64::try_from(span).unwrap_or(0) + 1))
    }

    /// One of several; nothing if there is none.
    pub fn one_of<'t, T>(&self, all: &'t [T]) -> Option<&'t T> {
        let count = u64::try_from(all.len()).unwrap_or(0);
        all.get(usize::try_from(self.below(count)).unwrap_or(0))
    }
}

impl Rng for Chance {
    fn fill(&self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            for (to, from) in part.iter_mut().zip(bytes) {
                *to = from;
            }
        }
    }
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_that_of_its_seed_and_its_name() {
        let three = |seed, name| {
            let chance = Chance::of(seed, name);
            [chance.next(), chance.next(), chance.next()]
        };
        assert_eq!(three(1, "a"), three(1, "a"));
        assert_ne!(three(1, "a"), three(2, "a"));
        assert_ne!(three(1, "a"), three(1, "b"));
    }
}
